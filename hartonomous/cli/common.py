"""What every command shares: arguments, sentences on standard error, an exit status. It loads nothing heavy."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Final

INTERRUPTED: Final = 130
"""The exit status of a command that Ctrl-C ended: 128 and the number of the signal."""


def whole(text: str) -> int:
    """Return a whole number of up to six digits, as an argument."""
    if not re.fullmatch("[0-9]{1,6}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def complain(sentence: str) -> None:
    """Print a sentence on standard error, with everything escaped that would steer a terminal."""
    from hartonomous.sending.naming import printable

    print(printable(sentence), file=sys.stderr, flush=True)
