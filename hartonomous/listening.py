"""The listening socket: who is let in, how many, and what happens to them at the end.

asyncio's own accept loop answers a lack of descriptors with a hundred log lines and timers a second, and takes as many
connections as there are descriptors, so that none is left for the backends. This one takes as many as leave those. When
it has them, the connections that were idle for the longest make room. When none is idle a few more are let in, whose
work is refused with 503 while health is answered (`State.surplus`); beyond them it waits until one has ended, and
those who connect wait in the system's queue. One address has at most `max_connections_per_address` of them.
"""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
import ssl
from collections import Counter

from aiohttp import web

from hartonomous.adopting import BACKLOG, reason
from hartonomous.config import Config, Server
from hartonomous.connection import Connection
from hartonomous.core.addresses import network_of
from hartonomous.handshakes import Handshakes
from hartonomous.keys import ENTRANCE, METRICS, STATE, TRAIL
from hartonomous.log import logger
from hartonomous.shedding import Shedder

# Let in when there is no room: enough for those who ask for health.
SURPLUS = 16
# Of the operator's own listener, where there is one.
OPERATORS_ROOM = 16
# An idle connection is not closed before it has been idle for so long: its request may be on its way.
_IDLE_S = 1.0
_CLOSED_AT_ONCE = 16
_HANDSHAKE_S = 10.0
# How soon it is looked again whether a connection has become idle, or a descriptor free.
_LOOK_S = 0.25
# How often each connection looks whether its client takes too long, at most and at least.
_LOOKS = (0.02, 1.0)
# At the end a connection is kept for so long: a client that is at work sends on it, and is told that it closes.
LINGER_S = 0.5
# The interpreter's own, logs, the parsers' pipes, Redis, health polls.
_OWN_DESCRIPTORS = 64
_FEWEST = 16
# Calls at once that a model service which says by itself how many it takes may have under way.
_MOST_SLOTS = 64

_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Listener:
    """The sockets of one server and their connections. Made inside a running loop; ended by `close` and `wait_closed`.

    `ssl_context` holds for the connections that come from now on, but for those of unix sockets. With `is_operators`
    they are the operator's, which have room of their own however many others there are.
    """

    def __init__(
        self,
        runner: web.AppRunner,
        config: Config,
        ssl_context: ssl.SSLContext | None = None,
        *,
        is_operators: bool = False,
    ) -> None:
        if runner.server is None:
            raise ValueError("the runner has not been set up")
        self.ssl_context = ssl_context
        self._manager = runner.server
        runner.app[ENTRANCE](self._manager)
        self._is_operators = is_operators
        self._config, self._limit = config, self._room(config)
        self._state, self._metrics = runner.app[STATE], runner.app[METRICS]
        self._loop = asyncio.get_running_loop()
        self._shedder = None if is_operators else Shedder(runner.app)
        self._handshakes = Handshakes(self._metrics, runner.app[TRAIL], self._loop.time)
        self._sockets: list[socket.socket] = []
        self._open: dict[Connection, None] = {}
        self._addresses: Counter[str] = Counter()
        self._looking: asyncio.TimerHandle | None = None
        self._connecting: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._paused: asyncio.TimerHandle | None = None
        self._is_exhausted = False
        if not is_operators:
            self._metrics.connections_limit.set_function(lambda: self.limit)

    @property
    def limit(self) -> int:
        """How many connections there may be, by the configuration of now."""
        if self._config is not self._state.current.config:
            self._config = self._state.current.config
            self._limit = self._room(self._config)
        return self._limit

    def _room(self, config: Config) -> int:
        return OPERATORS_ROOM if self._is_operators else room(config)

    @property
    def sockets(self) -> list[socket.socket]:
        """What it listens on."""
        return list(self._sockets)

    def hold(self, *sockets: socket.socket) -> None:
        """Take sockets that listen already, and accept nobody before `serve`; they are closed with the listener."""
        for each in sockets:
            each.setblocking(False)
            self._sockets.append(each)

    def serve(self, *sockets: socket.socket) -> None:
        """Accept the connections of these sockets, and of those that are held."""
        self.hold(*sockets)
        self._resume()

    def lost(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        if connection not in self._open:
            return
        del self._open[connection]
        self._metrics.connections.dec()
        self._addresses[connection.address] -= 1
        if not self._addresses[connection.address]:
            del self._addresses[connection.address]
        self._state.surplus.discard(connection)
        self._state.operators.discard(connection)
        self._changed.set()
        if self._paused is not None:
            self._paused.cancel()
            self._resume()

    def leave(self, *, every: bool) -> None:
        """Listen no more, and answer those who are connected; with `every` also who waits in the system's queue."""
        for each in self._sockets if every else ():
            self._accept(each, every=True)
        self._close_sockets()

    async def close(self, limit_s: float) -> None:
        """Listen no more; return when those who are connected have their answers, at most after so many seconds.

        Who waits in the system's queue is still taken. A connection on which nothing comes for a moment is left; where
        nobody has been taken for long, that moment has been.
        """
        linger_s = LINGER_S if self._sockets else 0.0
        self.leave(every=True)
        began = self._loop.time()
        while self._open and self._loop.time() - began < limit_s:
            quiet = self._loop.time() - began >= linger_s
            if quiet and all(connection.is_idle for connection in self._open):
                return
            await self._change(LINGER_S / 10)

    def is_quiet(self, since: float) -> bool:
        """Whether no connection has had anything to do since then, in the loop's time."""
        return all(connection.is_idle and connection.idle_since <= since for connection in self._open)

    async def wait_closed(self, limit_s: float) -> None:
        """Wait until what was answered has been sent, at most so many seconds; end the connections that are left."""
        self._close_sockets()
        began = self._loop.time()
        while self._open and self._loop.time() - began < limit_s:
            await self._change(_LOOK_S)
        for connection in list(self._open):
            connection.drop()

    async def _change(self, limit_s: float) -> None:
        """Wait until a connection has ended, at most so long."""
        self._changed.clear()
        try:
            async with asyncio.timeout(limit_s):
                await self._changed.wait()
        except TimeoutError:
            return

    def _close_sockets(self) -> None:
        for each in self._sockets:
            self._loop.remove_reader(each)
            each.close()
        self._sockets.clear()
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None

    def _resume(self) -> None:
        self._paused = None
        for each in self._sockets:
            self._loop.add_reader(each, self._accept, each)

    def _pause(self, action: str) -> None:
        """Accept nothing until a connection has ended, or for a moment."""
        for each in self._sockets:
            self._loop.remove_reader(each)
        if self._paused is not None:
            self._paused.cancel()
        self._metrics.connections_limited.labels(action).inc()
        self._paused = self._loop.call_later(_LOOK_S, self._resume)

    def _accept(self, listening: socket.socket, *, every: bool = False) -> None:
        """Take those who wait, as long as there is room; with `every` all of them."""
        for _ in range(BACKLOG):
            if not every and not self._has_room():
                self._pause("paused")
                return
            try:
                accepted, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause_after(error)
                return
            self._tell(exhausted=False)
            self._take(accepted, _host(address))

    def _pause_after(self, error: OSError) -> None:
        """Accept nothing for a moment after what is no fault of a connection; what else there is would come again."""
        if error.errno in _EXHAUSTED:
            self._tell(exhausted=True)
            self._close_idle()
            self._pause("exhausted")
        else:  # of the network, of a firewall: whoever waits is taken afterwards
            logger.bind(cause=reason(error)).warning("a connection could not be accepted")
            self._pause("failed")

    def _has_room(self) -> bool:
        """Whether one more can be taken; closes idle connections when there is no room."""
        if len(self._open) < self.limit:
            return True
        if self._close_idle():
            return False  # it is called again when they have ended
        return len(self._open) < self.limit + SURPLUS

    def _close_idle(self) -> int:
        """Close those that have been idle for the longest; return how many."""
        before = self._loop.time() - _IDLE_S
        idle = [each for each in self._open if each.is_idle and each.idle_since < before]
        idle.sort(key=lambda each: each.idle_since)
        for connection in idle[:_CLOSED_AT_ONCE]:
            connection.drop()
            self._metrics.connections_limited.labels("closed_idle").inc()
        return min(len(idle), _CLOSED_AT_ONCE)

    def _take(self, accepted: socket.socket, host: str) -> None:
        address = network_of(host) if host else ""
        most = self._limits.max_connections_per_address
        if address and most is not None and self._addresses[address] >= most:
            accepted.close()
            self._metrics.connections_limited.labels("address").inc()
            return
        accepted.setblocking(False)
        connection = Connection(self._manager, address, self._limits, self.lost, self._shedder)
        if len(self._open) >= self.limit:
            self._state.surplus.add(connection)
            self._metrics.connections_limited.labels("surplus").inc()
        self._open[connection] = None
        self._metrics.connections.inc()
        if self._is_operators:
            self._state.operators.add(connection)
        self._addresses[address] += 1
        if self._looking is None:
            self._look()
        task = self._loop.create_task(self._connect(connection, accepted, host))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, connection: Connection, accepted: socket.socket, host: str) -> None:
        context = self.ssl_context if host else None
        options = {} if context is None else {"ssl_handshake_timeout": _HANDSHAKE_S}
        try:
            await self._loop.connect_accepted_socket(lambda: connection, accepted, ssl=context, **options)
        except OSError as error:  # gone, or no TLS
            if options:
                self._handshakes.failed(error, host)
            accepted.close()
            self.lost(connection)

    @property
    def _limits(self) -> Server:
        """The settings of now: a reload changes them for the connections that are there as well."""
        return self._state.current.config.server

    def _look(self) -> None:
        """Close the connections whose clients take too long, as long as there are any."""
        limits, now = self._limits, self._loop.time()
        soonest = min(limits.header_timeout_s, limits.write_timeout_s) / 4
        # Before the connections are asked: a fault of one must not end the others' clocks.
        self._looking = self._loop.call_later(sorted((soonest, *_LOOKS))[1], self._look) if self._open else None
        for connection in list(self._open):
            if (action := connection.look(now, limits)) is not None:
                self._metrics.connections_limited.labels(action).inc()

    def _tell(self, *, exhausted: bool) -> None:
        """Say so when descriptors begin to be missing, and when they are there again."""
        if exhausted != self._is_exhausted:
            self._is_exhausted = exhausted
            connections = logger.bind(connections=len(self._open))
            if exhausted:
                connections.warning("no descriptor is left for a connection")
            else:
                connections.info("there are descriptors for connections again")


def _host(address: object) -> str:
    """Return who has connected, "" for who has no address: over a unix socket."""
    return str(address[0]).partition("%")[0] if isinstance(address, tuple) else ""


def room(config: Config) -> int:
    """Return how many connections can be open, so that descriptors are left for everything else."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    operators = 0 if config.server.admin is None else OPERATORS_ROOM + SURPLUS
    left = descriptors - _OWN_DESCRIPTORS - SURPLUS - _CLOSED_AT_ONCE - operators - _for_backends(config)
    # A quarter is for temporary files: uploads and results that are not read yet.
    possible = max(_FEWEST, left * 3 // 4)
    if left < _FEWEST:
        logger.bind(descriptors=descriptors).warning("too few descriptors: raise the limit of open files")
    return min(possible, config.server.max_connections)


def _for_backends(config: Config) -> int:
    backends = config.backends
    services = [service for service in (backends.embedding, backends.generative, backends.reranking) if service]
    models = sum(len(service.urls) * ((service.concurrency or _MOST_SLOTS) + 1) for service in services)
    return models + (backends.qdrant.concurrency or _MOST_SLOTS) + 2
