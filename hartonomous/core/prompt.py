"""The prompt: an instruction, the retrieved sources as data, the question beside them.

Retrieved text is data, never instructions. Each source stands between tags, and whatever in it could close or open
such a tag, or is a control token of a chat template, is made harmless in the prompt's copy (`core.neutral`). What is
cited is the untouched text. A template says what stands around the sources, never what a source looks like.

The layout is plain enough for a model of 135 million parameters: short sentences, the sources before the question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from hartonomous.core.neutral import neutralise
from hartonomous.core.template import DEFAULT_TEMPLATE, Template, fill

_OPEN = "<source>"
_CLOSE = "</source>"
# Titles and headings say where a text stands: they are no place for a text of their own.
_HEAD_LENGTH = 240
# The same chunks are found again and again: what stands between their tags is kept, 4 MB of it where it is ASCII.
_KEPT, _LONGEST_KEPT = 512, 4_000

Message = dict[str, str]


class Source(NamedTuple):
    """One hit as the model sees it; `marker` n is cited as [n], `headings` are the ones above it, outermost first."""

    marker: int
    title: str | None
    headings: Sequence[str]
    text: str


def build_messages(
    *,
    question: str,
    sources: Sequence[Source],
    system: str | None = None,
    history: Sequence[Mapping[str, str]] = (),
    template: Template = DEFAULT_TEMPLATE,
) -> list[Message]:
    """Return the messages of a chat completion: the instruction, the earlier turns, the sources and the question.

    `system` replaces the template's instruction; a blank one leaves it out. Of `history` only turns of `user` and
    `assistant` count. It is made to alternate and to begin with the user, since some chat templates refuse anything
    else: turns of one role in a row become one, and a question that was never answered joins this one.
    """
    turns = alternating(history)
    if turns and turns[-1]["role"] == "user":
        question = f"{turns.pop()['content']}\n\n{question}"
    instruction = fill(template.system) if system is None else system
    messages = [{"role": "system", "content": instruction.strip()}] if instruction.strip() else []
    messages += [{"role": turn["role"], "content": neutralise(turn["content"])} for turn in turns]
    # The best source last, next to the question: small models read what is near.
    shown = "\n\n".join([render(source) for source in reversed(sources)])
    asked = fill(template.user, sources=shown, question=neutralise(question.strip()))
    messages.append({"role": "user", "content": asked.strip()})
    return messages


def render(source: Source) -> str:
    """Return one source as it stands in the prompt; count its tokens with this."""
    marker, title, headings, text = source
    inner = (_kept_inner if len(text) <= _LONGEST_KEPT else _inner)(text, title, tuple(headings))
    return f"{_OPEN}\n[{marker}]{inner}\n{_CLOSE}"


def _inner(text: str, title: str | None, headings: tuple[str, ...]) -> str:
    """Return what follows a source's marker."""
    parts = [" ".join(part.split()) for part in (title or "", *headings)]
    head = " > ".join([part for part in parts if part])
    # Made harmless as a whole: no tag is hidden half in a heading and half in the text.
    return neutralise(f" {head[:_HEAD_LENGTH]}".rstrip() + f"\n{text.strip()}")


_kept_inner = lru_cache(_KEPT)(_inner)  # 0.6 us instead of 1.7


def rewriting_message(template: Template, history: Sequence[Mapping[str, str]], question: str) -> Message:
    """Return the message that asks for a follow-up as a question that stands alone."""
    lines = [f"{turn['role'].capitalize()}: {' '.join(turn['content'].split())}" for turn in history]
    conversation = neutralise("\n".join(lines))
    asked = fill(template.rewrite, conversation=conversation, question=neutralise(question.strip()))
    return {"role": "user", "content": asked.strip()}


def truncate_to(text: str, fraction: float) -> str:
    """Return the beginning of `text`, at most `fraction` (0..1) of its characters, cut at a sentence or word if it can.

    The result is a prefix of `text`, so the offsets of a citation stay true.
    """
    if fraction >= 1:
        return text
    limit = int(len(text) * max(0.0, fraction))
    cut = text[:limit]
    if limit < len(text) and not text[limit].isspace():
        # Not in the middle of a word, unless that would throw away a third of what may stay (a script without blanks).
        last = max(cut.rfind(" "), cut.rfind("\n"))
        cut = cut[:last] if last > limit * 2 // 3 else cut
    return cut.rstrip()


def alternating(history: Sequence[Mapping[str, str]]) -> list[Message]:
    """Return the turns of user and assistant that say something, those of one role in a row as one, the user first."""
    turns: list[tuple[str, list[str]]] = []
    for turn in history:
        role, content = turn.get("role"), (turn.get("content") or "").strip()
        if role not in ("user", "assistant") or not content or (role == "assistant" and not turns):
            continue
        if turns and turns[-1][0] == role:
            turns[-1][1].append(content)
        else:
            turns.append((role, [content]))
    return [{"role": role, "content": "\n\n".join(contents)} for role, contents in turns]
