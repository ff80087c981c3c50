"""The processes of this host that serve the same configuration file tell each other of reloads.

They share a file in a runtime directory, named after the path of the configuration file, that each reload makes one
byte longer. Appending needs no lock, leaves nothing behind when a process is killed, and says which reload one's own
was: whoever finds that others came between has not seen theirs yet, so that of two at once none is lost. Everybody
looks at the length a few times a second, and reads the configuration again when it is another. Who is told tells
nobody.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

from hartonomous.log import logger

# How often it is looked whether another process has reloaded.
LOOK_S = 0.25


class Siblings:
    """Those who serve the configuration file at `path`. What they did before this was made is known already.

    `configured` is the runtime directory of the configuration. Where none can be used, nobody is told.
    """

    def __init__(self, path: Path, configured: Path | None, environ: Mapping[str, str] = os.environ) -> None:
        directory, is_given = _directory(configured, environ)
        self._file = directory / _name(path)
        self._problem = _prepare(directory, is_given=is_given)
        if self._problem is not None:
            self._warn(self._problem)
        self._seen = self._state()

    def have_reloaded(self) -> bool:
        """Whether another process has reloaded since this was asked for the last time."""
        state = self._state()
        if state == self._seen:
            return False
        self._seen = state
        return state is not None  # somebody may have tidied up

    def tell(self) -> None:
        """Let the others reload. Raises nothing: serving goes on where they cannot be told."""
        if self._problem is not None:
            return
        try:
            file, length = self._append()
        except OSError as error:
            self._warn(error.strerror or type(error).__name__)
            return
        if self._seen == ((file, length - 1) if length > 1 else None):
            self._seen = file, length

    def _append(self) -> tuple[int, int]:
        """Make the file one byte longer; return its number, and its length after this byte."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._file, flags, 0o600)
        try:
            os.write(descriptor, b".")
            return os.fstat(descriptor).st_ino, os.lseek(descriptor, 0, os.SEEK_CUR)
        finally:
            os.close(descriptor)

    def _state(self) -> tuple[int, int] | None:
        """Return the file's number and length, None where there is none."""
        if self._problem is not None:
            return None
        try:
            found = os.lstat(self._file)
        except OSError:
            return None
        return found.st_ino, found.st_size

    def _warn(self, problem: str) -> None:
        told = logger.bind(file=str(self._file), problem=problem)
        told.warning("other processes of this host cannot be told of reloads")


def _directory(configured: Path | None, environ: Mapping[str, str]) -> tuple[Path, bool]:
    """Return the runtime directory, and whether an operator, or systemd, has named it."""
    if configured is not None:
        return configured, True
    if given := environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]:
        return Path(given), True
    if given := environ.get("XDG_RUNTIME_DIR", ""):
        return Path(given) / "hartonomous", False
    return Path(tempfile.gettempdir()) / f"hartonomous-{os.getuid()}", False


def _prepare(directory: Path, *, is_given: bool) -> str | None:
    """Make the directory if there is none; return why it cannot be used.

    In a place where everybody may write somebody else can have been there before.
    """
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        if not is_given and (directory.is_symlink() or directory.lstat().st_uid != os.getuid()):
            return "the runtime directory is somebody else's"
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


def _name(path: Path) -> str:
    """Return the file's name. Links are not followed: where a release is one, the new one is the same configuration."""
    return "reloads-" + blake2b(os.fsencode(path.absolute()), digest_size=16).hexdigest()
