"""Streams as a client reads them: events until the end, or until it has had enough."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from tests.chaos.client import Exchange, Left
from tests.chaos.contract import wrong_with_object


@dataclass(slots=True)
class Events:
    """What came: (event, data) of server-sent events, or lines of JSON. `rest` are bytes after the last whole event."""

    leave_after: int | None = None
    events: list[tuple[str, bytes]] = field(default_factory=list)
    lines: list[Any] = field(default_factory=list)
    rest: bytes = b""

    async def read(self, exchange: Exchange, content: aiohttp.StreamReader) -> None:
        """Read server-sent events. Raises Left after `leave_after` of them."""
        async for data in content.iter_any():
            *blocks, self.rest = (self.rest + data).split(b"\n\n")
            for block in blocks:
                self._take(block)
            if self.leave_after is not None and len(self.events) >= self.leave_after:
                raise Left

    async def read_lines(self, exchange: Exchange, content: aiohttp.StreamReader) -> None:
        """Read NDJSON."""
        async for line in content:
            self.lines.append(orjson.loads(line))

    def first(self, name: str) -> Any:
        """Return the data of the first event of a name, None where there is none."""
        return next((orjson.loads(data) for event, data in self.events if event == name), None)

    def wrong_with_query(self, request_id: str) -> str | None:
        """Return what is wrong with the stream of a query: sources, deltas, then `done` or `error` and nothing more."""
        names = [name for name, _ in self.events]
        shown = ", ".join(names)
        if self.rest or names[:1] != ["sources"] or set(names[1:-1]) - {"delta"} or names[-1] not in {"done", "error"}:
            return f"the events are {shown}; then {self.rest!r}"
        end = orjson.loads(self.events[-1][1])
        if end.get("request_id") != request_id:
            return f"the last event's request_id is {end.get('request_id')!r}"
        if names[-1] == "error":
            return wrong_with_object(end["error"])
        told = "".join(orjson.loads(data)["text"] for name, data in self.events if name == "delta")
        return None if told == end["answer"] else f"the deltas are not the answer: {told!r}, {end['answer']!r}"

    def wrong_with_chat(self) -> str | None:
        """Return what is wrong with OpenAI's stream: chunks, then `[DONE]` or an error and nothing more."""
        if self.rest or not self.events:
            return f"{len(self.events)} events, then {self.rest!r}"
        *chunks, (_, last) = self.events
        try:
            broken = [data for _, data in chunks if "error" in orjson.loads(data)]
            return wrong_with_end(last) if not broken else f"an error, and then more: {broken[0]!r}"
        except orjson.JSONDecodeError:
            return f"an event that is no JSON: {chunks}"

    def _take(self, block: bytes) -> None:
        name, data = "message", b""
        for line in block.split(b"\n"):
            key, _, value = line.partition(b": ")
            if key == b"event":
                name = value.decode()
            elif key == b"data":
                data += value
        if data:
            self.events.append((name, data))


def wrong_with_end(data: bytes) -> str | None:
    """Return what is wrong with the last event of OpenAI's stream."""
    if data == b"[DONE]":
        return None
    try:
        return wrong_with_object(orjson.loads(data)["error"])
    except (orjson.JSONDecodeError, KeyError):
        return f"the last event is {data[:200]!r}"
