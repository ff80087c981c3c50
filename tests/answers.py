"""Answers with and without a planted falsehood, generated over invented facts with a fixed seed.

A document speaks of two subjects of one domain (`tests.domains`), one after the other, as paragraphs, Markdown sections
or lists; a case has several documents. A planted answer is a true one in which one fact was replaced: by one that is
nearly the same, by another subject's (of the same document or of another one), or by one that stands nowhere.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.domains import DOMAINS, Domain, Facts

_LISTS = """
first: Anna Peter Maria Jonas Clara Viktor Elena Tomas Judith Henrik Salma Oskar Irene Pavel Nora Felix
last: Berg Keller Lindqvist Moreau Okafor Tanaka Brandt Novak Silva Haas Petrov Castell Dunne Farkas
city: Ulm Lyon Kiel Tampere Porto Gdansk Leeds Bergen Turin Graz Utrecht Malaga Aarhus Dresden Ghent Bologna
firm: Nortex Veldra Solmatic Quantis Brightwell Orvaxia Helion Tessaro Kestrel Lumina Pollux Zephyra
place: Karun Ostrel Velm Tarnis Dorvo Lisk Marn Selva Brunn Ardal Quell Ysk
month: January February March April May June July August September October November December
monat: Januar Februar März April Mai Juni Juli August September Oktober November Dezember
mois: janvier février mars avril mai juin juillet août septembre octobre novembre décembre
unit: kg g lb km miles hours minutes days weeks months years mm cm litres gallons metres feet
word: three four five six seven eight nine ten eleven twelve
part: tern alder finch cobalt basalt heron maple ember cedar onyx
flag: limit timeout size retries
syllable: cor vel tra mi lo dex pan ra zol fen ti ber
"""
_OF = {name: words.split() for name, _, words in (line.partition(":") for line in _LISTS.strip().splitlines())}


def _integer(rng: random.Random) -> str:
    return str(rng.randint(3, 980))


def _date(months: list[str], form: str) -> Callable[[random.Random], str]:
    return lambda rng: form.format(d=rng.randint(1, 28), m=rng.choice(months), y=rng.randint(1988, 2024))


def _two(rng: random.Random, one: list[str], other: list[str]) -> str:
    return f"{rng.choice(one)} {rng.choice(other)}"


MAKE: dict[str, Callable[[random.Random], str]] = {
    "integer": _integer,
    "large": lambda rng: f"{rng.randint(1, 99)},{rng.randint(100, 999)}",
    "decimal": lambda rng: f"{rng.randint(1, 60)}.{rng.randint(1, 9)}",
    "comma": lambda rng: f"{rng.randint(1, 60)},{rng.randint(1, 9)}",
    "percent": lambda rng: f"{rng.randint(3, 97)}%",
    "money": lambda rng: f"{rng.choice('$€£')}{rng.randint(20, 990)}",
    "negative": lambda rng: f"-{rng.randint(5, 60)}",
    "year": lambda rng: str(rng.randint(1890, 2024)),
    "date": _date(_OF["month"], "{d} {m} {y}"),
    "datum": _date(_OF["monat"], "{d}. {m} {y}"),
    "jour": _date(_OF["mois"], "{d} {m} {y}"),
    "iso": lambda rng: f"{rng.randint(2015, 2024)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}",
    "time": lambda rng: f"{rng.randint(6, 22):02}:{rng.choice([5, 10, 25, 35, 40, 50]):02}",
    "version": lambda rng: f"{rng.randint(1, 9)}.{rng.randint(0, 20)}.{rng.randint(0, 9)}",
    "code": lambda rng: f"{rng.choice('HKMRTXZ')}{rng.choice('ABCDX')}-{rng.randint(10, 99)}0",
    "package": lambda rng: f"{rng.choice(_OF['part'])}-{rng.choice(_OF['part'])}",
    "flag": lambda rng: f"{rng.choice(_OF['part'])}_{rng.choice(_OF['flag'])}",
    "caps": lambda rng: "".join(rng.choice("BCDFGKLMNPRSTVZ") for _ in range(4)),
    "person": lambda rng: _two(rng, _OF["first"], _OF["last"]),
    "city": lambda rng: rng.choice(_OF["city"]),
    "firm": lambda rng: rng.choice(_OF["firm"]),
    "place": lambda rng: rng.choice(_OF["place"]),
    "drug": lambda rng: "".join(rng.sample(_OF["syllable"], 3)).capitalize(),
    "word": lambda rng: rng.choice(_OF["word"]),
    "unit": lambda rng: rng.choice(_OF["unit"]),
}


def _other_digit(rng: random.Random, value: str) -> str:
    """Change one digit, not the first one of several."""
    places = [at for at, char in enumerate(value) if char.isdigit()]
    at = rng.choice(places[1:] or places)
    return value[:at] + rng.choice([digit for digit in "123456789" if digit != value[at]]) + value[at + 1 :]


def _near(rng: random.Random, kind: str, value: str) -> str:
    """Return a value that is nearly the same."""
    if kind == "negative":
        return value[1:]
    if kind in ("date", "datum", "jour"):
        day = re.match(r"[0-9]+", value)
        assert day is not None
        turned = day[0][::-1].lstrip("0")
        changed = turned if turned != day[0] and int(turned) <= 31 else str(int(day[0]) % 28 + 1)
        return changed + value[day.end() :]
    if kind in ("person", "city", "firm", "place", "drug"):
        at = max(value.rfind(vowel) for vowel in "aeiou")
        return value[:at] + rng.choice([vowel for vowel in "aeiou" if vowel != value[at]]) + value[at + 1 :]
    if kind in ("caps", "package", "flag", "word", "unit"):
        return MAKE[kind](rng)
    if kind == "money" and rng.random() < 0.4:
        return rng.choice([sign for sign in "$€£" if sign != value[0]]) + value[1:]
    return _other_digit(rng, value)


@dataclass(frozen=True)
class Case:
    """An answer of one sentence to check against sources.

    `planted` is "" for a true one, else what was planted: the slot's kind and where the value comes from. `owner` is
    the number of the source that says it (for a planted one: the one that it was taken from).
    """

    sources: tuple[str, ...]
    answer: str
    owner: int
    planted: str
    domain: str


def _subjects(domain: Domain, rng: random.Random, count: int) -> list[Facts]:
    """Return facts of different subjects that share no value."""
    subjects: list[Facts] = []
    used: set[str] = set()
    for _ in range(count):
        facts: Facts = {}
        for slot, kind in domain.slots.items():
            value = MAKE[kind](rng)
            while value in used and kind not in ("unit", "word"):
                value = MAKE[kind](rng)
            facts[slot] = value
            used.update((value, *value.split()) if kind == "person" else (value,))
        subjects.append(facts)
    return subjects


def _document(domain: Domain, subjects: list[Facts], rng: random.Random) -> str:
    """Write a document in one of three forms: paragraphs, Markdown sections, lists under headings."""
    form = rng.choice(("text", "text", "markdown", "list"))
    parts: list[str] = []
    for facts in subjects:
        said = [sentence.format(**facts) for sentence in domain.says]
        if form == "list":
            parts.append(f"## {facts[domain.key]}\n\n" + "\n".join(f"- {sentence}" for sentence in said))
            continue
        said.insert(rng.randint(1, len(said)), rng.choice(domain.filler))
        body = (" " if rng.random() < 0.7 else "\n").join(said)
        parts.append(f"## {facts[domain.key]}\n\n{body}" if form == "markdown" else body)
    return "\n\n".join(parts)


def _plant(domain: Domain, tell: str, about: int, subjects: list[Facts], rng: random.Random) -> tuple[str, str] | None:
    """Replace one fact of a true answer about a subject; return the answer and what was planted."""
    facts = subjects[about]
    slot = rng.choice(re.findall(r"\{(\w+)\}", tell))
    kind = domain.slots[slot]
    origin = rng.choice(("near", "sibling", "other", "nowhere"))
    sibling = subjects[about ^ 1]
    elsewhere = {"sibling": sibling[slot], "other": subjects[-1][slot], "nowhere": MAKE[kind](rng)}
    value = _near(rng, kind, facts[slot]) if origin == "near" else elsewhere[origin]
    if value == facts[slot] or (slot == domain.key and origin != "near" and kind == "word"):
        return None
    if origin in ("nowhere", "near") and any(value == other for one in subjects for other in one.values()):
        return None
    return tell.format(**{**facts, slot: value}), f"{kind}:{origin}"


def _marked(answer: str, owner: int, rng: random.Random) -> str:
    """Put a marker on some answers, the right one or none."""
    marker = rng.choice(("", "", f"[{owner}]"))
    return f"{answer[:-1]} {marker}." if marker else answer


def _case(domain: Domain, rng: random.Random, *, planted: bool) -> Case | None:
    # Two subjects in each of two documents, and one document about something else.
    subjects = _subjects(domain, rng, 4)
    other = rng.choice([another for another in DOMAINS if another.name != domain.name])
    documents = [
        _document(domain, subjects[:2], rng),
        _document(domain, subjects[2:], rng),
        _document(other, _subjects(other, rng, 2), rng),
    ]
    about = rng.randint(0, 1)
    tell = rng.choice((*domain.tells, *(said for said in domain.says if f"{{{domain.key}}}" in said)))
    answer, what = tell.format(**subjects[about]), ""
    if planted:
        changed = _plant(domain, tell, about, subjects, rng)
        if changed is None:
            return None
        answer, what = changed
    order = rng.sample(range(3), 3)
    owner = order.index(0) + 1
    return Case(tuple(documents[place] for place in order), _marked(answer, owner, rng), owner, what, domain.name)


def cases(seed: int, count: int, *, held: bool) -> Iterator[Case]:
    """Yield true and planted answers in turn, from the held-out domains or from the others."""
    rng = random.Random(seed)
    domains = [domain for domain in DOMAINS if domain.held is held]
    made = 0
    while made < count:
        case = _case(rng.choice(domains), rng, planted=made % 2 == 1)
        if case is not None:
            made += 1
            yield case
