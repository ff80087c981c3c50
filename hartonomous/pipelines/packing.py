"""The prompt packed into the model's live context: as many of the sources as fit beside the answer, best first.

Where even an upper bound (by bytes) fits, nothing is asked. Else llama.cpp renders the prompt by the model's own chat
template (`/apply-template`) and counts it and its parts (`/tokenize`); if not all of it fits, a third call counts what
seems to fit and what might just fit, and the most that does is taken. A service that can neither render nor count is
packed for by an estimate.

A service that refuses the prompt is asked for its context anew: if that has become smaller, the prompt is packed for
it, else made half as large. What was told as marker n stays marker n.

Earlier turns get at most a third of the context, the newest first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from hartonomous.clients.generative import GenerativeClient
from hartonomous.core.call import Call
from hartonomous.core.packing import Draft, Selection, careful, halved, head, most
from hartonomous.core.prompt import Message, rendered
from hartonomous.errors import ValidationFailedError

# With less room than this for a source there is nothing to answer from.
_LEAST_SOURCE = 32


class Packed(Struct, frozen=True):
    """A prompt that fits: its messages, what of the sources they show, and the tokens that are left for the answer.

    `context` is the context in tokens that it was packed for.
    """

    messages: list[Message]
    shown: Selection
    max_tokens: int
    draft: Draft
    context: int


@dataclass(slots=True, frozen=True)
class _Sizes:
    """What the model counted, in tokens: the prompt with all sources, each earlier turn, each source."""

    prompt: str
    total: int
    turns: Sequence[int]
    sources: Sequence[int]

    @property
    def rest(self) -> int:
        """What stands around the sources."""
        return self.total - sum(self.sources)


class _TooLongError(ValidationFailedError):
    """The question leaves no room for a source."""

    def __init__(self) -> None:
        super().__init__("The question does not fit the model's context.", param="query")


class Packer:
    """Packs prompts for one generative service."""

    def __init__(self, generative: GenerativeClient) -> None:
        self._generative = generative

    async def pack(self, draft: Draft, max_tokens: int, options: Mapping[str, Any], call: Call) -> Packed:
        """Return the prompt with what fits of it beside an answer of `max_tokens`, or of half the context.

        `options` are those of the chat request: a chat template may look at them. Raises ValidationFailedError when
        the question or the caller's instruction leaves no room, and what `GenerativeClient.context_tokens` raises.
        """
        context = await self._generative.context_tokens(call)
        return await self._pack(draft, context, max_tokens, options, call)

    async def again(self, packed: Packed, options: Mapping[str, Any], call: Call) -> Packed:
        """Return a smaller prompt for a service that refused this one as too long; its sources are the first of them.

        Raises what `pack` raises.
        """
        context = await self._generative.context_anew(call)
        if context >= packed.context:
            return self._smaller(packed)
        draft = replace(packed.draft, sources=packed.shown.sources)
        fresh = await self._pack(draft, context, packed.max_tokens, options, call)
        shown = head(fresh.shown)
        shown = replace(shown, places=packed.shown.places[: len(shown.places)])
        return replace(fresh, messages=fresh.draft.messages(shown), shown=shown)

    async def _pack(
        self, draft: Draft, context: int, max_tokens: int, options: Mapping[str, Any], call: Call
    ) -> Packed:
        try:
            return await self._fitted(draft, context, max_tokens, options, call)
        except _TooLongError:
            if draft.standard is None:
                raise
        await self._fitted(replace(draft, system=draft.standard, history=()), context, max_tokens, options, call)
        raise ValidationFailedError("The system text does not fit the model's context.", param="system")

    async def _fitted(
        self, draft: Draft, context: int, max_tokens: int, options: Mapping[str, Any], call: Call
    ) -> Packed:
        answer = min(max_tokens, context // 2)
        limit = context - answer
        draft = draft.bounded(limit)
        everything = draft.everything
        messages = draft.messages(everything)
        if most(messages) <= limit:
            newest = draft.newest([careful(turn) for turn in draft.turns], limit // 3) if draft.history else draft
            if len(newest.history) == len(draft.history):
                return Packed(messages, everything, answer, draft, context)
            return _packed(newest, everything, answer, context)
        counted = await self._counted(draft, limit, options, call)
        return _packed(*(counted or self._estimated(draft, limit)), answer, context)

    @staticmethod
    def _smaller(packed: Packed) -> Packed:
        draft = replace(packed.draft, history=())
        return _packed(draft, halved(packed.shown), packed.max_tokens, packed.context)

    async def _counted(
        self, draft: Draft, limit: int, options: Mapping[str, Any], call: Call
    ) -> tuple[Draft, Selection] | None:
        """Return what fits by exact counts; None when the service cannot count."""
        draft = draft.newest([careful(turn) for turn in draft.turns], limit // 3)
        sizes = await self._measure(draft, options, call)
        if sizes is None:
            return None
        if sum(sizes.turns) > limit // 3:
            draft = draft.newest(sizes.turns, limit // 3)
            sizes = await self._measure(draft, options, call)
            if sizes is None:
                return None
        if sizes.total <= limit:
            return draft, draft.everything
        if limit - sizes.rest >= _LEAST_SOURCE and (selections := _selections(draft, sizes, limit)):
            return draft, await self._fitting(draft, sizes.prompt, selections, limit, call)
        if not draft.history:
            raise _TooLongError
        return await self._counted(replace(draft, history=()), limit, options, call)

    async def _measure(self, draft: Draft, options: Mapping[str, Any], call: Call) -> _Sizes | None:
        prompt = await self._generative.render({**options, "messages": draft.messages(draft.everything)}, call)
        if prompt is None:
            return None
        turns, pieces = draft.turns, draft.pieces
        counts = await self._generative.count_tokens(["", prompt, *turns, *pieces], call)
        if counts is None:
            return None
        special, total, *parts = counts
        parts = [count - special for count in parts]
        return _Sizes(prompt, total, parts[: len(turns)], parts[len(turns) :])

    async def _fitting(
        self, draft: Draft, prompt: str, selections: Sequence[Selection], limit: int, call: Call
    ) -> Selection:
        """Return the first selection that fits, by a count of all of `prompt`, which shows every source."""
        content = draft.messages(draft.everything)[-1]["content"]
        if prompt.count(content) == 1:
            prompts = [prompt.replace(content, draft.messages(one)[-1]["content"]) for one in selections]
            counts = await self._generative.count_tokens(prompts, call)
            for one, count in zip(selections, counts or (), strict=False):
                if count <= limit:
                    return one
        # The chat template changes what it is given, or the count failed: the smallest is the safest.
        return selections[-1]

    @staticmethod
    def _estimated(draft: Draft, limit: int) -> tuple[Draft, Selection]:
        draft = draft.newest([careful(turn) for turn in draft.turns], limit // 3)
        sizes = [careful(piece) for piece in draft.pieces]
        for tried in (draft, replace(draft, history=())):
            room = limit - tried.about()
            if room >= _LEAST_SOURCE:
                shown = tried.select(sizes, room) or next(tried.cuts(0.9 * room / sizes[0], room), None)
                if shown is not None:
                    return tried, shown
        raise _TooLongError


def _selections(draft: Draft, sizes: _Sizes, limit: int) -> list[Selection]:
    """Return what may fit, the most first: tokens join over the borders of texts, so sums are a little off.

    Nothing where not even the best source's title and headings may.
    """
    room, slack = limit - sizes.rest, 2 * len(sizes.sources) + 2
    selected = [draft.select(sizes.sources, room + off) for off in (slack, 0, -slack, -4 * slack)]
    found = list({one.places: one for one in selected if one is not None}.values())
    if selected[-1] is None:
        # The best source is too large, or just fits.
        head = careful(rendered([draft.sources[0].of("")])[0])
        found += draft.cuts((room - head) / max(1, sizes.sources[0] - head), room)
    return found


def _packed(draft: Draft, shown: Selection, answer: int, context: int) -> Packed:
    return Packed(draft.messages(shown), shown, answer, draft, context)
