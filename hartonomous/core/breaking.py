"""How long a circuit stays open; pure.

The time grows whenever a circuit opens again soon after it was closed (flapping), and is spread by jitter, so that many
processes do not probe a backend that comes back at one moment.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import random as _random


def open_time(flaps: int, *, base: float, cap: float, random: Callable[[], float] = _random) -> float:
    """Return the seconds that a circuit stays open after it opened `flaps` times again.

    The whole is min(cap, base * 2**flaps); its upper half is random: uniform over [whole / 2, whole). `random` gives
    uniform numbers in [0, 1). This is the "equal jitter" of M. Brooker, "Exponential Backoff And Jitter", AWS
    Architecture Blog, 2015.
    """
    whole = min(cap, math.ldexp(base, min(flaps, 62)))
    return whole / 2 + random() * whole / 2
