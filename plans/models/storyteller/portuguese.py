"""Portuguese: forms of words, and several ways of telling each event of a story.

A template is filled with ``str.format``: ``{a}`` and ``{b}`` are people, ``{a.ele}`` the
pronoun, ``{a:cansado/cansada}`` a word that agrees with the gender (``{ab:…}`` with both
people); ``{o}`` is a thing (``{o.um}``, ``{o.o}``, ``{o.do}``, ``{o.no}``, ``{o.lo}``,
``{o.seu}``), ``{p}`` and ``{q}`` places, ``{s}`` an animal; the rest are plain words.
"""

from __future__ import annotations

from dataclasses import dataclass

from world import PLACES, SPECIES, THINGS, TOOLS, TRAITS, TRAPS, WORK, Character


@dataclass(frozen=True)
class Noun:
    """A word with its gender (``m`` or ``f``) and the forms a template may ask for."""

    text: str
    gender: str = "m"

    def __str__(self) -> str:
        return self.text

    def __format__(self, spec: str) -> str:
        return self._by_gender(*spec.split("/")) if spec else self.text

    def _by_gender(self, masculine: str, feminine: str) -> str:
        return masculine if self.gender == "m" else feminine

    def __getattr__(self, name: str) -> str:
        """``{o.no}`` is the contraction for the noun's gender followed by the noun; see FORMS."""
        try:
            masculine, feminine, with_noun = FORMS[name]
        except KeyError:
            raise AttributeError(name) from None
        form = self._by_gender(masculine, feminine)
        return f"{form} {self.text}" if with_noun else form


#: attribute: masculine, feminine, whether the noun follows
FORMS = {
    "um": ("um", "uma", True),
    "o": ("o", "a", True),
    "do": ("do", "da", True),
    "no": ("no", "na", True),
    "ao": ("ao", "à", True),
    "pelo": ("pelo", "pela", True),
    "seu": ("seu", "sua", True),
    "meu": ("meu", "minha", True),
    "ele": ("ele", "ela", False),
    "dele": ("dele", "dela", False),
    "lo": ("lo", "la", False),
    "so": ("um só", "uma só", True),
}


def person(c: Character) -> Noun:
    return Noun(c.name, c.gender)


def facts(c: Character, prefix: str) -> dict[str, Noun | str]:
    """The slots that speak of a character's fixed facts, named ``<prefix>_trait`` and so on."""
    form = 1 if c.gender == "m" else 2
    return {
        f"{prefix}_trait": Noun(TRAITS[c.trait][form], c.gender),
        f"{prefix}_work": Noun(WORK[c.work][form], c.gender),
        f"{prefix}_home": c.home,
        f"{prefix}_pet": animal(c.pet),
        f"{prefix}_petname": c.pet_name,
        f"{prefix}_treasure": thing(c.treasure),
        f"{prefix}_fear": FEAR[c.fear],
    }


def thing(key: str) -> Noun:
    return Noun(*THINGS[key][1:])


def animal(key: str) -> Noun:
    return Noun(*SPECIES[key][1:])


def place(key: str) -> Noun:
    return Noun(*PLACES[key][2:])


def tool(key: str) -> Noun:
    return Noun(*TOOLS[key][1:3])


def trap(key: str) -> str:
    return TRAPS[key][1]


FEAR = {
    "dark": "do escuro",
    "thunder": "de trovão",
    "water": "de água funda",
    "heights": "de altura",
    "strangers": "de falar com estranhos",
}
SEED = {
    "sunflower": Noun("girassol", "m"),
    "pumpkin": Noun("abóbora", "f"),
    "tomato": Noun("tomateiro", "m"),
    "bean": Noun("pé de feijão", "m"),
    "apple": Noun("macieira", "f"),
    "rose": Noun("roseira", "f"),
}
WEATHER = {
    "wind": (
        "Um vento forte soprava das montanhas.",
        "O vento puxava chapéus e casacos o dia inteiro.",
        "Era um dia de vento e as folhas voavam.",
    ),
    "rain": (
        "Chovia desde a madrugada.",
        "Nuvens cinzentas cobriram os telhados e começou a chover.",
        "A chuva batia em todas as janelas.",
    ),
    "fog": (
        "Uma neblina espessa cobria tudo.",
        "A manhã tinha tanta neblina que as árvores sumiram.",
        "A neblina branca chegou e escondeu a estrada.",
    ),
    "sun": (
        "O sol estava quente e o céu não tinha nuvens.",
        "Era um dia claro e quente.",
        "O sol brilhava como se nunca fosse se pôr.",
    ),
    "snow": (
        "Nevava devagar.",
        "Tinha nevado a noite inteira e o mundo estava branco.",
        "Grandes flocos de neve caíam do céu.",
    ),
}
CRAFT = {
    "cake": (
        "um bolo",
        "ele saiu duro como uma pedra",
        "usar mais manteiga e menos farinha",
        "o bolo mais macio da vila",
    ),
    "boat": (
        "um barquinho",
        "a água entrava pelo fundo",
        "fechar as tábuas com piche quente",
        "um barco que flutuava como um pato",
    ),
    "soup": (
        "uma panela de sopa",
        "ela só tinha gosto de água",
        "pôr sal, alho e um pouco de paciência",
        "uma sopa com um cheiro maravilhoso",
    ),
    "chair": (
        "uma cadeira de madeira",
        "uma perna ficou mais curta que as outras",
        "medir duas vezes antes de cortar",
        "uma cadeira que não balançava nem um pouco",
    ),
    "kite": (
        "uma pipa grande",
        "ela caiu antes da primeira rajada",
        "fazer uma rabiola mais comprida",
        "uma pipa que subiu acima das árvores",
    ),
    "sweater": (
        "um casaco de lã",
        "ele ficou com três mangas",
        "contar os pontos em voz alta",
        "um casaco quente como um abraço",
    ),
    "birdhouse": (
        "uma casinha de passarinho",
        "a porta era pequena demais para qualquer pássaro",
        "olhar um pássaro de verdade antes de desenhar",
        "uma casinha com uma família dentro",
    ),
}

EVENTS: dict[str, list[str]] = {
    # começos
    "open": [
        "Era uma vez {a:um/uma} {a_work} {a_trait} {a:chamado/chamada} {a}, que morava em {a_home}.",
        "Em {a_home} vivia {a}, {a:um/uma} {a_work} {a_trait}.",
        "{a} era {a:o/a} {a_work} mais {a_trait} de {a_home}.",
        "Todo mundo em {a_home} conhecia {a}, {a:o/a} {a_work} {a_trait}.",
        "Há muito tempo, na vila de {a_home}, {a:um/uma} {a_work} {a_trait} de nome {a} abriu a janela.",
    ],
    "pet": [
        "{a.ele} morava com {a_pet.um} que se chamava {a_petname}.",
        "Sua melhor companhia era {a_petname}, {a_pet.um} que dormia ao pé da cama.",
        "Aonde {a} ia, {a_petname}, {a_pet.o}, ia também.",
    ],
    "treasure": [
        "O que {a.ele} mais amava no mundo era {a_treasure.seu}.",
        "{a.ele} nunca saía de casa sem {a_treasure.seu}.",
        "Na prateleira, no melhor lugar, {a.ele} guardava {a_treasure.seu}.",
    ],
    "friend": [
        "{b}, {b:o/a} {b_work}, vinha vê-{a.lo} quase todos os dias.",
        "{b}, {b:um vizinho/uma vizinha} {b_trait}, morava duas portas adiante.",
        "{a} e {b} tinham amizade desde {ab:pequenos/pequenas}.",
    ],
    "time": [
        "Certa manhã, {a} acordou cedo.",
        "Uma tarde, depois do trabalho, {a} saiu de casa.",
        "No domingo, {a} não tinha nada para fazer.",
        "Uma noite, antes do jantar, aconteceu uma coisa.",
        "No primeiro dia da primavera, {a} não conseguiu ficar em casa.",
    ],
    # a coisa perdida
    "own": [
        "Naquele dia, {a} pegou {o.seu} e foi brincar {p.no}.",
        "{a} pôs {o.seu} numa sacola e caminhou até {p.o}.",
        "{a} tinha acabado de ganhar {o.um} e queria mostrar a todos {p.no}.",
    ],
    "lose_wind": [
        "De repente, uma rajada tirou {o.o} das mãos {a.dele} e levou por cima dos telhados.",
        "O vento soprou mais forte, e {o.o} saiu voando como um pássaro.",
    ],
    "lose_rain": [
        "{a} correu para se abrigar, e {o.o} caiu na água barrenta.",
        "Na chuva, {a.ele} escorregou, e a água levou {o.o} embora.",
    ],
    "lose_fog": [
        "{a} largou {o.o} por um momento e, na neblina, não viu mais onde.",
        "A neblina era tanta que {a.ele} andou em círculos e, quando olhou, {o.o} tinha sumido.",
    ],
    "lose_sun": [
        "Fazia tanto calor que {a} dormiu debaixo de uma árvore e, quando acordou, {o.o} não estava mais lá.",
        "{a} tirou o casaco por causa do calor e esqueceu {o.o} na grama.",
    ],
    "lose_snow": [
        "{a} deixou cair {o.o}, e a neve cobriu tudo num minuto.",
        "Enquanto {a.ele} fazia um boneco de neve, {o.o} sumiu debaixo da neve.",
    ],
    "sad": [
        "{a} sentiu um nó na garganta.",
        "{a} sentou no chão e chorou um pouco.",
        "{a.ele} ficou tão triste que não conseguia falar.",
        "— E agora, o que vou fazer? — murmurou {a}.",
    ],
    "search": [
        "{a.ele} procurou debaixo das pedras, atrás do muro e dentro dos cestos.",
        "{a.ele} subiu e desceu a rua até os pés doerem.",
        "{a.ele} perguntou à velha do portão, mas ela não tinha visto nada.",
        "Primeiro {a.ele} olhou à esquerda, depois à direita, e só achou folhas secas.",
    ],
    "ask": [
        "Então {b} apareceu. — Por que você está chorando, {a}? — Perdi {o.meu} — disse {a}.",
        "— {b}, você viu {o.meu}? — perguntou {a}. — Não — disse {b} —, mas quatro olhos veem mais "
        "do que dois.",
        "{b} viu o rosto {a.dele} e perguntou: — O que aconteceu? — Não acho {o.meu} — respondeu {a}.",
    ],
    "find_wind": [
        "— O vento soprava para {q.o} — disse {b}. Foram até lá e viram {o.o} nos galhos de uma árvore.",
        "Seguiram o vento até {q.o}, e lá estava {o.o}, num galho bem alto.",
    ],
    "find_rain": [
        "— Toda essa água desce para {q.o} — disse {b}. Lá encontraram {o.o}, ainda inteir{o:o/a}.",
        "Seguiram a água até {q.o} e acharam {o.o} entre duas pedras.",
    ],
    "find_fog": [
        "Esperaram juntos até a neblina ir embora, e {o.o} estava ali mesmo, a dois passos de {a}.",
        "— Vamos esperar — disse {b}. Quando a neblina subiu, viram {o.o} perto {q.do}.",
    ],
    "find_sun": [
        "{b} notou pequenas pegadas na poeira. Elas levavam até {q.o}, onde {s.um} brincava com {o.o}.",
        "{b} olhou na sombra e ali, perto {q.do}, {s.um} dormia em cima {o.do}.",
    ],
    "find_snow": [
        "{b} teve uma ideia e chamou {s.o}, que cavou na neve até {o.o} aparecer.",
        "Cavaram com as mãos perto {q.do} e, por fim, tocaram {o.o} debaixo da neve.",
    ],
    # a viagem com um presente
    "reason": [
        "{b} estava doente na cama, e {a} queria levar-lhe {o.um}.",
        "Era o aniversário de {b}, e {a} tinha {o.um} para {b.ele}.",
        "{b} andava triste havia uma semana, então {a} decidiu dar-lhe {o.um}.",
    ],
    "set_out": [
        "O caminho era longo e passava {p.pelo}, mas {a} partiu logo.",
        "Para chegar à casa de {b}, era preciso passar {p.pelo} e {q.pelo}.",
        "{a.ele} se despediu de {a_petname} e tomou o caminho {p.do}.",
    ],
    "block_wind": [
        "O vento era tão forte que {a.ele} mal conseguia andar.",
        "Uma árvore tinha caído na estrada por causa do vento.",
    ],
    "block_rain": [
        "A chuva tinha levado a ponte, e a estrada acabava ali.",
        "{a.ele} logo ficou {a:molhado/molhada} até os ossos e não via a estrada.",
    ],
    "block_fog": [
        "Na neblina, {a.ele} tomou o caminho errado, e depois outro.",
        "{a.ele} não via nem os próprios pés na neblina.",
    ],
    "block_sun": [
        "Fazia tanto calor que {a.ele} não tinha mais água para beber.",
        "O calor deixava as pernas pesadas, e a estrada parecia não ter fim.",
    ],
    "block_snow": ["A neve chegava aos joelhos.", "A neve tinha escondido a estrada por completo."],
    "meet": [
        "{p.no}, {a.ele} encontrou {s.um} que tremia de fome.",
        "Ali {a.ele} ouviu uma vozinha. Era {s.um}, {s:sozinho/sozinha} e com fome.",
        "{s.um} estava à beira da estrada e olhou para {a.ele} com olhos enormes.",
    ],
    "share": [
        "{a} só tinha um pedaço de pão, mas deu metade {s.ao}.",
        "— Você precisa mais do que eu — disse {a}, e deu o almoço {s.ao}.",
        "{a} enrolou {s.o} no casaco e dividiu uma maçã com {s.ele}.",
    ],
    "guide": [
        "{s.o} comeu e depois mostrou um atalho que ninguém conhecia.",
        "Como {a} tinha sido {a:bom/boa}, {s.o} foi na frente e mostrou o caminho inteiro.",
        "{s.o} conhecia bem a terra e, antes da noite, já viam a casa de {b}.",
    ],
    "arrive": [
        "Quando {b} abriu a porta, não acreditou. — Você veio de tão longe por mim?",
        "{b} viu {o.o} e sorriu pela primeira vez em dias.",
        "— {o.um}! Era disso que eu precisava — disse {b}, e abraçou {a}.",
    ],
    # fazer alguma coisa
    "wish": [
        "{a} queria fazer {craft} para {b}.",
        "{a} decidiu fazer {craft}, embora nunca tivesse tentado.",
        "— Vou fazer {craft} — disse {a} um dia. {a_petname} olhou e bocejou.",
    ],
    "fail": [
        "{a.ele} trabalhou o dia todo, mas {fault}.",
        "Na primeira vez, {fault}.",
        "{a.ele} estava com pressa, e por isso {fault}.",
    ],
    "laugh": [
        "Alguns vizinhos riram, e {a} voltou para casa de cabeça baixa.",
        "{a} ficou com raiva e jogou as ferramentas no chão.",
        "— Nunca vou aprender — disse {a}.",
    ],
    "advice": [
        "{b} veio e disse: — Eu já cometi o mesmo erro. Você deve {tip}.",
        "— Minha avó me ensinou um segredo — disse {b}. — É só {tip}.",
        "{a} pediu ajuda a {b}, que respondeu: — Tente de novo, mas desta vez é preciso {tip}.",
    ],
    "retry": [
        "No dia seguinte, {a.ele} recomeçou, devagar.",
        "{a} tentou uma segunda vez, e uma terceira.",
        "Então {a.ele} fez tudo desde o começo, sem pressa.",
    ],
    "success": [
        "No fim, {a.ele} tinha {result}.",
        "E desta vez foi {result}.",
        "Quando ficou pronto, todos vieram ver: {result}.",
    ],
    # a briga
    "both_want": [
        "{p.no}, {a} e {b} encontraram {o.um} ao mesmo tempo.",
        "Havia {o.so}, e tanto {a} quanto {b} queriam.",
        "Um dia, {a} e {b} viram {o.um} {p.no}, e {ab:cada um/cada uma} agarrou de um lado.",
    ],
    "quarrel": [
        "— Eu vi primeiro! — gritou {a}. — Não, é {o:meu/minha}! — gritou {b}.",
        "— Solte! — disse {b}. — Solte você! — disse {a}, e puxaram com toda a força.",
        "Disseram coisas que amigos não dizem.",
    ],
    "apart": [
        "{a} foi para casa e não jantou.",
        "Por três dias {ab:eles/elas} não se falaram.",
        "{b} passou pela porta de {a} sem olhar.",
    ],
    "alone": [
        "{a} ficou com {o.o}, mas sem {b} não tinha graça.",
        "{a_petname} olhava para a porta como se esperasse {b}.",
        "À noite, {a} pensava em {b} e não conseguia dormir.",
    ],
    "sorry": [
        "De manhã, {a} bateu à porta de {b}. — Desculpe — disse. — Uma amizade vale mais do que {o.um}.",
        "— Eu estava {a:errado/errada} — disse {a}. — Eu também — disse {b}, e {ab:os dois/as duas} riram.",
        "Encontraram-se {q.no}, e {ab:os dois/as duas} pediram desculpas ao mesmo tempo.",
    ],
    "agree": [
        "Desde então, {o.o} fica uma semana com {a} e uma semana com {b}.",
        "Deram {o.o} a uma criança que não tinha nada e ficaram mais leves.",
        "Decidiram que {o.o} seria {ab:dos dois/das duas}.",
    ],
    # o medo
    "afraid": [
        "Mas {a} tinha um segredo: tinha medo {a_fear}.",
        "Só uma coisa assustava {a}: {a.ele} tinha medo {a_fear}.",
        "{a} nunca contou a ninguém que tinha medo {a_fear}.",
    ],
    "need": [
        "Uma noite {a_petname} não voltou para casa, e {a} soube que precisava sair.",
        "Então {b} precisou de ajuda {p.no}, e não havia mais ninguém para ir.",
        "Um dia {a} teve de passar {p.pelo} {a:sozinho/sozinha} para levar remédio a {b}.",
    ],
    "tremble": [
        "As mãos tremiam e o coração batia como um tambor.",
        "{a.ele} deu um passo, parou e quis voltar.",
        "“Não consigo”, pensou {a}.",
    ],
    "courage": [
        "— Ter coragem é ter medo e ir assim mesmo — {b} tinha dito uma vez.",
        "{a.ele} segurou {a_treasure.seu} com força e contou até dez.",
        "{a.ele} começou a cantar baixinho e, a cada verso, o medo ficava menor.",
    ],
    "overcome": [
        "Passo a passo, {a.ele} seguiu, e nada de mau aconteceu.",
        "Quando {a.ele} olhou para trás, o pior já tinha passado.",
        "E assim, ainda tremendo, {a.ele} conseguiu.",
    ],
    "relief": [
        "{a_petname} estava lá, a salvo, e correu até {a.ele}.",
        "— Você veio! — disse {b}. — Eu sabia que você vinha.",
        "Desde aquele dia, {a} tem um pouco menos de medo {a_fear}.",
    ],
    # o resgate
    "sound": [
        "Enquanto {a.ele} andava {p.no}, ouviu um choro fraco.",
        "{p.no}, alguma coisa se mexia e pedia socorro.",
        "— Escute! — disse {a} a {a_petname}. — Alguém está chorando {p.no}.",
    ],
    "trapped": [
        "Era {s.um}, {s:preso/presa} {trap}.",
        "Ali, {trap}, estava {s.um} {s:assustado/assustada}.",
        "{s.um} estava {trap} e não conseguia sair.",
    ],
    "try": [
        "{a} tentou alcançar com as mãos, mas não conseguiu.",
        "{a} puxou e puxou, mas foi inútil.",
        "— Não tenha medo — disse {a}, mas seus braços eram curtos demais.",
    ],
    "borrow": [
        "{a} correu até a casa de {b}. — Por favor, me empreste {tool.um}!",
        "{b}, {b:o/a} {b_work}, tinha {tool.um} e trouxe na mesma hora.",
        "— Precisamos de {tool.um} — disse {b}, que sabia onde encontrar.",
    ],
    "free": [
        "Com {tool.o}, conseguiram tirar {s.o} de lá.",
        "Pouco a pouco, usando {tool.o}, soltaram {s.o}.",
        "{a} segurou {tool.o}, {b} segurou {a}, e por fim {s.o} ficou a salvo.",
    ],
    "reward": [
        "{s.o} lambeu a mão de {a} e correu para as árvores.",
        "Na manhã seguinte, {a} encontrou {o.um} na porta, e pequenas pegadas em volta.",
        "Dali em diante, {s.o} vinha toda tarde comer com {a_petname}.",
    ],
    # o jardim
    "plant": [
        "{a} achou uma semente no bolso e plantou {p.no}.",
        "{b} deu uma semente a {a}. — Ponha na terra e espere — disse.",
        "{a} comprou uma semente na feira com a última moeda.",
    ],
    "water": [
        "Toda manhã {a.ele} punha água e dizia bom dia.",
        "{a.ele} regava a terra todo dia, antes do trabalho.",
        "Dia após dia, {a} se sentava ao lado do vaso e esperava.",
    ],
    "nothing": [
        "Passou uma semana, e nada aconteceu.",
        "Passaram duas semanas, e só havia terra.",
        "— Talvez seja só uma pedra — disse {a}.",
    ],
    "danger_sun": ["Então parou de chover, e a terra ficou seca e rachada."],
    "danger_rain": ["Então choveu tanto que o jardim parecia um lago."],
    "danger_snow": ["Então veio a geada, e todas as folhas da vila ficaram marrons."],
    "danger_wind": ["Então uma tempestade quebrou a cerca e entortou todas as árvores."],
    "danger_fog": ["Então veio a neblina, e por muitos dias não houve luz."],
    "care": [
        "{b} ajudou a proteger a planta com uma caixa velha.",
        "{a} e {b} se revezaram para cuidar dela, até de noite.",
        "{a_petname} deitou ao lado dela para aquecê-la.",
    ],
    "grow": [
        "Uma manhã havia uma folha verde e, no verão, era {seed.um} maior do que {a}.",
        "E então cresceu e cresceu, até virar {seed.um} que todos admiravam.",
        "Por fim nasceu: {seed.um}, {seed:o mais bonito/a mais bonita} de {a_home}.",
    ],
    "harvest": [
        "{a} guardou uma semente para o outro ano e deu as outras aos vizinhos.",
        "{a} e {b} dividiram tudo o que ela deu, e ainda sobrou para {s.o}.",
        "— Valeu a pena esperar — disse {a}.",
    ],
    # a troca
    "want": [
        "{p.no}, {a} viu {o2.um} e quis muito, mas não tinha dinheiro.",
        "{a} sonhava em ter {o2.um}, mas só tinha {o.um}.",
    ],
    "offer": [
        "{b} tinha {o2.um}, mas queria {o3.um}. — Traga {o3.um}, e é {o2:seu/sua} — disse {b}.",
        "— Dou {o2.meu} em troca de {o3.um} — disse {b}.",
    ],
    "swap": [
        "{a} procurou alguém com {o3.um} e encontrou {c} {q.no}. {c} deu {o3.o} em troca {o.do}.",
        "— Tenho {o3.um} — disse {c} {q.no} — e gostaria de ter {o.um}. Então {a} lhe deu {o.o}.",
    ],
    "deal": [
        "{a} levou {o3.o} a {b} e recebeu {o2.o}.",
        "Depois {a} deu {o3.o} a {b} e, por fim, {o2.o} estava em suas mãos.",
    ],
    "all_happy": [
        "No fim, {a} tinha {o2.o}, {b} tinha {o3.o}, {c} tinha {o.o}, e ninguém gastou uma moeda.",
        "E assim três pessoas ficaram felizes com três coisas velhas.",
    ],
    # fins
    "thanks": [
        "— {a:Obrigado/Obrigada}, {b} — disse {a}. — Sem você eu não teria conseguido.",
        "{a} agradeceu a {b} e {b:o convidou/a convidou} para jantar.",
        "— Para que servem os amigos? — disse {b}, sorrindo.",
    ],
    "happy": [
        "{a} ficou tão feliz que dançou na rua.",
        "{a} sorriu de orelha a orelha.",
        "{a} nunca tinha se sentido tão leve.",
        "Naquela noite, {a} dormiu bem.",
    ],
    "close": [
        "E viveram felizes para sempre.",
        "E foi assim que {a} aprendeu que a paciência é um tipo de força.",
        "Desde aquele dia, {a} e {b} contam esta história a quem quiser ouvir.",
        "Quando a noite chegou, {ab:os dois/as duas} ainda conversavam perto do fogo.",
        "E, se você for a {a_home}, ainda vai ouvir falar disso.",
        "{a_petname} dormiu primeiro, e depois todos os outros.",
        "Dali em diante, ninguém em {a_home} esqueceu que uma pequena bondade vai longe.",
    ],
}

TITLES = {
    "lost": ["{a} e a coisa perdida", "{o.o} de {a}", "Onde está {o.o}?"],
    "gift": ["Um presente para {b}", "{a} e {s.o}", "O longo caminho de {a}"],
    "make": ["{a} tenta de novo", "O que {a} fez"],
    "quarrel": ["{a} e {b}", "{o.so}"],
    "fear": ["O segredo de {a}", "{a} e {a_petname}", "Uma noite de coragem"],
    "rescue": ["{s.o} em perigo", "{a} e {s.o}"],
    "garden": ["A semente", "O jardim de {a}", "{seed.o} de {a}"],
    "trade": ["Três coisas velhas", "{o2.o} e {o3.o}"],
}

ASK = {
    "any": [
        "Conte uma história.",
        "Por favor, conte uma história.",
        "Pode me contar uma história curta?",
        "Eu queria ouvir uma história.",
        "Mais uma, por favor.",
        "Conte outra história.",
    ],
    "about": [
        "Conte uma história sobre {topic}.",
        "Pode me contar uma história sobre {topic}?",
        "Eu queria uma história sobre {topic}, por favor.",
        "Uma história sobre {topic}, por favor.",
        "Agora conte sobre {topic}.",
        "Escreva uma história curta sobre {topic}.",
    ],
    "lead": ["", "", "Esta é uma história sobre {topic}.\n", "Claro! Escute.\n"],
    "hello": ["Olá!", "Oi!", "Olá mundo", "Bom dia.", "Boa noite!", "Oi, tudo bem?"],
    "greet": [
        "Olá! Eu conto histórias. Sobre quem vai ser esta?",
        "Olá! Quer ouvir uma história?",
        "Oi! Diga um nome ou um bicho, e eu conto uma história.",
    ],
    "thank": ["Obrigado!", "Obrigada, gostei muito.", "Que bonito.", "Boa noite."],
    "welcome": ["De nada! Volte quando quiser outra história.", "Que bom que você gostou. Boa noite!"],
    "system": [
        "Você é um contador de histórias.",
        "Você conta histórias curtas para crianças.",
        "Você é um contador de histórias prestativo.",
    ],
}
QUESTIONS = [
    ("Onde {a} mora?", "{a} mora em {a_home}."),
    ("O que {a} faz?", "{a} é {a:um/uma} {a_work} {a_trait} de {a_home}."),
    (
        "Quem é {a}?",
        "{a} é {a:um/uma} {a_work} {a_trait} de {a_home} e mora com {a_pet.um} que se chama {a_petname}.",
    ),
    ("O que {a} mais ama?", "O que {a} mais ama é {a_treasure.seu}."),
    ("Do que {a} tem medo?", "{a} tem medo {a_fear}."),
    ("{a} tem um bicho?", "Sim, {a} tem {a_pet.um} que se chama {a_petname}."),
]
