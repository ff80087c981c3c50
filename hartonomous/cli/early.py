"""Signals in the first second of a server, in which it loads its packages and nobody's answer depends on it.

Nothing is lost: a signal to stop ends it at once, also where it is the first process of a container, to which the
kernel gives no signal that it does not handle; one to reload or to upgrade waits until somebody listens to it
(`hartonomous.server`), in place of ending the process as it does by default. Nothing heavy is imported here.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_STOP = (signal.SIGTERM, signal.SIGINT)
_WAIT = (signal.SIGHUP, signal.SIGUSR2)


@contextmanager
def stopping() -> Iterator[None]:
    """Let a signal to stop end the process with 0, until the event loop has its own handlers. For the main thread."""
    before = {number: signal.signal(number, _end) for number in _STOP}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def waiting() -> Iterator[None]:
    """Keep signals to reload and to upgrade; who handles them unblocks them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WAIT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)
