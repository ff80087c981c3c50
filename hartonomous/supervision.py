"""What every supervisor of processes needs: when a process that died is started again, and how none outlives it.

A process that died is started again at once, for a first death is most often an accident. If it goes on dying it waits
before each start, twice as long as before up to a cap, and jittered, so that a fault that stays costs little. A process
that has lived for long is a new one: its deaths before are forgotten.

Linux sends a process a signal of its own choice when the *thread* that started it ends (prctl(2), PR_SET_PDEATHSIG),
however that ends. The setting survives exec, so it is made between fork and exec.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
from collections.abc import Callable

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
STABLE_S = 60.0
_PR_SET_PDEATHSIG = 1
_MANY = 32  # doublings, of which the cap is long reached


class Restarts:
    """The deaths of one process, and what they say about its next start. `chance` gives uniform numbers in [0, 1)."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self._deaths = 0

    def wait_after(self, lived_s: float) -> float:
        """Count the death of a process that lived so long; return how many seconds to wait before it is started."""
        self._deaths = 1 if lived_s >= STABLE_S else self._deaths + 1
        if self._deaths == 1:
            return 0.0
        full = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(self._deaths - 2, _MANY))
        return full * (0.5 + self._chance() / 2)


def die_with_parent(parent: int, number: signal.Signals) -> None:
    """Let the kernel send `number` to this process when its parent dies; exit with 1 when `parent` is dead already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died before the kernel was told
        raise SystemExit(1)


def ending(code: int) -> str:
    """Return how a process ended, to be read after "it ended": its exit code, negative for a signal, in words."""
    if code >= 0:
        return f"with exit code {code}"
    try:
        return f"by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"by signal {-code}"
