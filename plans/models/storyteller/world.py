"""The small world the stories happen in: who lives where, with whom, and what they own.

Every named character has fixed facts (home, work, trait, treasure, companion), the same
in both languages, so that a model has something to know besides grammar. Forms of words
are given as ``english | portuguese`` with the Portuguese grammatical gender.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

# id: English noun phrase, Portuguese noun phrase, Portuguese gender
Words = dict[str, tuple[str, str, str]]


def _table(text: str) -> Words:
    rows = (line.split("|") for line in text.strip().splitlines())
    return {r[0].strip().replace(" ", "_"): (r[0].strip(), r[1].strip(), r[2].strip()) for r in rows}


THINGS = _table("""
red kite | pipa vermelha | f
silver bell | sino de prata | m
wooden flute | flauta de madeira | f
blue scarf | cachecol azul | m
brass lantern | lanterna de latão | f
old map | mapa antigo | m
small drum | tambor pequeno | m
glass marble | bolinha de vidro | f
straw hat | chapéu de palha | m
golden key | chave dourada | f
paper boat | barco de papel | m
green umbrella | guarda-chuva verde | m
warm blanket | cobertor quente | m
little mirror | espelhinho | m
music box | caixa de música | f
painted mask | máscara pintada | f
leather notebook | caderno de couro | m
pocket watch | relógio de bolso | m
wool mitten | luva de lã | f
copper coin | moeda de cobre | f
clay pot | pote de barro | m
seashell necklace | colar de conchas | m
spinning top | pião | m
rag doll | boneca de pano | f
compass | bússola | f
violin | violino | m
telescope | telescópio | m
feather pen | caneta de pena | f
yellow ribbon | fita amarela | f
wicker basket | cesta de vime | f
striped sock | meia listrada | f
apple pie | torta de maçã | f
jar of honey | pote de mel | m
loaf of bread | pão fresco | m
book of songs | livro de canções | m
bag of seeds | saco de sementes | m
""")

# Tools that free a trapped animal; each goes with the traps that it opens.
TOOLS: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "rope": ("rope", "corda", "f", ("well", "mud")),
    "ladder": ("ladder", "escada", "f", ("well", "tree")),
    "knife": ("knife", "faca", "f", ("net", "brambles")),
    "scissors": ("pair of scissors", "tesoura", "f", ("net", "brambles")),
    "board": ("wide board", "tábua larga", "f", ("mud", "stream")),
    "pole": ("long pole", "vara comprida", "f", ("stream", "tree")),
}
TRAPS: Words = {
    "well": ("a dry well", "num poço seco", "m"),
    "mud": ("the deep mud", "na lama funda", "f"),
    "net": ("a fishing net", "numa rede de pesca", "f"),
    "brambles": ("the brambles", "nos espinhos", "m"),
    "tree": ("the top of a tall tree", "no alto de uma árvore", "f"),
    "stream": ("a rock in the middle of the stream", "numa pedra no meio do riacho", "f"),
}

# English preposition, English name, Portuguese name, gender
PLACES: dict[str, tuple[str, str, str, str]] = {
    key.strip().replace(" ", "_"): (prep.strip(), key.strip(), pt.strip(), gender.strip())
    for prep, key, pt, gender in (
        line.split("|")
        for line in """
at | old mill | moinho velho | m
in | pine forest | floresta de pinheiros | f
on | long beach | praia comprida | f
at | market | mercado | m
in | quiet valley | vale tranquilo | m
on | stone bridge | ponte de pedra | f
at | lighthouse | farol | m
in | orchard | pomar | m
by | river | rio | m
on | green hill | colina verde | f
in | school garden | jardim da escola | m
at | train station | estação de trem | f
in | library | biblioteca | f
at | blacksmith's forge | oficina do ferreiro | f
in | wheat field | campo de trigo | m
by | frozen lake | lago gelado | m
in | hidden cave | caverna escondida | f
at | bakery | padaria | f
in | village square | praça da vila | f
at | harbour | porto | m
in | ruined tower | torre em ruínas | f
by | waterfall | cachoeira | f
in | barn | celeiro | m
on | narrow path | trilha estreita | f
""".strip().splitlines()
    )
}

SPECIES = _table("""
fox | raposa | f
hedgehog | ouriço | m
owl | coruja | f
rabbit | coelho | m
cat | gato | m
dog | cachorro | m
goat | cabra | f
duck | pato | m
squirrel | esquilo | m
deer | veado | m
tortoise | tartaruga | f
crow | corvo | m
donkey | burro | m
sparrow | pardal | m
mouse | rato | m
frog | sapo | m
otter | lontra | f
lamb | cordeiro | m
""")

# English, Portuguese masculine, Portuguese feminine
TRAITS = {
    line.split("|")[0].strip(): tuple(part.strip() for part in line.split("|"))
    for line in """
curious | curioso | curiosa
shy | tímido | tímida
brave | corajoso | corajosa
patient | paciente | paciente
stubborn | teimoso | teimosa
cheerful | alegre | alegre
clever | esperto | esperta
kind | bondoso | bondosa
quiet | calado | calada
clumsy | desajeitado | desajeitada
careful | cuidadoso | cuidadosa
dreamy | sonhador | sonhadora
""".strip().splitlines()
}
WORK = {
    line.split("|")[0].strip(): tuple(part.strip() for part in line.split("|"))
    for line in """
baker | padeiro | padeira
gardener | jardineiro | jardineira
potter | oleiro | oleira
teacher | professor | professora
sailor | marinheiro | marinheira
weaver | tecelão | tecelã
shepherd | pastor | pastora
carpenter | carpinteiro | carpinteira
musician | músico | música
beekeeper | apicultor | apicultora
painter | pintor | pintora
pupil | aluno | aluna
""".strip().splitlines()
}
TOWNS = (
    "Vila Clara",
    "Porto Alto",
    "Serra Azul",
    "Campo Novo",
    "Santa Rosa",
    "Monte Belo",
    "Lagoa Funda",
    "Pedra Branca",
    "Rio Manso",
    "Boa Vista",
)
_GIRLS = (
    "Nina",
    "Clara",
    "Marta",
    "Alice",
    "Júlia",
    "Sara",
    "Helena",
    "Irene",
    "Laura",
    "Beatriz",
    "Olga",
    "Rita",
    "Teresa",
    "Emma",
    "Luna",
    "Vera",
    "Eva",
    "Diana",
    "Cecília",
    "Flora",
    "Ana",
    "Lívia",
    "Isabel",
    "Rosa",
    "Paula",
    "Elisa",
    "Gabriela",
    "Sofia",
    "Mila",
    "Joana",
)
_BOYS = (
    "Tomás",
    "Pedro",
    "Hugo",
    "Bruno",
    "Leo",
    "Daniel",
    "Martim",
    "Rafael",
    "Oscar",
    "Simão",
    "Vitor",
    "Lucas",
    "André",
    "Felipe",
    "Samuel",
    "Gabriel",
    "Nico",
    "Ivo",
    "Otto",
    "Davi",
    "Jonas",
    "Marco",
    "Caio",
    "Elias",
    "Miguel",
    "Artur",
    "Bento",
    "Rui",
    "Paulo",
    "Tiago",
)
_PETS = (
    "Pip",
    "Bolota",
    "Moss",
    "Faísca",
    "Button",
    "Nuvem",
    "Pepper",
    "Canela",
    "Biscuit",
    "Trovão",
    "Shadow",
    "Farofa",
    "Comet",
    "Pipoca",
    "Rusty",
    "Estrela",
    "Olive",
    "Fumaça",
    "Ziggy",
    "Amora",
)


@dataclass(frozen=True)
class Character:
    """A named person; the facts are keys of the tables above. ``gender`` is ``m`` or ``f``."""

    name: str
    gender: str
    trait: str
    work: str
    home: str
    treasure: str
    pet: str
    pet_name: str
    fear: str


FEARS = ("dark", "thunder", "water", "heights", "strangers")


def _populate() -> tuple[Character, ...]:
    rng = random.Random(1959)
    people = []
    for name, gender in [(n, "f") for n in _GIRLS] + [(n, "m") for n in _BOYS]:
        people.append(
            Character(
                name,
                gender,
                rng.choice(list(TRAITS)),
                rng.choice(list(WORK)),
                rng.choice(TOWNS),
                rng.choice(list(THINGS)),
                rng.choice(list(SPECIES)),
                rng.choice(_PETS),
                rng.choice(FEARS),
            )
        )
    return tuple(people)


PEOPLE = _populate()
