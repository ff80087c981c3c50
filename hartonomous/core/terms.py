"""The words, numbers, names and codes of a sentence, brought to one form so that they can be compared.

A term is *hard* when a sentence that has it is false unless a source has it too: numbers, codes and identifiers
(tokens with digits, underscores, inner dots or capitals), words in capitals, and capitalised words inside a sentence
(not in German, which capitalises every noun). All other content words are soft; function words are no terms.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, takewhile

_TOKEN = re.compile(
    r"[0-9]+(?:[.,][0-9]+)*(?![^\W_]|[-_/:][^\W_])"
    r"|[^\W_]+(?:(?:[-_.'’/:@]|::)[^\W_]+|_+(?=[^\W_]))*"  # noqa: RUF001
)
# Scripts without blanks between words, and Korean, whose words change their endings: compared by pairs of characters.
_DENSE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
_DENSE_RUN = re.compile(f"[{_DENSE}]+")
_DIGIT = re.compile(r"[0-9]")
_NUMBER = re.compile(r"[0-9]+(?:[.,][0-9]+)*")
_THOUSANDS = re.compile(r"[0-9]{1,3}(?:([.,])[0-9]{3})(?:\1[0-9]{3})*(?:[.,][0-9]+)?")
_QUANTITY = re.compile(r"([0-9]+(?:[.,][0-9]+)*)-?([^\W\d_]{1,3}|-[^\W\d_]+)")
_HYPHENATED_QUANTITY = re.compile(r"([0-9]+(?:[.,][0-9]+)*)-([^\W\d_]+)")
_DIGIT_GROUPS = re.compile(r"[0-9]+(?:[-/:.][0-9]+)+")
_CAMEL = re.compile(r"[a-z][A-Z]")
_SUFFIX = re.compile(r"(?<=\w{3})(?:ings?|edly|ed|ies|es|s|ly|e|en)\Z")
_POSSESSIVE = re.compile(r"['’]s?\Z")  # noqa: RUF001
_SOURCE_NUMBER = re.compile(r"\b(?:source|document|passage|quelle)s?\s+#?[0-9]{1,3}\b", re.IGNORECASE)
_ITEM = re.compile(r"^\s*(?:[-*+>#]+\s+)*(?:\(?[0-9]{1,3}[.)]\s+)?", re.MULTILINE)
_PAUSE = re.compile(r"[,;:()|.!?\n]")
_STARTERS = ':;"“„«(*#|—–`'  # noqa: RUF001

_UP_TO_TWENTY = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty
"""
_WORD_NUMBERS = {word: str(value) for value, word in enumerate(_UP_TO_TWENTY.split())} | {
    "thirty": "30",
    "forty": "40",
    "fifty": "50",
    "sixty": "60",
    "seventy": "70",
    "eighty": "80",
    "ninety": "90",
}
_SOFT_NUMBERS = frozenset(("zero", "one", "two"))  # used for "none", "somebody", "both"

_FUNCTION_WORDS = """
a about above according after again all also although always am an and any are as at be because been before being
below between both but by can cannot could did do does doing done down due during each either else even ever
every few first following for from further get gets given had has have having he hence her here hers him his how
however i if in including into is it its itself just less like made make makes many may me means might more most
much must my need needs no nor not now of off often on once only or other others our out over own per please
rather same see several shall she should since so some such than that the their them then there therefore these
they this those though through thus to too under until up upon us use used uses using very via was we well
were what when where whether which while who whom whose why will with within without would yes yet you your
source sources document documents text context information answer question note
der die das den dem des ein eine einen einem einer eines und oder aber ist sind war waren wird werden wurde hat
haben mit von vom zu zum zur im ins in an am auf aus bei nach für über unter nicht auch als wie wenn dass sich
es er sie ihr ihre sein seine nur noch kann können muss müssen dieser diese dieses man so um durch
le la les un une des du de et ou est sont été dans sur par pour avec sans que qui ne pas plus ce cette ces il
elle ils elles se son sa ses au aux en el los las una unos unas y o es son del al con sin por para no más lo
il di da che non è sono della dei delle nel nella con per
"""
STOPWORDS = frozenset(_FUNCTION_WORDS.split())
_GERMAN_WORDS = """
der die das den dem des ein eine einen einem einer und ist sind war wird werden wurde mit von zu zum zur im auf
aus bei nach für über nicht auch als wie wenn dass sich es kann muss hat haben
"""
_GERMAN = frozenset(_GERMAN_WORDS.split())


@dataclass(slots=True, frozen=True)
class Term:
    """One term: the forms any of which makes it the same as another, its kind, and a number's unit.

    `unit` is the first content word after a number ("40 *kg*"), None where there is none.
    """

    forms: tuple[str, ...]
    hard: bool
    number: bool = False
    unit: str | None = None


_BREAK = Term((), hard=False)
"""Stands where a number and what follows do not belong together."""


def terms(sentence: str) -> list[Term]:
    """Return the terms of a sentence, in order, repetitions included."""
    text = _ITEM.sub("", _SOURCE_NUMBER.sub(" ", sentence))
    spaced = text if text.isascii() else _DENSE_RUN.sub(lambda run: f" {run[0]} ", text)
    parts = list(_terms(spaced))
    return [_with_unit(parts, index) if part.number else part for index, part in enumerate(parts) if part is not _BREAK]


def stem(word: str) -> str:
    """Return a word without its commonest English endings, in lower case; crude, but the same on both sides."""
    return _SUFFIX.sub("", word.lower()) if len(word) > 3 else word.lower()


_SCALES = {stem(word): power for word, power in (("thousand", 3), ("million", 6), ("billion", 9))}


def _terms(text: str) -> Iterator[Term]:
    tokens = list(_TOKEN.finditer(text))
    names = not text.isupper() and not _is_german([token[0] for token in tokens])
    for place, token in enumerate(tokens):
        word = token[0]
        if place and _PAUSE.search(text, tokens[place - 1].end(), token.start()):
            yield _BREAK
        inside = place > 0 and word[0].isupper() and text[: token.start()].rstrip()[-1:] not in _STARTERS
        yield from _classified(word, names, inside)


def _is_german(words: Sequence[str]) -> bool:
    return len(_GERMAN.intersection(words)) * 8 > len(words)


@lru_cache(maxsize=1 << 14)  # the same words come again and again: it halves the time
def _classified(word: str, names: bool, inside: bool) -> tuple[Term, ...]:
    """Return the terms of one token; `names`: capitals mean something here, `inside`: it does not begin a sentence."""
    word = _POSSESSIVE.sub("", word)
    if _DIGIT.search(word):
        return tuple(_digits(word))
    if _DENSE_RUN.match(word):
        return tuple(Term((word[at : at + 2],), hard=False) for at in range(max(1, len(word) - 1)))
    return tuple(_word(word, names=names, inside=inside))


def _digits(word: str) -> Iterator[Term]:
    """Yield the terms of a token with digits: a number, a number with its unit, a date or version, or a code."""
    quantity = _HYPHENATED_QUANTITY.fullmatch(word) or _QUANTITY.fullmatch(word)
    if _NUMBER.fullmatch(word):
        yield Term(_number_forms(word), hard=True, number=True)
    elif quantity:
        yield Term(_number_forms(quantity[1]), hard=True, number=True)
        yield Term((stem(quantity[2]),), hard=False)
    elif _DIGIT_GROUPS.fullmatch(word):
        # A date may be written in another order: its parts count.
        yield from (Term(_number_forms(part), hard=True) for part in re.split(r"\D", word))
    else:
        yield Term((_code(word),), hard=True)


def _number_forms(digits: str) -> tuple[str, ...]:
    """Return the values that a number may mean: `1.000` is one and a thousand, depending on who wrote it."""
    forms = {_plain_number(digits.replace(",", "."))}
    if _THOUSANDS.fullmatch(digits):
        mark = "," if digits.find(",") >= 0 and (digits.find(",") < digits.find(".") or "." not in digits) else "."
        forms.add(_plain_number(digits.replace(mark, "").replace(",", ".")))
    return tuple(sorted(forms))


def _plain_number(digits: str) -> str:
    whole, dot, rest = digits.partition(".")
    if "." in rest:
        return digits  # a version or an address
    rest = rest.rstrip("0")
    return (whole.lstrip("0") or "0") + (dot + rest if rest else "")


def _code(word: str) -> str:
    """Return a code without what people leave out of it: `HX-200`, `hx 200` and `HX200` are one."""
    return re.sub(r"[-_]", "", word).lower()


def _word(word: str, *, names: bool, inside: bool) -> Iterator[Term]:
    lower = word.lower()
    if lower in STOPWORDS:
        return
    if lower in _WORD_NUMBERS:
        yield Term((_WORD_NUMBERS[lower],), hard=lower not in _SOFT_NUMBERS, number=True)
    elif "_" in word or _CAMEL.search(word) or re.search(r"\w[.:@]\w", word):
        yield Term((_code(word),), hard=True)
    elif len(word) > 1 and word.isupper() and names:
        yield Term(_name_forms(word), hard=True)
    elif re.search(r"[-/'’]", word):  # noqa: RUF001
        for part in re.split(r"[-/'’]", word):  # noqa: RUF001
            if len(part) > 1:
                yield from _word(part, names=names, inside=inside)
    else:
        yield Term(_name_forms(word), hard=inside and names and word[:1].isupper())


def _name_forms(word: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((stem(word), _code(word))))


def _with_unit(parts: list[Term], index: int) -> Term:
    """Give a number its unit, and the value that a scale word after it makes of it."""
    part = parts[index]
    near = takewhile(lambda term: term is not _BREAK, islice(parts, index + 1, index + 3))
    after = next((term for term in near if not term.number and not term.hard), None)
    if after is None:
        return part
    power = _SCALES.get(after.forms[0], 0) if after is parts[index + 1] else 0
    if power:
        scaled = tuple(_scaled(form, power) for form in part.forms)
        return Term((*part.forms, *scaled), part.hard, number=True)
    return Term(part.forms, part.hard, number=True, unit=after.forms[0])


def _scaled(number: str, power: int) -> str:
    whole, _, rest = number.partition(".")
    return _plain_number(whole + (rest + "0" * power)[:power] + (f".{rest[power:]}" if len(rest) > power else ""))
