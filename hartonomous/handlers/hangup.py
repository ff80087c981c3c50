"""Noticing that a client has left while nothing is read from it.

While a request's body waits in the socket (backpressure) the event loop does not read, and so does not see the end of
the connection: the kernel is asked for that alone. It learns of an orderly end only behind all that was sent before: a
client that leaves with more on its way than the socket holds is noticed when reading goes on, or at the next write.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web


@contextmanager
def hangup_watched(request: web.Request) -> Iterator[None]:
    """Abort the connection when its client closes it, as the event loop does while it reads.

    Where the system has no epoll the end is seen at the next write.
    """
    transport = request.transport
    connection = None if transport is None else transport.get_extra_info("socket")
    if transport is None or connection is None or connection.fileno() < 0 or not hasattr(select, "epoll"):
        yield
        return
    loop = asyncio.get_running_loop()
    # An epoll of its own beside the loop's: registered for the end of the connection, never for its data.
    with select.epoll() as ends:
        ends.register(connection.fileno(), select.EPOLLRDHUP)

        def abort() -> None:
            loop.remove_reader(ends.fileno())
            transport.abort()

        loop.add_reader(ends.fileno(), abort)
        try:
            yield
        finally:
            loop.remove_reader(ends.fileno())
