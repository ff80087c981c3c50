"""Follow-up questions made to stand alone: what a model wrote is checked, and words alone must do where it fails.

A small model answers a question that it was asked to rewrite, repeats an earlier one, or invents. So its text is taken
only if it is one question that keeps the follow-up's own words and brings in no word that stands neither in the
conversation nor in the follow-up, yet at least one of the conversation's. Otherwise the follow-up is kept and the words
that it leans on are set behind it: names of the newest turn that has some, the words of the last question that stood
alone (a bare name is one, too), and the names of the latest answer. It reads badly and finds well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from hartonomous.core.lexicon import STOPWORDS
from hartonomous.core.sentences import sentences
from hartonomous.core.terms import terms
from hartonomous.core.words import Term

# Words that point at something said before, and openings of a question that leans on the one before.
_POINTING_WORDS = """
it its itself this that these those they them their theirs he him his himself she her hers herself there then one ones
former latter other others another same such first second third fourth fifth last next previous both either
er ihn ihm sie ihr ihre sein seine es dessen deren dies diese dieser dieses davon dazu damit darin dort dorthin
il elle ils elles lui leur celui celle ceux cela ça ce él ella ellos ellas eso esto ese esa su sus lo
"""
_POINTING = frozenset(_POINTING_WORDS.split())
_OPENING = re.compile(
    r"\s*(?:and|but|or|so|also|what about|how about|why|how so|how come|und|aber|oder|was ist mit|wie ist es mit"
    r"|et|mais|ou|y|pero|o)\b(?! (?:is|are|was|were|do|does|did|has|have|can|should|would)\b)",
    re.IGNORECASE,
)
# Of these a question or a reply is made; they are no subject.
_ASKING_WORDS = """
tell show explain describe give list name say know want like find please summarize summarise mention ask
hello hi thanks thank okay ok yes yeah no sure great nice cool right continue go hey hallo ja nein
nenne erkläre zeige beschreibe bitte danke merci gracias
"""
_ASKING = frozenset(_ASKING_WORDS.split())
_ORDINALS = {"first": 0, "former": 0, "second": 1, "third": 2, "fourth": 3, "fifth": 4, "last": -1, "latter": -1}
_LEADING = re.compile(
    r"^(?:(?:the|a|sure|certainly|here is|here's|my|your|this is|okay)[,!]?\s+)*"
    r"(?:(?:stand-?\s?alone|self-contained|re-?written|re-?phrased|follow-?\s?up|new|search|final)\s+)*"
    r"(?:question|query|answer|output|rewrite|user|assistant)\s*[:\-]\s*",
    re.IGNORECASE,
)
_THOUGHTS = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_BULLET = re.compile(r"^(?:[-*>#]+\s+|\d{1,2}[.)]\s+)+")
_QUOTES = "\"'`\u201c\u201d\u2018\u2019\u00ab\u00bb\u201e* "
_MARKER = re.compile(r"\[\d+\]")
_WORD = re.compile(r"[^\W_](?:[\w'\u2019.:/+-]*\w)?")
_LONGEST_CHARS, _LONGEST_WORDS = 400, 48
_CONTEXT_WORDS, _ANSWER_NAMES = 16, 3
# "How early?" leans on the question before it, "Who is Ada?" and "Borealis lamp?" do not.
_LEAST_WORDS = 3
_BARE_ARTICLES = frozenset(("the", "a", "an", "der", "die", "das", "le", "la", "les", "el", "los", "las"))
# A backend gets no NUL, and no query holds what is no text.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")

Turn = Mapping[str, str]


def stands_alone(question: str, history: Sequence[Turn]) -> bool:
    """Whether a question plainly needs nothing of what came before.

    It points at nothing, and it names what it is about or has all words of what was spoken of already.
    """
    if _leans(question):
        return False
    return (len(terms(question)) > 2 and _names_something(question)) or not _missing(question, history)


def accept(text: str, question: str, history: Sequence[Turn]) -> str | None:
    """Return the question that a model wrote for a follow-up, without what stands around it; None if it is none."""
    line = _cleaned(text)
    if not line or len(line) > _LONGEST_CHARS or len(line.split()) > _LONGEST_WORDS:
        return None
    if len(sentences(line)) > 1 or (line.endswith((".", "!", ":")) and not question.rstrip().endswith(line[-1])):
        return None
    own, said, written = _forms(question), _forms("\n".join(turn["content"] for turn in history)), terms(line)
    kept = {form for term in written for form in term.forms}
    if any(kept.isdisjoint(term.forms) for term in _own_terms(question)):
        return None
    if any(not (own | said).intersection(term.forms) for term in written):
        return None
    gained = [term for term in written if own.isdisjoint(term.forms)]
    return line if gained and not _repeats(kept, question, history) else None


def from_words(question: str, history: Sequence[Turn]) -> str:
    """Return the follow-up with the words that it leans on behind it; itself where it needs or finds none.

    What points at nothing and names something may well have changed the subject: it is left alone.
    """
    if not _leans(question) and _names_something(question):
        return question
    words = _missing(question, history)
    return f"{question.strip()} ({' '.join(words)})" if words else question


def _missing(question: str, history: Sequence[Turn]) -> list[str]:
    """Return the words of what was spoken of that a question does not have."""
    since, subject = _subject(history)
    answers = [turn["content"] for turn in history if turn["role"] == "assistant"]
    newer = [turn["content"] for turn in history[since:] if turn["role"] == "assistant"]
    chosen = _ordinal(question, answers)
    named = next(filter(None, (_names(_beginning(answer)) for answer in reversed(newer))), [])
    words = [chosen, *subject] if chosen else [*subject, *(named[:_ANSWER_NAMES] if _leans(question) else [])]
    own = _forms(question)
    return [word for word in dict.fromkeys(words) if own.isdisjoint(_forms(word))][:_CONTEXT_WORDS]


def _names_something(question: str) -> bool:
    return any(term.hard and not term.number for term in terms(question))


def _cleaned(text: str) -> str:
    found = (_unwrapped(_CONTROL.sub(" ", line)) for line in _THOUGHTS.sub("", text).splitlines())
    lines = [line for line in found if line]
    if len(lines) > 1 and lines[0].endswith(":"):
        lines = lines[1:]
    return " ".join(_MARKER.sub("", lines[0]).split()) if lines else ""


def _unwrapped(line: str) -> str:
    return _LEADING.sub("", _BULLET.sub("", line.strip()).lstrip(_QUOTES)).strip(_QUOTES)


def _leans(question: str) -> bool:
    words = {word.lower() for word in _WORD.findall(question)}
    return bool(words & _POINTING) or _OPENING.match(question) is not None


def _own_terms(question: str) -> Iterable[Term]:
    """Return the terms that must stay: those that point ("the second one") are what is to be replaced."""
    pointing = {form for word in _POINTING for term in terms(word) for form in term.forms}
    return (term for term in terms(question) if pointing.isdisjoint(term.forms))


def _forms(text: str) -> set[str]:
    return {form for term in terms(text) for form in term.forms}


def _repeats(kept: set[str], question: str, history: Sequence[Turn]) -> bool:
    """Whether a follow-up without words of its own has become an earlier question once more."""
    if any(True for _ in _own_terms(question)):
        return False
    return any(_forms(turn["content"]) == kept for turn in history if turn["role"] == "user")


def _subject(history: Sequence[Turn]) -> tuple[int, list[str]]:
    """Return since which turn it has been spoken of, and its words: back to the last question that leaned on no other.

    A follow-up that names something ("and the Borealis?") changes the name and keeps the rest.
    """
    since, named, asked = 0, list[str](), list[str]()
    for place in reversed(range(len(history))):
        text = history[place]["content"]
        words = [word for word in _words(text) if word.lower() not in _POINTING]
        if history[place]["role"] != "user" or not words:
            continue
        if _is_subject(text, words):
            names = _parts(_names(text))
            rest = [word for word in words if not named or word not in names]
            return since if named or asked else place, [*asked, *named, *rest]
        if not named and not asked and _is_bare(text):
            since, asked = place, words
        elif not named:
            since, named = (since if asked else place), words if _OPENING.match(text) else _parts(_names(text))
    return since, [*asked, *named]


def _is_subject(text: str, words: Sequence[str]) -> bool:
    """Whether a turn says by itself what is spoken of: a question of some length, or a bare name.

    One word that is not written as a name may be another question about the same ("weight?").
    """
    if _leans(text):
        return False
    return len(_WORD.findall(text)) >= _LEAST_WORDS or (_is_bare(text) and (len(words) > 1 or _names_something(text)))


def _is_bare(text: str) -> bool:
    """Whether a turn is nothing but content words."""
    said = [word.lower() for word in _WORD.findall(text) if word.lower() not in _BARE_ARTICLES]
    return not _leans(text) and STOPWORDS.isdisjoint(said)


def _words(text: str) -> list[str]:
    found = _WORD.findall(_MARKER.sub(" ", text))
    return [word for word in found if word.lower() not in STOPWORDS and word.lower() not in _ASKING]


def _names(text: str) -> list[str]:
    """Return the names and codes of a text in order: words in a row that are written as such are one.

    One word alone that begins a sentence is none: its capital says nothing.
    """
    names: list[str] = []
    for start, end in sentences(_MARKER.sub("", text)):
        names += _names_in(_MARKER.sub("", text)[start:end])
    return list(dict.fromkeys(names))


def _names_in(sentence: str) -> list[str]:
    names: list[str] = []
    first = last = -1
    for match in _WORD.finditer(sentence):
        word = match[0]
        first = match.start() if first < 0 else first
        coded = any(map(str.isdigit, word)) and any(map(str.isalpha, word))
        if word.lower() in STOPWORDS or not (word[0].isupper() or coded):
            continue
        if names and sentence[last : match.start()] == " ":
            names[-1] += f" {word}"
        elif coded or match.start() != first or sentence[match.end() :].lstrip()[:1].isupper():
            names.append(word)
        else:
            continue
        last = match.end()
    return names


def _parts(names: Iterable[str]) -> list[str]:
    return [part for name in names for part in name.split()]


def _ordinal(question: str, answers: Sequence[str]) -> str | None:
    """Return the name that "the second one" or "the latter" means, of the newest answer that gives several."""
    places = [_ORDINALS[word] for word in _WORD.findall(question.lower()) if word in _ORDINALS]
    for names in map(_names, reversed(answers)) if places else ():
        if len(names) > max(1, places[0]):
            return names[places[0]]
    return None


def _beginning(answer: str) -> str:
    spans = sentences(answer)[:2]
    return answer[: spans[-1][1]] if spans else ""
