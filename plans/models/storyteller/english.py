"""English: forms of words, and several ways of telling each event of a story.

A template is filled with ``str.format``: ``{a}`` and ``{b}`` are people (``{a.he}``,
``{a.him}``, ``{a.his}``), ``{o}`` a thing (``{o.a}``, ``{o.the}``), ``{p}`` and ``{q}``
places (``{p.at}``, ``{p.the}``), ``{s}`` an animal; the rest are plain words.
"""

from __future__ import annotations

from dataclasses import dataclass

from world import PLACES, SPECIES, THINGS, TOOLS, TRAITS, TRAPS, WORK, Character

_PRONOUNS = {"m": ("he", "him", "his"), "f": ("she", "her", "her")}


@dataclass(frozen=True)
class Noun:
    """A word with the forms a template may ask for."""

    text: str
    gender: str = "n"
    preposition: str = "at"

    def __str__(self) -> str:
        return self.text

    def __format__(self, spec: str) -> str:
        return self.text

    @property
    def a(self) -> str:
        return ("an " if self.text[0] in "aeiou" else "a ") + self.text

    @property
    def the(self) -> str:
        return "the " + self.text

    @property
    def at(self) -> str:
        return f"{self.preposition} the {self.text}"

    @property
    def he(self) -> str:
        return _PRONOUNS[self.gender][0]

    @property
    def him(self) -> str:
        return _PRONOUNS[self.gender][1]

    @property
    def his(self) -> str:
        return _PRONOUNS[self.gender][2]


def person(c: Character) -> Noun:
    return Noun(c.name, c.gender)


def facts(c: Character, prefix: str) -> dict[str, Noun | str]:
    """The slots that speak of a character's fixed facts, named ``<prefix>_trait`` and so on."""
    return {
        f"{prefix}_trait": Noun(TRAITS[c.trait][0]),
        f"{prefix}_work": Noun(WORK[c.work][0]),
        f"{prefix}_home": c.home,
        f"{prefix}_pet": Noun(SPECIES[c.pet][0]),
        f"{prefix}_petname": c.pet_name,
        f"{prefix}_treasure": Noun(THINGS[c.treasure][0]),
        f"{prefix}_fear": FEAR[c.fear],
    }


def thing(key: str) -> Noun:
    return Noun(THINGS[key][0])


def animal(key: str) -> Noun:
    return Noun(SPECIES[key][0])


def place(key: str) -> Noun:
    return Noun(PLACES[key][1], "n", PLACES[key][0])


def tool(key: str) -> Noun:
    return Noun(TOOLS[key][0])


def trap(key: str) -> str:
    return ("on " if key == "stream" else "at " if key == "tree" else "in ") + TRAPS[key][0]


FEAR = {
    "dark": "the dark",
    "thunder": "thunder",
    "water": "deep water",
    "heights": "high places",
    "strangers": "speaking to strangers",
}
SEED = {
    "sunflower": Noun("sunflower"),
    "pumpkin": Noun("pumpkin"),
    "tomato": Noun("tomato plant"),
    "bean": Noun("beanstalk"),
    "apple": Noun("apple tree"),
    "rose": Noun("rose bush"),
}
WEATHER = {
    "wind": (
        "A strong wind was blowing from the hills.",
        "The wind pulled at hats and coats all day.",
        "It was a windy day and the leaves were flying.",
    ),
    "rain": (
        "It had been raining since dawn.",
        "Grey clouds came over the roofs and it began to rain.",
        "The rain drummed on every window.",
    ),
    "fog": (
        "A thick fog covered everything.",
        "The morning was so foggy that the trees had disappeared.",
        "White fog came in and hid the road.",
    ),
    "sun": (
        "The sun was hot and the sky had no clouds.",
        "It was a bright, warm day.",
        "The sun shone as if it would never set.",
    ),
    "snow": (
        "It was snowing softly.",
        "Snow had fallen all night and the world was white.",
        "Big flakes of snow were coming down.",
    ),
}
CRAFT = {
    "cake": (
        "a cake",
        "it came out as hard as a stone",
        "put in more butter and less flour",
        "the softest cake in the village",
    ),
    "boat": (
        "a little boat",
        "the water came in through the bottom",
        "seal the boards with warm tar",
        "a boat that floated like a duck",
    ),
    "soup": (
        "a pot of soup",
        "it tasted only of water",
        "add salt, garlic and some patience",
        "a soup that smelled wonderful",
    ),
    "chair": (
        "a wooden chair",
        "one leg was shorter than the others",
        "measure twice before cutting once",
        "a chair that did not shake at all",
    ),
    "kite": (
        "a big kite",
        "it fell down before the first gust",
        "give it a longer tail",
        "a kite that climbed above the trees",
    ),
    "sweater": (
        "a wool sweater",
        "it had three sleeves",
        "count the stitches aloud",
        "a sweater as warm as a hug",
    ),
    "birdhouse": (
        "a birdhouse",
        "the door was too small for any bird",
        "look at a real bird before drawing",
        "a birdhouse with a family inside",
    ),
}

EVENTS: dict[str, list[str]] = {
    # openings
    "open": [
        "Once upon a time there was {a_trait.a} {a_work} called {a}, who lived in {a_home}.",
        "In {a_home} lived {a}, {a_trait.a} {a_work}.",
        "Nobody in {a_home} was as {a_trait} as {a}, the {a_work}.",
        "Everybody in {a_home} knew {a}, the {a_trait} {a_work}.",
        "Long ago, in the village of {a_home}, {a_trait.a} {a_work} named {a} opened {a.his} window.",
    ],
    "pet": [
        "{a.he} lived with {a_pet.a} called {a_petname}.",
        "{a.his} best company was {a_petname}, {a_pet.a} that slept at the foot of the bed.",
        "Wherever {a} went, {a_petname} the {a_pet} went too.",
    ],
    "treasure": [
        "What {a.he} loved most in the world was {a.his} {a_treasure}.",
        "{a.he} never left home without {a.his} {a_treasure}.",
        "On the shelf, in the best place, {a.he} kept {a.his} {a_treasure}.",
    ],
    "friend": [
        "{a.his} friend {b}, the {b_work}, came to see {a.him} almost every day.",
        "{b}, a {b_trait} neighbour, lived two doors away.",
        "{a} and {b} had been friends since they were small.",
    ],
    "time": [
        "One morning {a} woke up early.",
        "One afternoon, after work, {a} went out.",
        "On Sunday {a} had nothing to do.",
        "One evening, before supper, something happened.",
        "On the first day of spring {a} could not stay at home.",
    ],
    # the lost thing
    "own": [
        "That day {a} took {a.his} {o} and went to play {p.at}.",
        "{a} put {a.his} {o} in a bag and walked to {p.the}.",
        "{a} had just been given {o.a}, and wanted to show it to everyone {p.at}.",
    ],
    "lose_wind": [
        "Suddenly a gust took {o.the} out of {a.his} hands and carried it over the roofs.",
        "The wind blew harder, and {o.the} flew away like a bird.",
    ],
    "lose_rain": [
        "{a} ran to find shelter, and {o.the} fell into a stream of brown water.",
        "In the rain {a.he} slipped, and the water carried {o.the} away.",
    ],
    "lose_fog": [
        "{a} put {o.the} down for a moment, and in the fog {a.he} could not see where.",
        "The fog was so thick that {a.he} walked in circles, and when {a.he} looked, {o.the} was gone.",
    ],
    "lose_sun": [
        "It was so warm that {a} fell asleep under a tree, and when {a.he} woke up {o.the} was not there.",
        "{a} took off {a.his} coat because of the heat, and forgot {o.the} in the grass.",
    ],
    "lose_snow": [
        "{a} dropped {o.the}, and the snow covered it in a minute.",
        "While {a.he} was making a snowman, {o.the} disappeared under the snow.",
    ],
    "sad": [
        "{a} felt a knot in {a.his} throat.",
        "{a} sat down and cried a little.",
        "{a.he} was so sad that {a.he} could not speak.",
        "“What shall I do now?” {a.he} whispered.",
    ],
    "search": [
        "{a.he} looked under the stones, behind the wall and inside the baskets.",
        "{a.he} walked up and down the road until {a.his} feet hurt.",
        "{a.he} asked the old woman at the gate, but she had seen nothing.",
        "First {a.he} looked on the left, then on the right, and found only dry leaves.",
    ],
    "ask": [
        "Then {b} came by. “Why are you crying, {a}?” “I have lost my {o},” said {a}.",
        "“{b}, have you seen my {o}?” asked {a}. “No,” said {b}, “but two pairs of eyes see more than one.”",
        "{b} saw {a.his} face and asked, “What happened?” “My {o} is gone,” answered {a}.",
    ],
    "find_wind": [
        "“The wind was blowing towards {q.the},” said {b}. They went there and saw {o.the} "
        "caught in the branches of a tree.",
        "They followed the wind as far as {q.the}, and there was {o.the}, hanging from a branch.",
    ],
    "find_rain": [
        "“All this water runs down to {q.the},” said {b}. There they found {o.the}, wet but whole.",
        "They followed the water down to {q.the}, and found {o.the} between two stones.",
    ],
    "find_fog": [
        "They waited together until the fog went away, and {o.the} was right there, two steps from {a}.",
        "“Let us wait,” said {b}. When the fog lifted, they saw {o.the} beside {q.the}.",
    ],
    "find_sun": [
        "{b} noticed small footprints in the dust. They led to {q.the}, where {s.a} was "
        "playing with {o.the}.",
        "{b} looked in the shade, and there, near {q.the}, {s.a} was sleeping on top of {o.the}.",
    ],
    "find_snow": [
        "{b} had an idea and called {s.the}, which dug in the snow until {o.the} appeared.",
        "They dug with their hands near {q.the}, and at last touched {o.the} under the snow.",
    ],
    # the journey with a gift
    "reason": [
        "{b} was ill in bed, and {a} wanted to bring {b.him} {o.a}.",
        "It was {b}'s birthday, and {a} had {o.a} for {b.him}.",
        "{b} had been sad for a week, so {a} decided to give {b.him} {o.a}.",
    ],
    "set_out": [
        "The road was long and went past {p.the}, but {a} started at once.",
        "To reach {b}'s house {a.he} had to go past {p.the} and past {q.the}.",
        "{a.he} said goodbye to {a_petname} and took the road to {p.the}.",
    ],
    "block_wind": [
        "The wind was so strong that {a.he} could hardly walk.",
        "A tree had fallen across the road because of the wind.",
    ],
    "block_rain": [
        "The rain had washed away the bridge, and the road ended there.",
        "{a.he} was soon wet to the bones and could not see the road.",
    ],
    "block_fog": [
        "In the fog {a.he} took the wrong road, and then another one.",
        "{a.he} could not see {a.his} own feet in the fog.",
    ],
    "block_sun": [
        "It was so hot that {a.he} had no more water to drink.",
        "The heat made {a.his} legs heavy, and the road seemed to have no end.",
    ],
    "block_snow": ["The snow came up to {a.his} knees.", "The snow had hidden the road completely."],
    "meet": [
        "{p.at}, {a.he} met {s.a} that was shivering with hunger.",
        "There {a.he} heard a small voice. It was {s.a}, alone and hungry.",
        "{s.a} was sitting by the road and looked at {a.him} with big eyes.",
    ],
    "share": [
        "{a} had only one piece of bread, but {a.he} gave half of it to {s.the}.",
        "“You need it more than I do,” said {a}, and gave {s.the} {a.his} lunch.",
        "{a} wrapped {s.the} in {a.his} coat and shared an apple with it.",
    ],
    "guide": [
        "{s.the} ate, and then showed {a.him} a path that nobody knew.",
        "Because {a} had been kind, {s.the} walked ahead and led {a.him} the whole way.",
        "{s.the} knew the land well, and before night they could see {b}'s house.",
    ],
    "arrive": [
        "When {b} opened the door, {b.he} could not believe it. “You came all this way for me?”",
        "{b} saw {o.the} and smiled for the first time in days.",
        "“{o.a}! It is just what I needed,” said {b}, and hugged {a}.",
    ],
    # making something
    "wish": [
        "{a} wanted to make {craft} for {b}.",
        "{a} decided to make {craft}, although {a.he} had never done it.",
        "“I am going to make {craft},” said {a} one day. {a_petname} looked at {a.him} and yawned.",
    ],
    "fail": [
        "{a.he} worked all day, but {fault}.",
        "The first time, {fault}.",
        "{a.he} was in a hurry, and so {fault}.",
    ],
    "laugh": [
        "Some neighbours laughed, and {a} went home with {a.his} head down.",
        "{a} was angry and threw the tools on the floor.",
        "“I will never learn,” said {a}.",
    ],
    "advice": [
        "{b} came and said, “I made the same mistake once. You should {tip}.”",
        "“My grandmother taught me a secret,” said {b}. “You only have to {tip}.”",
        "{a} asked {b} for help, and {b.he} answered, “Try again, but this time {tip}.”",
    ],
    "retry": [
        "The next day {a.he} began again, slowly.",
        "{a} tried a second time, and a third.",
        "So {a.he} did everything from the beginning, without hurry.",
    ],
    "success": [
        "In the end {a.he} had {result}.",
        "And this time it was {result}.",
        "When it was ready everybody came to see it: {result}.",
    ],
    # the quarrel
    "both_want": [
        "{p.at}, {a} and {b} found {o.a} at the same moment.",
        "There was only one {o}, and both {a} and {b} wanted it.",
        "One day {a} and {b} saw {o.a} {p.at}, and each one took hold of it.",
    ],
    "quarrel": [
        "“I saw it first!” shouted {a}. “No, it is mine!” shouted {b}.",
        "“Let go!” said {b}. “You let go!” said {a}, and they pulled with all their strength.",
        "They said things that friends do not say.",
    ],
    "apart": [
        "{a} went home and did not eat supper.",
        "For three days they did not speak to each other.",
        "{b} walked past {a}'s door without looking at {a.him}.",
    ],
    "alone": [
        "{a} had {o.the}, but it was no fun without {b}.",
        "{a_petname} looked at the door as if waiting for {b}.",
        "At night {a} thought about {b} and could not sleep.",
    ],
    "sorry": [
        "In the morning {a} knocked on {b}'s door. “I am sorry,” {a.he} said. “A friend is worth "
        "more than {o.a}.”",
        "“I was wrong,” said {a}. “So was I,” said {b}, and both laughed.",
        "They met {q.at}, and both said “sorry” at the same time.",
    ],
    "agree": [
        "Since then {o.the} stays one week with {a} and one week with {b}.",
        "They gave {o.the} to a child who had nothing, and felt lighter.",
        "They decided that {o.the} would belong to both of them.",
    ],
    # the fear
    "afraid": [
        "But {a} had a secret: {a.he} was afraid of {a_fear}.",
        "There was only one thing that frightened {a}: {a_fear}.",
        "{a} never told anyone that {a.he} was afraid of {a_fear}.",
    ],
    "need": [
        "One night {a_petname} did not come home, and {a} knew that {a.he} had to go out.",
        "Then {b} needed help {p.at}, and there was no one else to go.",
        "One day {a} had to cross {p.the} alone to bring medicine to {b}.",
    ],
    "tremble": [
        "{a.his} hands were shaking and {a.his} heart beat like a drum.",
        "{a.he} took one step, stopped, and wanted to turn back.",
        "“I cannot do it,” thought {a}.",
    ],
    "courage": [
        "“Being brave is to be afraid and to go anyway,” {b} had told {a.him} once.",
        "{a.he} held {a.his} {a_treasure} tightly and counted to ten.",
        "{a.he} began to sing quietly, and with each verse the fear became smaller.",
    ],
    "overcome": [
        "Step by step {a.he} went on, and nothing bad happened.",
        "When {a.he} looked back, the worst part was already behind {a.him}.",
        "And so, still trembling, {a.he} did it.",
    ],
    "relief": [
        "{a_petname} was there, safe and sound, and ran to {a.him}.",
        "“You came!” said {b}. “I knew that you would come.”",
        "Since that day {a} is a little less afraid of {a_fear}.",
    ],
    # the rescue
    "sound": [
        "While {a.he} was walking {p.at}, {a.he} heard a weak cry.",
        "{p.at}, something was moving and calling for help.",
        "“Listen!” said {a} to {a_petname}. “Somebody is crying {p.at}.”",
    ],
    "trapped": [
        "It was {s.a}, caught {trap}.",
        "There, {trap}, was a frightened {s}.",
        "{s.a} was {trap} and could not get out.",
    ],
    "try": [
        "{a} tried to reach it with {a.his} hands, but could not.",
        "{a} pulled and pulled, but it was useless.",
        "“Do not be afraid,” {a.he} said, but {a.his} arms were too short.",
    ],
    "borrow": [
        "{a} ran to {b}'s house. “Please lend me {tool.a}!”",
        "{b} the {b_work} had {tool.a} and brought it at once.",
        "“We need {tool.a},” said {b}, and {b.he} knew where to find one.",
    ],
    "free": [
        "With {tool.the} they managed to get {s.the} out.",
        "Little by little, using {tool.the}, they set {s.the} free.",
        "{a} held {tool.the}, {b} held {a}, and at last {s.the} was safe.",
    ],
    "reward": [
        "{s.the} licked {a}'s hand and ran away into the trees.",
        "The next morning {a} found {o.a} at the door, and small footprints around it.",
        "From then on {s.the} came every evening to eat with {a_petname}.",
    ],
    # the garden
    "plant": [
        "{a} found a seed in {a.his} pocket and planted it {p.at}.",
        "{b} gave {a} a seed. “Put it in the earth and wait,” {b.he} said.",
        "{a} bought a seed at the market with {a.his} last coin.",
    ],
    "water": [
        "Every morning {a.he} gave it water and said good morning to it.",
        "{a.he} watered the earth each day, before work.",
        "Day after day {a} sat beside the pot and waited.",
    ],
    "nothing": [
        "A week passed, and nothing happened.",
        "Two weeks went by, and there was only earth.",
        "“Perhaps it is only a stone,” said {a}.",
    ],
    "danger_sun": ["Then it stopped raining, and the earth became dry and cracked."],
    "danger_rain": ["Then it rained so much that the garden looked like a lake."],
    "danger_snow": ["Then came the frost, and all the leaves in the village turned brown."],
    "danger_wind": ["Then a storm broke the fence and bent every tree."],
    "danger_fog": ["Then the fog came, and for many days there was no light."],
    "care": [
        "{b} helped {a.him} to protect it with an old box.",
        "{a} and {b} took turns to look after it, even at night.",
        "{a_petname} lay down beside it to keep it warm.",
    ],
    "grow": [
        "One morning there was a green leaf, and by summer it was {seed.a} taller than {a}.",
        "And then it grew and grew, until it became {seed.a} that everyone admired.",
        "At last it came up: {seed.a}, the most beautiful in {a_home}.",
    ],
    "harvest": [
        "{a} kept one seed for the next year and gave the others to the neighbours.",
        "{a} and {b} shared everything that it gave, and there was still enough for {s.the}.",
        "“It was worth waiting,” said {a}.",
    ],
    # the exchange
    "want": [
        "{p.at}, {a} saw {o2.a} and wanted it very much, but {a.he} had no money.",
        "{a} dreamed of having {o2.a}, but {a.he} owned only {o.a}.",
    ],
    "offer": [
        "{b} had {o2.a}, but {b.he} wanted {o3.a}. “Bring me {o3.a} and it is yours,” {b.he} said.",
        "“I will give you my {o2} for {o3.a},” said {b}.",
    ],
    "swap": [
        "{a} looked for someone with {o3.a}, and found {c} {q.at}. {c} gave {o3.the} in exchange "
        "for {o.the}.",
        "“I have {o3.a},” said {c} {q.at}, “and I would like {o.a}.” So {a} gave {c.him} {o.the}.",
    ],
    "deal": [
        "{a} took {o3.the} to {b} and received {o2.the}.",
        "Then {a} gave {o3.the} to {b}, and at last {o2.the} was in {a.his} hands.",
    ],
    "all_happy": [
        "In the end {a} had {o2.the}, {b} had {o3.the}, {c} had {o.the}, and nobody had spent a coin.",
        "And so three people were happy with three old things.",
    ],
    # ends
    "thanks": [
        "“Thank you, {b},” said {a}. “Without you I would not have done it.”",
        "{a} thanked {b} and invited {b.him} to supper.",
        "“What are friends for?” said {b}, smiling.",
    ],
    "happy": [
        "{a} was so happy that {a.he} danced in the street.",
        "{a} smiled from ear to ear.",
        "{a} had never felt so light.",
        "That night {a} slept well.",
    ],
    "close": [
        "And they lived happily ever after.",
        "And that is how {a} learned that patience is a kind of strength.",
        "Since that day {a} and {b} tell this story to anyone who wants to hear it.",
        "When night came, the two friends were still talking by the fire.",
        "And if you go to {a_home}, you can still hear people speak of it.",
        "{a_petname} fell asleep first, and then everyone else.",
        "From then on, nobody in {a_home} forgot that a small kindness goes a long way.",
    ],
}

TITLES = {
    "lost": ["{a} and the Lost Thing", "The {o} of {a}", "Where Is the {o}?"],
    "gift": ["A Gift for {b}", "{a} and the {s}", "The Long Road of {a}"],
    "make": ["{a} Tries Again", "What {a} Made"],
    "quarrel": ["{a} and {b}", "Only One {o}"],
    "fear": ["The Secret of {a}", "{a} and {a_petname}", "A Brave Night"],
    "rescue": ["The {s} in Danger", "{a} and the {s}"],
    "garden": ["The Seed", "The Garden of {a}", "The {seed} of {a}"],
    "trade": ["Three Old Things", "The {o2} and the {o3}"],
}

ASK = {
    "any": [
        "Tell me a story.",
        "Please tell me a story.",
        "Can you tell me a short story?",
        "I would like to hear a story.",
        "Another one, please.",
        "Tell me another story.",
    ],
    "about": [
        "Tell me a story about {topic}.",
        "Can you tell me a story about {topic}?",
        "I would like a story about {topic}, please.",
        "A story about {topic}, please.",
        "Now tell me about {topic}.",
        "Write a short story about {topic}.",
    ],
    "lead": ["", "", "Here is a story about {topic}.\n", "Of course! Listen.\n"],
    "hello": ["Hello!", "Hi!", "Hello, world!", "Good morning.", "Good evening!", "Hi there."],
    "greet": [
        "Hello! I tell stories. Who shall this one be about?",
        "Hello! Shall I tell you a story?",
        "Hi! Give me a name or an animal, and I will tell you a story.",
    ],
    "thank": ["Thank you!", "Thanks, I liked it.", "That was nice.", "Good night."],
    "welcome": [
        "You are welcome! Come back when you want another story.",
        "I am glad you liked it. Good night!",
    ],
    "system": [
        "You are a storyteller.",
        "You tell short stories for children.",
        "You are a helpful storyteller.",
    ],
}
QUESTIONS = [
    ("Where does {a} live?", "{a} lives in {a_home}."),
    ("What does {a} do?", "{a} is a {a_trait} {a_work} in {a_home}."),
    (
        "Who is {a}?",
        "{a} is {a_trait.a} {a_work} from {a_home}, and lives with {a_pet.a} called {a_petname}.",
    ),
    ("What does {a} love most?", "What {a} loves most is {a.his} {a_treasure}."),
    ("What is {a} afraid of?", "{a} is afraid of {a_fear}."),
    ("Does {a} have a pet?", "Yes, {a} has {a_pet.a} called {a_petname}."),
]
