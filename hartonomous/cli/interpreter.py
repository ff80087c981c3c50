"""How long a thread that computes may keep Python's interpreter from the event loop.

The loop gives it up with each call into the system and asks for it again: as long as a thread computes (a document is
cut, points are read from JSON), each read and each send takes a switch interval, which is 5 ms as Python comes.
"""

from __future__ import annotations

import sys

# The processor time of an ingest is the same with it as with Python's own.
_SWITCH_S = 0.0005


def share() -> None:
    """Let the event loop have its turn soon."""
    sys.setswitchinterval(_SWITCH_S)
