"""Connections of aiohttp's that are asked all the time to read on, and have hardly ever been held."""

from __future__ import annotations

from aiohttp.base_protocol import BaseProtocol
from typing_extensions import override


class Pausing(BaseProtocol):
    """A connection that reads on only where it was ever held: aiohttp's streams ask at each piece, and run the parser.

    Whoever is one says at the beginning that it was not.
    """

    __slots__ = ()

    _was_paused: bool

    @override
    def pause_reading(self) -> None:
        """Hold reading, and the parser, in the midst of what it was given."""
        self._was_paused = True  # type: ignore[misc]  # bases with slots of their own cannot be mixed in
        super().pause_reading()

    @override
    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read on."""
        if self._was_paused:
            super().resume_reading(resume_parser)
