"""The files of the audit trail: lines are appended and brought to the disk; when a file is full, a new one goes on."""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from hartonomous import codec
from hartonomous.core.chain import Link, Torn, digest, place_of, record_of
from hartonomous.log import logger

RETRY_S = 60.0
"""How long a full file is written on that could not be renamed, before it is tried again."""

_MAX_CHAINS = 4_096
_HEAD_BYTES = 128


class Files:
    """The files of one chain, of which the last is written; the lock on its head says whose it is.

    `link` is where the chain stands. `is_torn`: a part of a line stands at its end; `is_changed`: a line that is
    none of ours does; `is_headless`: nothing tells how far it was. After any of them the next line is a `recovered`.

    A new chain's head is on the disk before its first file is made: so files never lack one by a crash.
    """

    def __init__(self, folder: Path, chain: str, head: int, max_bytes: int) -> None:
        self.chain = chain
        self.is_torn = self.is_changed = self.is_headless = False
        self.is_dirty = True
        self.link = Link()
        self._folder = folder
        self._head = head
        self._max_bytes = max_bytes
        self._rotates_at = 0.0
        self._torn = Torn()
        self._path = folder / f"{chain}.jsonl"
        self._swapping, self._syncing = threading.Lock(), threading.Lock()
        self._full: list[int] = []  # descriptors of full files that have not reached the disk
        self._begin_head()
        self._whole = self._found()  # the last whole line, which the head remembers
        self._file = _opened(self._path)
        self._size = os.fstat(self._file).st_size
        self._is_open_line = not _has_ended(self._path)
        self._first = _first_seq(self._path) or self.link.seq + 1

    @classmethod
    def claimed(cls, folder: Path, max_bytes: int) -> Files:
        """Take the first chain that no other process has. Raises OSError."""
        for number in range(_MAX_CHAINS):
            chain = f"audit-{number}"
            head = os.open(folder / f"{chain}.head", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(head, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return cls(folder, chain, head, max_bytes)
            except BlockingIOError:
                os.close(head)
            except BaseException:
                os.close(head)
                raise
        raise OSError(0, "every chain is taken")

    def append(self, line: bytes) -> bool:
        """Write a line in one call; return whether it was taken whole. Raises OSError.

        Of what was taken only in part the next line that is taken whole carries the hash.
        """
        if self._is_full(len(line)):
            self._begin_next()
        taken = self._put(line)
        if not taken:
            return False
        self._is_open_line = taken <= len(line)
        self.is_torn = taken < len(line)
        if self.is_torn:
            self._torn.add(line[:taken])
            self.link = Link(self.link.seq, self._torn.digest)
        else:
            if self._torn.count:
                self._torn = Torn()
            self._whole = self.link = Link(self.link.seq + 1, digest(line))
            self.is_changed = self.is_headless = False
        self.is_dirty = True
        return not self.is_torn

    def _is_full(self, more: int) -> bool:
        if not self._size or self._is_open_line or self._size + more < self._max_bytes:
            return False
        return time.monotonic() >= self._rotates_at

    def _put(self, line: bytes) -> int:
        """Write a line, and what ends a torn one before it, in one call; return how many bytes of the line were taken.

        A torn line gets its end with a part of the next one only: at the end of a chain it never has one, and a broken
        line that does is not ours.
        """
        before = b"\n" if self._is_open_line else b""
        taken = os.write(self._file, before + line + b"\n")
        self._size += taken
        if before and taken == len(before):
            with suppress(OSError):  # of a file that may only be appended to
                os.ftruncate(self._file, self._size - taken)
            self._size = os.fstat(self._file).st_size
            self._is_open_line = not _has_ended(self._path)
        return max(0, taken - len(before))

    def sync(self) -> None:
        """Bring the lines to the disk, then the head. Any thread may call it. Raises OSError."""
        with self._syncing:
            if self._head < 0:
                return  # closed meanwhile
            # In this order, and `append` in the other: a line that comes meanwhile leaves it dirty.
            self.is_dirty = False
            whole = self._whole
            with self._swapping:
                full, self._full, file = self._full, [], self._file
            try:
                for one in (*full, file):
                    os.fdatasync(one)
                _sync_folder(self._folder)
                if not self.is_headless:  # which the chain has to tell before there is a head again
                    self._write_head(whole)
            except OSError:
                self.is_dirty = True
                with self._swapping:
                    self._full = full + self._full
                raise
            for one in full:
                os.close(one)

    def close(self) -> None:
        """Close the files, and let another process have the chain."""
        with self._syncing:
            for file in (*self._full, self._file, self._head):
                os.close(file)
            self._head = -1

    def _begin_head(self) -> None:
        """Bring the head of a new chain to the disk; where there are files already, it was taken away."""
        if read_head(self._folder / f"{self.chain}.head") is not None:
            return
        self.is_headless = bool(paths(self._folder, self.chain))
        if not self.is_headless:
            self._write_head(Link())
            _sync_folder(self._folder)

    def _write_head(self, link: Link) -> None:
        # Less than a sector, which is written whole or not at all.
        text = codec.dumps({"seq": link.seq, "digest": link.digest})
        os.pwrite(self._head, text.ljust(_HEAD_BYTES - 1) + b"\n", 0)
        os.fdatasync(self._head)

    def _begin_next(self) -> None:
        """Go on in a new file; where that cannot be, in the old one."""
        try:
            file = self._put_next(self._folder / f"{self.chain}.{self._first:012}.jsonl")
        except OSError as error:
            logger.bind(cause=error.strerror).error("the audit trail's file cannot be changed: the old one goes on")
            self._rotates_at = time.monotonic() + RETRY_S  # not tried again with every line
            return
        with self._swapping:
            self._full.append(self._file)
            self._file = file
        self._size, self._first = 0, self.link.seq + 1

    def _put_next(self, kept: Path) -> int:
        """Give the file its name among those that are full, and put a new one in its place; undo it where it fails."""
        following = self._folder / f"{self.chain}.next"
        if kept.exists():
            raise FileExistsError(0, "there is such a file already")
        file = _opened(following)
        try:
            self._path.rename(kept)
            try:
                following.rename(self._path)
            except OSError:
                with suppress(OSError):
                    kept.rename(self._path)
                raise
        except OSError:
            os.close(file)
            raise
        return file

    def _found(self) -> Link:
        """Return the last whole line, and set `link` to where the chain goes on.

        Where the head knows of more than the files, or of another last line, it goes on from the head, so that what was
        done to them does not become the truth.
        """
        last, torn = Link(), []
        for line in _backwards(paths(self._folder, self.chain)):
            record = record_of(line)
            if record is not None:
                last = record.link
                break
            torn.append(line)
        head = read_head(self._folder / f"{self.chain}.head")
        whole = head if head is not None and head.seq >= last.seq else last
        for line in reversed(torn):
            self._torn.add(line)
        self.is_changed = bool(torn) and self._has_ended()
        self.is_torn = bool(torn) and not self.is_changed
        if torn:
            seq = max(whole.seq, last.seq + len(torn)) if self.is_changed else whole.seq
            self.link = Link(seq, self._torn.digest)
        else:
            self.link = whole
        return whole

    def _has_ended(self) -> bool:
        return _has_ended(self._path) if self._path.exists() else True


def paths(folder: Path, chain: str) -> list[Path]:
    """Return the files of a chain, in the order of their lines. Raises OSError."""
    numbered = []
    for path in folder.iterdir():
        place = place_of(path.name)
        if place is not None and place[0] == chain:
            numbered.append((place[1] is None, place[1] or 0, path))
    return [path for *_, path in sorted(numbered)]


def read_head(path: Path) -> Link | None:
    """Return the line that was known to be on the disk; None when there is no head, or none that can be read."""
    try:
        fields = codec.loads(path.read_bytes()[:_HEAD_BYTES])
        return Link(int(fields["seq"]), str(fields["digest"]))
    except (OSError, codec.NotJsonError, KeyError, TypeError, ValueError):
        return None


def _opened(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _has_ended(path: Path) -> bool:
    """Whether the last line of a file, if there is one, has its line end."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read() in {b"", b"\n"}


def _backwards(files: list[Path]) -> Iterator[bytes]:
    """Yield the lines of a chain, the last one first."""
    for path in reversed(files):
        if path.stat().st_size:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
                end = len(text) - (text[-1:] == b"\n")
                while end >= 0:
                    start = text.rfind(b"\n", 0, end) + 1
                    yield text[start:end]
                    end = start - 1


def _first_seq(path: Path) -> int | None:
    """Return the number of the first whole line of a file."""
    with path.open("rb") as file:
        records = (record_of(line.removesuffix(b"\n")) for line in file)
        return next((record.seq for record in records if record is not None), None)
