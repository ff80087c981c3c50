"""What serving asks of the C library's heap, in a process of its own."""

from __future__ import annotations

import ctypes
import mmap
import subprocess
import sys

import pytest

# Blocks that come from the heap, its end before and after they are freed.
_FREED = """
import ctypes, sys
from hartonomous import memory

end = ctypes.CDLL(None).sbrk
end.restype = ctypes.c_void_p
if "settle" in sys.argv:
    memory.settle()
blocks = [bytearray(100_000) for _ in range(40)]
before = end(0)
del blocks
print(before - end(0))
"""

# Kilobytes in large pages, beside objects that are there for good.
_LARGE = """
import re, sys
from pathlib import Path
from hartonomous import memory

kept = [str(number) for number in range(300_000)]
if "settle" in sys.argv:
    memory.settle()
print(re.search(r"AnonHugePages: *([0-9]+)", Path("/proc/self/smaps_rollup").read_text())[1])
assert kept == [str(number) for number in range(300_000)]
"""


def test_cycles_are_looked_for_again_when_all_is_there() -> None:
    told = "import gc; from hartonomous import memory; gc.disable(); memory.settle(); print(gc.isenabled())"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "True"


def _told(program: str, *arguments: str) -> int:
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, check=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
def test_what_is_freed_is_not_given_back_between_requests() -> None:
    assert _told(_FREED) > 1_000_000
    assert _told(_FREED, "settle") == 0


def _can_collapse() -> bool:
    """Whether the kernel moves memory into large pages when it is told to."""
    with mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.write(b"x" * len(memory))
        try:
            memory.madvise(25)
        except (OSError, ValueError, AttributeError):
            return False
        return True


@pytest.mark.skipif(not _can_collapse(), reason="the kernel has no large pages, or none on demand")
def test_what_is_there_for_good_stands_in_large_pages() -> None:
    assert _told(_LARGE, "settle") > _told(_LARGE)
