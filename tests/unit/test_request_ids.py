"""Ids of requests: nobody else's, also where a process has become two."""

from __future__ import annotations

import re
import subprocess
import sys

from hartonomous.middleware.request_id import new_id

_FORKED = """
import os
from hartonomous.middleware.request_id import new_id
new_id()
child = os.fork()
os.write(1, f"{new_id()}\\n".encode())
if child:
    os.waitpid(child, 0)
"""


def test_each_id_is_another_one() -> None:
    ids = [new_id() for _ in range(1_000)]
    assert len(set(ids)) == 1_000
    assert all(re.fullmatch("[0-9a-f]{32}", name) for name in ids)


def test_a_process_that_becomes_two_has_no_id_twice() -> None:
    ran = subprocess.run([sys.executable, "-c", _FORKED], capture_output=True, text=True, check=True, timeout=60)
    assert len(set(ran.stdout.split())) == 2
