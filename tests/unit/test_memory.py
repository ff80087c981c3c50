"""What serving asks of the C library's heap, in a process of its own."""

from __future__ import annotations

import ctypes
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


def test_cycles_are_looked_for_again_when_all_is_there() -> None:
    told = "import gc; from hartonomous import memory; gc.disable(); memory.settle(); print(gc.isenabled())"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "True"


def _given_back(*arguments: str) -> int:
    done = subprocess.run([sys.executable, "-c", _FREED, *arguments], capture_output=True, check=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
def test_what_is_freed_is_not_given_back_between_requests() -> None:
    assert _given_back() > 1_000_000
    assert _given_back("settle") == 0
