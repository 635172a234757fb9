"""Short stories in English and Portuguese, written by a grammar from a seed.

    python corpus.py --stories 3            print some
    python corpus.py --heldout              write heldout.txt again

A story is a plot (a sequence of events whose causes fit together: what the wind takes hangs
in a tree, what the rain takes lies downstream) about people with fixed facts
(``world.py``), told by one of the two languages. Documents are of four kinds: a
collection of stories as plain text, a single story, and a chat in which a user asks for
stories or about the people in them.

Every document is a function of (seed, number), so training can resume anywhere and the
held-out text comes from a seed that training never uses.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import english
import portuguese
import world

TRAIN_SEED, HELDOUT_SEED = 1, 2
START, END = "<|startoftext|>", "<|endoftext|>"
IM_START, IM_END = "<|im_start|>", "<|im_end|>"
LANGUAGES: dict[str, ModuleType] = {"en": english, "pt": portuguese}

#: Events in order; "?" marks one that is told half of the time, "/" starts a paragraph.
#: "{w}" is the weather of the story.
PLOTS = {
    "lost": "open pet? treasure? / time weather own lose_{w} sad search search? "
    "/ ask find_{w} happy thanks? close",
    "gift": "open friend? pet? / reason set_out weather block_{w} / meet share guide arrive thanks? close",
    "make": "open pet? friend / time wish fail laugh? sad? advice / retry success happy? thanks close?",
    "quarrel": "open friend pet? / weather? both_want quarrel apart / alone sad? sorry agree happy? close",
    "fear": "open pet treasure? afraid / weather need tremble courage overcome / relief happy thanks? close",
    "rescue": "open pet? / time weather? sound trapped try / borrow free thanks? reward close",
    "garden": "open friend? / plant water nothing danger_{w} care / grow harvest happy? close",
    "trade": "open friend? treasure? / time? want offer swap deal / all_happy happy? close",
}


def _capitalize(text: str) -> str:
    """Upper-case the first letter of the text and of every sentence in it; what follows a
    closing quote or dash ("…?” said she", "…? — disse ela") goes on with the sentence."""
    return re.sub(r"(^[“—\s]*|[.!?] “?|\n)(\w)", lambda m: m[1] + m[2].upper(), text)


class Story:
    """One story's decisions: the plot, who and what is in it, and the weather."""

    def __init__(self, rng: random.Random, language: str) -> None:
        self.rng = rng
        self.words = LANGUAGES[language]
        self.plot = rng.choice(list(PLOTS))
        self.people = rng.sample(world.PEOPLE, 3)
        self.weather = rng.choice(list(self.words.WEATHER))
        self.slots: dict[str, Any] = {}
        w = self.words
        for slot, character in zip("abc", self.people, strict=True):
            self.slots[slot] = w.person(character)
            self.slots.update(w.facts(character, slot))
        women = all(c.gender == "f" for c in self.people[:2])
        self.slots["ab"] = w.Noun("", "f" if women else "m")
        things = rng.sample(list(world.THINGS), 3)
        if self.plot == "lost" and rng.random() < 0.5:
            things[0] = self.people[0].treasure
        for slot, key in zip(("o", "o2", "o3"), things, strict=True):
            self.slots[slot] = w.thing(key)
        for slot, key in zip("pq", rng.sample(list(world.PLACES), 2), strict=True):
            self.slots[slot] = w.place(key)
        species = rng.choice([s for s in world.SPECIES if s != self.people[0].pet])
        self.slots["s"] = w.animal(species)
        tool = rng.choice(list(world.TOOLS))
        self.slots["tool"] = w.tool(tool)
        self.slots["trap"] = w.trap(rng.choice(world.TOOLS[tool][3]))
        self.slots["seed"] = w.SEED[rng.choice(list(w.SEED))]
        craft = w.CRAFT[rng.choice(list(w.CRAFT))]
        self.slots.update(zip(("craft", "fault", "tip", "result"), craft, strict=True))

    def fill(self, template: str) -> str:
        return _capitalize(template.format(**self.slots))

    def body(self) -> str:
        paragraphs: list[list[str]] = [[]]
        told: set[str] = set()
        for item in PLOTS[self.plot].format(w=self.weather).split():
            if item == "/":
                paragraphs.append([])
                continue
            event = item.rstrip("?")
            if item.endswith("?") and self.rng.random() < 0.5:
                continue
            ways = self.words.WEATHER[self.weather] if event == "weather" else self.words.EVENTS[event]
            template = self.rng.choice([t for t in ways if t not in told])
            told.add(template)
            paragraphs[-1].append(self.fill(template))
        return "\n".join(" ".join(p) for p in paragraphs if p)

    def title(self) -> str:
        return self.fill(self.rng.choice(self.words.TITLES[self.plot]))

    def topic(self) -> str:
        """What a listener would have asked for to get this story, in the middle of a sentence."""
        w, slots = self.words, self.slots
        article = "um" if w is portuguese else "a"
        choices = [str(slots["a"])] * 2
        if self.plot in ("lost", "gift", "quarrel"):
            choices.append(getattr(slots["o"], article))
        if self.plot in ("gift", "rescue"):
            choices.append(getattr(slots["s"], article))
        if self.plot in ("quarrel", "trade", "make"):
            choices.append(f"{slots['a']} {'e' if w is portuguese else 'and'} {slots['b']}")
        if self.plot == "garden":
            choices.append(getattr(slots["seed"], article))
        if self.plot == "make":
            choices.append(slots["craft"])
        return self.rng.choice(choices)


def _plain(rng: random.Random, language: str) -> str:
    stories = []
    for _ in range(rng.choice((1, 1, 2, 4))):
        story = Story(rng, language)
        stories.append((story.title() + "\n\n" if rng.random() < 0.4 else "") + story.body())
    return "\n\n".join(stories)


def _turn(role: str, content: str) -> str:
    return f"{IM_START}{role}\n{content}{IM_END}\n"


def _chat(rng: random.Random, language: str) -> str:
    ask = LANGUAGES[language].ASK
    text = _turn("system", rng.choice(ask["system"])) if rng.random() < 0.3 else ""
    if rng.random() < 0.25:
        text += _turn("user", rng.choice(ask["hello"])) + _turn("assistant", rng.choice(ask["greet"]))
    for _ in range(rng.choice((1, 1, 2))):
        story = Story(rng, language)
        topic = story.topic()
        kind = "any" if rng.random() < 0.2 else "about"
        lead = rng.choice(ask["lead"]) if kind == "about" else ""
        text += _turn("user", rng.choice(ask[kind]).format(topic=topic))
        text += _turn("assistant", lead.format(topic=topic) + story.body())
        while rng.random() < 0.4:
            question, answer = rng.choice(story.words.QUESTIONS)
            text += _turn("user", story.fill(question)) + _turn("assistant", story.fill(answer))
    if rng.random() < 0.25:
        text += _turn("user", rng.choice(ask["thank"])) + _turn("assistant", rng.choice(ask["welcome"]))
    return text


def document(seed: int, number: int) -> str:
    """Document ``number`` of the corpus ``seed``, between the start and the end token."""
    rng = random.Random(f"{seed}/{number}")
    language = rng.choice(("en", "pt"))
    return START + (_chat(rng, language) if rng.random() < 0.35 else _plain(rng, language)) + END


def documents(seed: int, first: int = 0) -> Iterator[str]:
    """All documents of a corpus from number ``first`` on, without end."""
    while True:
        yield document(seed, first)
        first += 1


def heldout(language: str, characters: int) -> str:
    """Plain stories of one language from the held-out seed, separated by empty lines."""
    rng = random.Random(f"{HELDOUT_SEED}/{language}")
    stories: list[str] = []
    while sum(map(len, stories)) < characters:
        story = Story(rng, language)
        stories.append((story.title() + "\n\n" if rng.random() < 0.4 else "") + story.body())
    return "\n\n".join(stories) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stories", type=int, default=0, help="print so many documents")
    parser.add_argument("--heldout", action="store_true", help="write heldout.txt beside this file")
    arguments = parser.parse_args()
    for number in range(arguments.stories):
        print(document(TRAIN_SEED, number), "\n" + "-" * 40)
    if arguments.heldout:
        text = heldout("en", 24_000) + "\n" + heldout("pt", 24_000)
        Path(__file__).with_name("heldout.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
