"""What of the sources goes into a prompt, by their sizes in tokens; pure.

Best first: a source that does not fit is left out, and a smaller one behind it may still fit. The best one is always
there, cut where it alone is too large. Markers are numbered over what is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter

from msgspec import Struct
from msgspec.structs import replace

from hartonomous.core.prompt import Message, Source, alternating, build_messages, rendered, truncate_to
from hartonomous.core.template import Template
from hartonomous.core.tokens import estimate_tokens, most_tokens

SEPARATOR = "\n\n"
_text = attrgetter("text")

# What a chat template puts around a prompt and around each message: most of them 20 and 5 tokens, some a preamble.
_TEMPLATE_MOST, _MESSAGE_MOST = 1_024, 32
_TEMPLATE_ABOUT, _MESSAGE_ABOUT = 64, 8
# No text has so many bytes a token; what is beyond it need not be counted.
_BYTES_A_TOKEN = 12
_SURELY = 0.9
# Of what should fit, so much is tried of a source that is cut.
_CUTS = (1.0, 0.98, 0.95, 0.9, 0.8, 0.6, 0.4)


class Selection(Struct, frozen=True):
    """Sources that are shown (marker 1 is the first), and their places among those that were given."""

    sources: tuple[Source, ...]
    places: tuple[int, ...]


class Draft(Struct, frozen=True):
    """A prompt whose sources are still to be chosen; `system` None is the template's instruction.

    `standard` is the instruction there would be without what the caller gave as one; None where none was given.
    """

    question: str
    system: str | None
    history: Sequence[Mapping[str, str]]
    sources: Sequence[Source]
    template: Template
    standard: str | None = None

    @property
    def everything(self) -> Selection:
        """All sources."""
        return Selection(tuple(self.sources), tuple(range(len(self.sources))))

    @property
    def turns(self) -> list[str]:
        """The texts of the earlier turns."""
        return [turn["content"] for turn in self.history]

    @property
    def pieces(self) -> list[str]:
        """The sources as they stand in the prompt."""
        return [SEPARATOR + piece for piece in rendered(self.sources)]

    def messages(self, selection: Selection) -> list[Message]:
        """Return the messages with these sources."""
        return build_messages(
            question=self.question,
            sources=selection.sources,
            system=self.system,
            history=self.history,
            template=self.template,
        )

    def bounded(self, limit: int) -> Draft:
        """Return the draft without the sources and turns that cannot fit into `limit` tokens whatever the model."""
        room = limit * _BYTES_A_TOKEN
        texts = list(map(_text, self.sources))
        if not self.history and (4 * sum(map(len, texts)) <= room or sum(map(_most_bytes, texts)) <= room):
            return self
        kept: list[Source] = []
        for source in self.sources:
            text = source.text if kept else source.text[:room]
            room -= len(text.encode())
            if kept and room < 0:
                break
            kept.append(source.of(text))
        return replace(self, sources=kept, history=_latest(self.history, limit * _BYTES_A_TOKEN))

    def newest(self, sizes: Sequence[int], budget: int) -> Draft:
        """Return the draft with the newest turns that fit into `budget`, by their sizes.

        They begin with a question. Where not even the last two fit, the beginnings of those stay.
        """
        if not self.history:
            return self
        kept, room = len(self.history), budget
        while kept and sizes[kept - 1] <= room:
            kept -= 1
            room -= sizes[kept]
        history = alternating(self.history[kept:])
        if not history and self.history:
            share = _SURELY * budget / max(1, sum(sizes[-2:]))
            last = [{**turn, "content": truncate_to(turn["content"], share)} for turn in self.history[-2:]]
            history = alternating(last)
        return replace(self, history=history)

    def about(self) -> int:
        """Return about how many tokens the prompt has without its sources, rather too many."""
        messages = self.messages(Selection((), ()))
        return _TEMPLATE_ABOUT + sum(_MESSAGE_ABOUT + careful(message["content"]) for message in messages)

    def select(self, sizes: Sequence[int], room: int) -> Selection | None:
        """Return the sources that fit into `room` tokens, best first; None when the best one does not."""
        places = []
        for place, size in enumerate(sizes):
            if size <= room:
                places.append(place)
                room -= size
            elif not place:
                return None
        return self.only(places)

    def only(self, places: Sequence[int]) -> Selection:
        """Return these sources."""
        return Selection(tuple([self.sources[place] for place in places]), tuple(places))

    def cuts(self, fraction: float, room: int) -> Iterator[Selection]:
        """Yield the beginning of the best source, shorter and shorter; the last one fits `room` whatever the model."""
        best = self.sources[0]
        texts = [truncate_to(best.text, min(fraction, 1.0) * share) for share in _CUTS]
        low, high = 0, len(best.text)
        while low < high:
            middle = (low + high + 1) // 2
            fits = most_tokens(rendered([best.of(best.text[:middle])])[0]) < room
            low, high = (middle, high) if fits else (low, middle - 1)
        for text in dict.fromkeys((*texts, best.text[:low].rstrip())):
            if text:
                yield Selection((best.of(text),), (0,))


def _most_bytes(text: str) -> int:
    """Return a number of bytes that a text in UTF-8 does not exceed."""
    return len(text) if text.isascii() else 4 * len(text)


def _latest(history: Sequence[Mapping[str, str]], room: int) -> list[Message]:
    """Return the newest turns up to so many characters, at least the last two, or their beginnings."""
    kept: list[Message] = []
    left = room
    for turn in reversed(history):
        content = turn["content"][:room]
        left -= len(content)
        if left < 0 and len(kept) > 1:
            break
        kept.append({**turn, "content": content})
    return kept[::-1]


def most(messages: Sequence[Message]) -> int:
    """Return a number of tokens that a prompt of these messages does not exceed, whatever the model."""
    return _TEMPLATE_MOST + sum([_MESSAGE_MOST + most_tokens(message["content"]) for message in messages])


def careful(text: str) -> int:
    """Return a number of tokens that is seldom too low."""
    return min(most_tokens(text), 4 + estimate_tokens(text) * 5 // 4)


def head(selection: Selection) -> Selection:
    """Return the beginning of a selection up to the first source that was left out, so that no marker moves."""
    count = next((at for at, place in enumerate(selection.places) if at != place), len(selection.places))
    return Selection(selection.sources[:count], selection.places[:count])


def halved(selection: Selection) -> Selection:
    """Return the better half of a selection by size, at least its first source, or half of that one."""
    sizes = [careful(piece) for piece in rendered(selection.sources)]
    if len(sizes) == 1:
        (only,) = selection.sources
        return replace(selection, sources=(only.of(truncate_to(only.text, 0.5)),))
    count, room = 1, sum(sizes) // 2 - sizes[0]
    while count < len(sizes) and sizes[count] <= room:
        room -= sizes[count]
        count += 1
    return Selection(selection.sources[:count], selection.places[:count])
