"""What serving asks of the memory's keepers: Python's collector of what is in cycles, and the C library's heap."""

from __future__ import annotations

import ctypes
import gc

# How many objects there are more than before when those in cycles are looked for.
_NEW_OBJECTS = 10_000
# malloc.h, and bytes: what may stay free at the heap's end, how much it grows at once, what has pages of its own. To
# set one of them ends that glibc adapts the last two to what is freed, so all of them are.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_HEAP = ((_TRIM_THRESHOLD, 8 << 20), (_TOP_PAD, 1 << 20), (_MMAP_THRESHOLD, 4 << 20))


def settle() -> None:
    """Make ready for requests, when all is there that is there for good."""
    _collect_seldom()
    _keep_what_is_freed()


def _collect_seldom() -> None:
    """Spare the garbage collector what is there for good, some 300,000 objects, and so its callers the 50 ms of that.

    Of a request next to nothing is in cycles: to look for them every 10,000 objects and not every 700 takes 5 % less
    of the processor. While all that was imported and made `serve` had turned it off.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS)
    gc.enable()


def _keep_what_is_freed() -> None:
    """Let the heap's end stay where it is between requests.

    glibc gives back what is free there from 128 KiB on. A RAG request takes and frees some hundred KiB, and took seven
    new pages from the kernel for that, of 3 µs each. Other C libraries have no such call.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for name, value in _HEAP:
            mallopt(name, value)
