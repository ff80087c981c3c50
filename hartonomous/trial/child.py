"""Start a program that the kernel ends when its parent dies: `python -m hartonomous.trial.child PARENT PROGRAM ARG…`.

Even a parent killed with `kill -9` leaves nothing behind, if it starts its children from its main thread (see
`hartonomous.supervision`). The setting is made here, after the fork, and not in a `preexec_fn`, which may deadlock in a
program with threads.
"""

from __future__ import annotations

import os
import signal
import sys

from hartonomous.supervision import die_with_parent


def command(*argv: str) -> list[str]:
    """Return the command line that runs `argv` for as long as this process lives, and no longer."""
    return [sys.executable, "-m", "hartonomous.trial.child", str(os.getpid()), *argv]


def main(argv: list[str]) -> None:
    """Bind this process to its parent's life and become `argv[1:]`; `argv[0]` is the id of the parent."""
    parent, program = int(argv[0]), argv[1:]
    die_with_parent(parent, signal.SIGTERM)
    os.execv(program[0], program)  # noqa: S606 - the program is ours, and there is no shell in between


if __name__ == "__main__":
    main(sys.argv[1:])
