"""Numbers, dates and units of measure as people write them, brought to one form.

- A number may have two values: `1.000` is one and a thousand, depending on who wrote it.
- A date (`12 March 2021`, `March 12th, 2021`, `12. März`, `2021-03-12`, `12/03/2021`) is a day of a month, a month of
  a year, and a year; `12/03` is both of the days that it may be.
- A unit (`kg`, `kilograms`; `$`, `USD`, `dollars`; `%`, `percent`) is one of a table. Words that are in no table are
  units as well where both sides use them (`hartonomous.core.terms`), but only units of the table exclude each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

NUMBER = re.compile(r"[0-9]+(?:[.,][0-9]+)*")
_THOUSANDS = re.compile(r"[0-9]{1,3}(?:([.,])[0-9]{3})(?:\1[0-9]{3})*(?:[.,][0-9]+)?")

_ENGLISH = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty
"""
_GERMAN = "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf"
_FRENCH = "zéro un deux trois quatre cinq six sept huit neuf dix onze douze"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
WORD_NUMBERS = {
    word: str(value) for words in (_FRENCH, _GERMAN, _ENGLISH) for value, word in enumerate(words.split())
} | {word: str(value * 10) for value, word in enumerate(_TENS.split(), 2)}

_MONTH_NAMES = """
january jan januar jänner janvier|february feb februar février|march mar märz mars|april apr avril|may mai|
june jun juni juin|july jul juli juillet|august aug août|september sep sept septembre|
october oct oktober okt octobre|november nov novembre|december dec dezember dez décembre
"""
_MONTHS = {name: month for month, names in enumerate(_MONTH_NAMES.split("|"), 1) for name in names.split()}
_INITIALS = "".join(sorted({name[0] for name in _MONTHS}))


def _beginning(initial: str) -> str:
    names = (name[1:] for name in sorted(_MONTHS, key=len, reverse=True) if name[0] == initial)
    return rf"{initial}(?:{'|'.join(names)})"


_MONTH = "|".join(map(_beginning, _INITIALS))  # by their first letters: of fifty names each is tried else
_DATE = re.compile(
    rf"\b(?=[0-9{_INITIALS}])(?:(?P<d1>[0-3]?[0-9])(?:st|nd|rd|th|er|\.)?\s+(?:of\s+)?(?P<m1>{_MONTH})\b\.?(?:,?\s+(?P<y1>[12][0-9]{{3}})\b)?"
    rf"|(?P<m2>{_MONTH})\b\.?\s+(?P<d2>[0-3]?[0-9])(?:st|nd|rd|th)?\b(?:,?\s+(?P<y2>[12][0-9]{{3}})\b)?"
    rf"|(?P<m3>{_MONTH})\b\.?,?\s+(?P<y3>[12][0-9]{{3}})\b"
    r"|(?P<y4>[12][0-9]{3})-(?P<m4>[01][0-9])-(?P<d4>[0-3][0-9])(?![0-9-])"
    r"|(?<![0-9./-])(?P<a>[0-3]?[0-9])(?P<mark>[./-])(?P<b>[0-3]?[0-9])(?P=mark)(?P<y5>[12][0-9]{3})(?![0-9]|[./-][0-9]))",
    re.IGNORECASE,
)

_MAYBE_DATE = re.compile(rf"\b(?:{_MONTH})\b|[0-9][./-][0-9]", re.IGNORECASE)


def may_be_of_date(chunk: str) -> bool:
    """Tell whether something without a blank in it may be a part of a date that only it shows: a month or figures."""
    if chunk.isascii() and chunk.isalpha():
        return chunk.lower() in _MONTHS
    return _MAYBE_DATE.search(chunk) is not None


_UNITS = """
% percent prozent cent pourcent|kg kilo kilos kilogram kilograms kilogramm kilogramme kilogrammes|g gram grams gramm
gramme grammes|mg milligram milligrams milligramm|lb lbs pound pounds|oz ounce ounces|t ton tons tonne tonnes tonnen|
km kilometre kilometer kilometres kilometers kilomètres|m metre meter metres meters mètre mètres|cm centimetre
centimeter centimetres centimeters|mm millimetre millimeter millimetres millimeters|mile miles mi|ft foot feet|inch
inches zoll|ms millisecond milliseconds|second seconds sec s sekunde sekunden seconde
secondes|minute minutes min minuten|hour hours hr hrs h stunde stunden heure heures|
day days tag tage tagen jour jours|week weeks woche wochen semaine
semaines|month months monat monate monaten mois|year years jahr jahre jahren an ans année années|
l litre liter litres liters|ml millilitre milliliter millilitres milliliters|gallon gallons|v volt volts|
°C celsius|°F fahrenheit|w watt watts|
kw kilowatt kilowatts|kwh|mw megawatt megawatts|a ampere amperes amp amps|hz hertz|khz|mhz|ghz|kb|mb megabyte
megabytes|gb gigabyte gigabytes|tb terabyte terabytes|kbit|mbit|gbit|bar bars|psi|db|ppm|
$ dollar dollars usd|€ euro euros eur|£ gbp sterling|¥ yen jpy|chf franken franc francs|
kr krone kroner kronor kronen|rupee rupees inr
"""
UNITS = {word: names.split()[0] for names in _UNITS.split("|") for word in names.split()}
"""Every way to write a unit, in lower case, and the one it stands for."""

_CURRENCY_WORDS = "dollar dollars euro euros franc francs pound pounds krone kroner kronor yen rupee rupees peso pesos"
CURRENCIES = frozenset(_CURRENCY_WORDS.split())
"""Behind an adjective with a capital ("Swiss francs"), which is part of the unit then."""

ALSO = {"lb": "£"}
"""Units whose words are those of another one as well: pounds."""

_SCALES = """
thousand tausend mille:3|million millions millionen mio:6|billion billions milliarde milliarden milliard milliards
mrd:9
"""
SCALES = {word: int(part.split(":")[1]) for part in _SCALES.split("|") for word in part.split(":")[0].split()}
"""Words that multiply the number before them, in lower case: the power of ten."""

_SYMBOL_AFTER = re.compile(
    r"\s?(?:(%|€|\$|£|¥)|(?:°|degrees?|grad)\s?(C|F)(?:elsius|ahrenheit)?\b)|\s(per\s+cent|pour\s+cent)\b"
)
_SYMBOL_BEFORE = re.compile(r"(?:([$€£¥])|\b(USD|EUR|GBP|CHF|JPY))\s?[-\u2212]?\Z")
_SIGN = re.compile(r"(?:(?:^|[\s(\"'$€£¥=:|])[-\u2212\u2013]|\b(?:minus|moins)\s)[$€£¥]?\Z")


LOOSE = "~"
"""Begins the form by which a whole date is found in a date without a year, and only there."""


@dataclass(slots=True, frozen=True)
class Date:
    """A date's parts as forms: what must agree, and what else its bearer can be asked for; and its place."""

    required: tuple[tuple[str, ...], ...]
    implied: tuple[str, ...]
    start: int
    end: int


def dates(text: str) -> Iterator[Date]:
    """Yield the dates in a text, in order: day and month, month and year, or all three."""
    if NUMBER.search(text) is None:
        return
    for match in _DATE.finditer(text):
        date = _date(match)
        if date is not None:
            yield date


def _date(match: re.Match[str]) -> Date | None:
    parts = {name[0]: value for name, value in match.groupdict().items() if value}
    year = parts.get("y", "")
    if parts.get("m") in ("may", "march", "mar"):
        return None  # verbs, in lower case
    if "a" in parts:
        one, other = int(parts["a"]), int(parts["b"])
        days = [(day, month) for day, month in ((one, other), (other, one)) if 1 <= month <= 12]
    else:
        name = parts["m"].lower().rstrip(".")
        days = [(int(parts.get("d", "0")), int(name) if name.isdigit() else _MONTHS[name])]
    if not days or any(day > 31 or not 1 <= month <= 12 for day, month in days):
        return None
    months = tuple(f"{year}-{month:02}" for _, month in days) if year else ()
    if "d" not in parts and "a" not in parts:
        return Date((months,), (year, f"--{days[0][1]:02}"), match.start(), match.end())
    plain = tuple(f"--{month:02}-{day:02}" for day, month in days)
    loose = tuple(f"{LOOSE}{form}" for form in plain)
    if not year:
        return Date((plain,), loose, match.start(), match.end())
    full = tuple(f"{year}{form[1:]}" for form in plain)
    return Date(((*full, *loose), (year,)), (*plain, *months), match.start(), match.end())


def number_forms(digits: str) -> tuple[str, ...]:
    """Return the values that a number may mean."""
    forms = {plain_number(digits.replace(",", "."))}
    if _THOUSANDS.fullmatch(digits):
        mark = "," if digits.find(",") >= 0 and (digits.find(",") < digits.find(".") or "." not in digits) else "."
        forms.add(plain_number(digits.replace(mark, "").replace(",", ".")))
    return tuple(sorted(forms))


def plain_number(digits: str) -> str:
    """Return a number without zeros that mean nothing."""
    whole, dot, rest = digits.partition(".")
    if "." in rest:
        return digits  # a version or an address
    rest = rest.rstrip("0")
    return (whole.lstrip("0") or "0") + (dot + rest if rest else "")


def scaled(number: str, power: int) -> str:
    """Return a number times a power of ten."""
    whole, _, rest = number.partition(".")
    return plain_number(whole + (rest + "0" * power)[:power] + (f".{rest[power:]}" if len(rest) > power else ""))


def is_negative(text: str, start: int) -> bool:
    """Tell whether the number at `start` has a minus before it: one that stands between no two things."""
    return _SIGN.search(text, max(0, start - 8), start) is not None


def symbol(text: str, start: int, end: int) -> str:
    """Return the unit that is written as a sign beside the number from `start` to `end`, or nothing."""
    after = _SYMBOL_AFTER.match(text, end)
    if after:
        return after[1] or (f"°{after[2]}" if after[2] else "%")
    before = _SYMBOL_BEFORE.search(text, max(0, start - 6), start)
    return UNITS[(before[1] or before[2]).lower()] if before else ""
