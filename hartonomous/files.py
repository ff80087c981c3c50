"""Reading the files that a configuration names: each is read again at a reload, which must not wait for ever."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

# A tokenizer's file has some tens of megabytes.
_MOST_BYTES = 256 * 1024 * 1024


def read(path: Path) -> bytes:
    """Return the content of a regular file. A pipe or a device, which may have no end, is refused; so is a huge file.

    Raises:
        OSError: it cannot be read; `strerror` says why.
        ValueError: its name holds a NUL.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a pipe would wait for a writer
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if found.st_size > _MOST_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return file.read()
