"""The addresses behind the backends' host names: looked up by the system, kept for when it cannot.

While the system's resolver fails, or does not answer, a name stands for the addresses that it had last, for
`GOOD_FOR_S` at most. All connections of an event loop share what is known, so a reload forgets nothing, and the health
polls, which look names up every few seconds, keep it fresh.

`getaddrinfo` blocks, for half a minute where no name server answers, and cannot be cancelled. So one lookup of a name
is under way at a time, whoever waits for it, each no longer than his time to connect; once a lookup has taken that
long, the next caller hears so at once. It runs in a thread of its own: those of the loop's executor are few, have other
work, and are waited for at the end.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from aiohttp.abc import AbstractResolver, ResolveResult

from hartonomous.log import logger
from hartonomous.metrics import DNS_FALLBACKS

GOOD_FOR_S = 600.0
"""Long enough to restart a name server or wait for a zone to be mended; a service whose name has been gone for longer
has probably moved, and its old address may be somebody else's."""

# With an answer at hand nobody waits long: a lookup takes milliseconds, or has lost a packet.
_PATIENCE_S = 1.0
_MOST_NAMES = 256

_Key = tuple[str, int, int]
_Found = list[ResolveResult]


@dataclass(slots=True, frozen=True)
class _Lookup:
    answer: asyncio.Future[_Found]
    began: float


@dataclass(slots=True)
class _Good:
    """What the system last said of a name, and when; `is_used`: instead of an answer of now."""

    addresses: _Found
    at: float
    is_used: bool = False


class Names:
    """What is known of names, and the lookups under way. For one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lookups: dict[_Key, _Lookup] = {}
        self._good: dict[_Key, _Good] = {}

    async def resolve(self, host: str, port: int, family: int, timeout_s: float) -> _Found:
        """Return the addresses of a name.

        Raises OSError when there is no such name, or no answer in time, and none from before is good enough.
        """
        key = (host, port, family)
        lookup = self._lookups.get(key) or self._begin(key)
        patience_s = timeout_s if self._last(key) is None else min(timeout_s, _PATIENCE_S)
        # Others wait for it too: whoever leaves does not cancel it.
        await asyncio.wait({lookup.answer}, timeout=max(0.0, lookup.began + patience_s - self._clock()))
        try:
            if lookup.answer.done():
                return lookup.answer.result()
            raise socket.gaierror(socket.EAI_AGAIN, "No name server answers")
        except OSError as error:
            return self._instead(key, error)

    def _begin(self, key: _Key) -> _Lookup:
        answer: asyncio.Future[_Found] = asyncio.get_running_loop().create_future()
        lookup = self._lookups[key] = _Lookup(answer, self._clock())
        answer.add_done_callback(lambda _: self._end(key, answer))
        _look_up_in_thread(key, answer)
        return lookup

    def _end(self, key: _Key, answer: asyncio.Future[_Found]) -> None:
        del self._lookups[key]
        if answer.exception() is not None:
            return
        before = self._good.pop(key, None)
        self._good[key] = _Good(answer.result(), self._clock())
        if before is not None and before.is_used:
            logger.bind(host=key[0]).info("name is resolved again")
        if len(self._good) > _MOST_NAMES:
            del self._good[next(iter(self._good))]

    def _instead(self, key: _Key, error: OSError) -> _Found:
        """Return the addresses from before; raise `error` where there are none."""
        good = self._last(key)
        if good is None:
            raise error
        if not good.is_used:
            good.is_used = True
            logger.bind(host=key[0], error=str(error)).warning("name is not resolved, its last good address serves")
        DNS_FALLBACKS.labels(key[0]).inc()
        return list(good.addresses)

    def _last(self, key: _Key) -> _Good | None:
        """Return what the system said last, if that is not too long ago."""
        good = self._good.get(key)
        if good is None or self._clock() - good.at <= GOOD_FOR_S:
            return good
        del self._good[key]
        if good.is_used:
            logger.bind(host=key[0]).warning("name is not resolved, and its last good address is too old")
        return None


class Resolver(AbstractResolver):
    """What a connector asks, with the time that it has. Numeric addresses never come here."""

    def __init__(self, timeout_s: float, names: Names | None = None) -> None:
        self._timeout_s = timeout_s
        self._names = names or _names()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a name; raises OSError, after `timeout_s` at the latest."""
        return await self._names.resolve(host, port, family, self._timeout_s)

    async def close(self) -> None:
        """Do nothing: what is known is everybody's."""


_BY_LOOP: WeakKeyDictionary[asyncio.AbstractEventLoop, Names] = WeakKeyDictionary()


def _names() -> Names:
    return _BY_LOOP.setdefault(asyncio.get_running_loop(), Names())


def _look_up_in_thread(key: _Key, answer: asyncio.Future[_Found]) -> None:
    loop = answer.get_loop()

    def work() -> None:
        error, found = None, []
        try:
            found = _look_up(*key)
        except OSError as failure:
            error = failure
        except Exception as failure:  # noqa: BLE001 - whoever waits is told
            error = OSError(str(failure))
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_settle, answer, found, error)

    try:
        threading.Thread(target=work, name=f"lookup-{key[0]}", daemon=True).start()
    except RuntimeError as error:  # no more threads
        answer.set_exception(OSError(str(error)))


def _settle(answer: asyncio.Future[_Found], found: _Found, error: OSError | None) -> None:
    if error is None:
        answer.set_result(found)
    else:
        answer.set_exception(error)


def _look_up(host: str, port: int, family: int) -> _Found:
    """Ask the system, as aiohttp's own resolver does; raises OSError."""
    try:
        infos = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    except ValueError as error:  # what cannot be a name: a label that is empty or too long
        raise socket.gaierror(socket.EAI_NONAME, str(error)) from error
    found = [
        ResolveResult(
            hostname=host,
            host=_numeric(address),
            port=port,
            family=kind,
            proto=protocol,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
        for kind, _, protocol, _, address in infos
    ]
    if not found:
        raise socket.gaierror(socket.EAI_NONAME, "The name has no address")
    return found


def _numeric(address: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]) -> str:
    """Return the host part; a link-local address of IPv6 is nothing without its scope."""
    scope = address[3] if len(address) == 4 else 0
    return f"{address[0]}%{scope}" if scope else str(address[0])
