"""The prompt: an instruction, the retrieved sources as data, the question beside them.

Retrieved text is data, never instructions. Each source stands between tags, and whatever in it could close or open
such a tag, or is a control token of a chat template, is made harmless in the prompt's copy (`core.neutral`). What is
cited is the untouched text. A template says what stands around the sources, never what a source looks like.

The layout is plain enough for a model of 135 million parameters: short sentences, the sources before the question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from hartonomous.core.grounding import placed
from hartonomous.core.neutral import neutralise
from hartonomous.core.template import DEFAULT_TEMPLATE, Template, fill

_OPEN = "<source>"
_CLOSE = "</source>"
# Titles and headings say where a text stands: they are no place for a text of their own.
_HEAD_LENGTH = 240
# The same chunks are found again and again: so many are kept, some 6 MB of ASCII, 10 with the longest titles.
_KEPT, _LONGEST_KEPT = 512, 4_000

Message = dict[str, str]


@dataclass(frozen=True)
class Source:
    """One hit as the model sees it; `headings` are the ones above it, outermost first. The first is cited as [1]."""

    text: str
    title: str | None = None
    headings: tuple[str, ...] = ()

    @cached_property
    def inner(self) -> str:
        """What follows its marker in the prompt, harmless."""
        parts = [" ".join(part.split()) for part in (self.title or "", *self.headings)]
        head = " > ".join([part for part in parts if part])
        # Made harmless as a whole: no tag is hidden half in a heading and half in the text.
        return neutralise(f" {head[:_HEAD_LENGTH]}".rstrip() + f"\n{self.text.strip()}")

    @cached_property
    def ground(self) -> str:
        """What an answer can rest on: the text with the title and headings, which the model sees, too."""
        return placed(self.text, self.title, self.headings)

    def of(self, text: str) -> Source:
        """Return the source of the beginning of its text."""
        return self if len(text) == len(self.text) else Source(text, self.title, self.headings)


def source_of(text: str, title: str | None, headings: tuple[str, ...]) -> Source:
    """Return a source, the same one for the same chunk, whose parts were put together before."""
    return (_kept if len(text) <= _LONGEST_KEPT else Source)(text, title, headings)


_kept = lru_cache(_KEPT)(Source)


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
    instruction = (fill(template.system) if system is None else system).strip()
    messages = [{"role": "system", "content": instruction}] if instruction else []
    if history:
        turns = alternating(history)
        if turns and turns[-1]["role"] == "user":
            question = f"{turns.pop()['content']}\n\n{question}"
        messages += [{"role": turn["role"], "content": neutralise(turn["content"])} for turn in turns]
    # The best source last, next to the question: small models read what is near.
    shown = "\n\n".join(rendered(sources)[::-1])
    asked = fill(template.user, sources=shown, question=neutralise(question.strip()))
    messages.append({"role": "user", "content": asked.strip()})
    return messages


def rendered(sources: Sequence[Source]) -> list[str]:
    """Return sources as they stand in the prompt, numbered from 1; count their tokens with this."""
    return [f"{_OPEN}\n[{marker}]{source.inner}\n{_CLOSE}" for marker, source in enumerate(sources, 1)]


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
