"""How the cost of a work grows with its size: all that a test can say of speed, however busy or slow the machine is."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

Work = Callable[[], object]
_TRIES = 4


def growth(prepared: Callable[[int], Work], small: int, large: int, expected: float) -> float:
    """Return how many times the CPU time of the work of size `small` that of size `large` is.

    `prepared(size)` makes the work; what it costs to make is not counted. Both are measured in turns, and the best
    times count. As long as the result is not below `expected` they are measured again, a few times.
    """
    best = dict.fromkeys((small, large), float("inf"))
    for _ in range(_TRIES):
        for size in (small, large, small):
            best[size] = min(best[size], _cpu_s(prepared(size)))
        if best[large] < expected * best[small]:
            break
    return best[large] / best[small]


def _cpu_s(work: Work) -> float:
    """Processor time, of all threads; nobody else's garbage is collected meanwhile."""
    gc.collect()
    gc.disable()
    try:
        began = time.process_time()
        work()
        return time.process_time() - began
    finally:
        gc.enable()
