"""The audit trail: who did what, a line each, in a chain that shows what was changed or taken out (`core.chain`).

Each process writes a chain of its own: it takes the first free one of the folder (`audit-0.jsonl`, `audit-1.jsonl`, …)
and goes on with it after a restart. A file that is full is renamed after the number of its first line, and the next one
goes on with the chain.

A line is one `write` of the whole of it, which goes to the system's memory and holds up nobody. Once a second a thread
brings what is new to the disk, and only then writes into the chain's head (`audit-0.head`) how far it is: so a crash or
a power cut never leaves a head that knows more than the files, and a tail that is missing later was cut off.

A trail that cannot be written stops nobody either: what is lost is counted, and the next line that can be written comes
after one that says how many were.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hartonomous import codec, log
from hartonomous.core.chain import RECOVERED, Link, digest, place_of, record_of, sealed
from hartonomous.core.kept import Kept, KeptRecord
from hartonomous.errors import ConfigError
from hartonomous.log import logger

if TYPE_CHECKING:
    from hartonomous.metrics import Metrics
    from hartonomous.security import Audit

SYNC_S = 1.0
"""How long a line may be in the system's memory alone."""

_MAX_CHAINS = 4_096
# More than a line can have: document ids, collections and request ids have their limits.
_LINE_BYTES = 65_536
_HEAD_BYTES = 128


class Trail:
    """Writes the lines of a process and keeps the newest; without a folder it only keeps them. One thread writes."""

    def __init__(self, settings: Audit, metrics: Metrics, kept_records: int) -> None:
        self.kept = Kept(kept_records)
        self._settings = settings
        self._metrics = metrics
        self._files: _Files | None = None
        self._link = Link()
        self._lost = 0
        self._is_synced = True

    def open(self) -> None:
        """Take a chain of the folder. Raises ConfigError when it cannot be written."""
        folder = self._settings.directory
        if folder is None:
            return
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._files = _Files.claimed(folder, self._settings.max_file_bytes)
        except OSError as error:
            raise ConfigError(f"audit.directory: cannot be written ({error.strerror})") from error
        self._link = self._files.link
        logger.bind(chain=self._files.chain, seq=self._link.seq).info("the audit trail goes on")
        self._has_told()

    def write(self, event: str, **facts: Any) -> None:
        """Write a line. What JSON cannot say is said as text."""
        told = self._has_told()
        line, now = self._line(event, facts)
        if told and self._put(line):
            self._metrics.audit_lines.inc()
        else:
            self._lost += 1
            self._metrics.audit_lost.inc()
        self.kept.append(KeptRecord(now.timestamp(), 0, facts.get("request_id"), line.decode()))

    async def run(self) -> None:
        """Bring what was written to the disk, again and again."""
        while True:
            await asyncio.sleep(SYNC_S)
            if self._files is not None and self._files.is_dirty:
                await asyncio.to_thread(self.sync)

    def close(self) -> None:
        """Bring everything to the disk and give the chain back."""
        if self._files is not None:
            self.sync()
            self._files.close()
            self._files = None

    def sync(self) -> None:
        """Bring everything to the disk; wait for it. Any thread may call it."""
        if self._files is None:
            return
        try:
            self._files.sync()
            self._is_synced = True
        except OSError as error:
            if self._is_synced:
                logger.bind(cause=error.strerror).error("the audit trail does not reach the disk")
            self._is_synced = False

    def _has_told(self) -> bool:
        """Say what was lost or torn, if anything was; return whether the next line may follow."""
        is_torn = self._files is not None and self._files.is_torn
        if not self._lost and not is_torn:
            return True
        line, _ = self._line(RECOVERED, {"outcome": "failed", "lost": self._lost, "torn": is_torn})
        if not self._put(line):
            return False
        logger.bind(lines=self._lost, torn=is_torn).warning("the audit trail goes on after a gap")
        self._lost = 0
        return True

    def _line(self, event: str, facts: dict[str, Any]) -> tuple[bytes, datetime]:
        now = datetime.now(UTC)
        time = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        first = {"time": time, "seq": self._link.seq + 1, "event": event}
        fields = log.encoded({**first, **facts, "pid": os.getpid(), "prev": self._link.digest})
        return sealed(fields.encode()), now

    def _put(self, line: bytes) -> bool:
        """Write a line; return whether it was taken whole."""
        if self._files is None:
            self._link = Link(self._link.seq + 1, digest(line))
            return True
        try:
            taken = self._files.append(line)
        except OSError as error:
            taken = False
            if not self._lost:
                logger.bind(cause=error.strerror).error("the audit trail cannot be written: lines are lost")
        self._link = self._files.link
        return taken


class _Files:
    """The files of one chain, of which the last is written; the lock on its head says whose it is.

    `link` is where the chain stands. `is_torn`: the next line has to be one of the event `recovered`.
    """

    def __init__(self, folder: Path, chain: str, head: int, max_bytes: int) -> None:
        self.chain = chain
        self.is_torn = False
        self.is_dirty = True
        self.link = Link()
        self._folder = folder
        self._head = head
        self._max_bytes = max_bytes
        self._path = folder / f"{chain}.jsonl"
        self._swapping, self._syncing = threading.Lock(), threading.Lock()
        self._full: list[int] = []  # descriptors of full files that have not reached the disk
        self._whole = self._found()  # the last whole line, which the head remembers
        self._file = _opened(self._path)
        self._size = os.fstat(self._file).st_size
        self._is_open_line = self._size > 0 and not _tail(self._path).endswith(b"\n")
        self._first = _first_seq(self._path) or self.link.seq + 1

    @classmethod
    def claimed(cls, folder: Path, max_bytes: int) -> _Files:
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

        Of what was taken only in part the next line carries the hash.
        """
        if self._is_open_line:
            os.write(self._file, b"\n")
            self._is_open_line = False
        if self._size and self._size + len(line) >= self._max_bytes:
            self._begin_next()
        taken = os.write(self._file, line + b"\n")
        self._size += taken
        if not taken:
            return False
        self._is_open_line = taken <= len(line)
        self.is_torn = taken < len(line)
        self.link = Link(self.link.seq + (not self.is_torn), digest(line[:taken]))
        if not self.is_torn:
            self._whole = self.link
        self.is_dirty = True
        return not self.is_torn

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
                # Less than a sector, which is written whole or not at all.
                text = codec.dumps({"seq": whole.seq, "digest": whole.digest})
                os.pwrite(self._head, text.ljust(_HEAD_BYTES - 1) + b"\n", 0)
                os.fdatasync(self._head)
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

    def _begin_next(self) -> None:
        """Go on in a new file; where that cannot be, in the old one."""
        kept, following = self._folder / f"{self.chain}.{self._first:012}.jsonl", self._folder / f"{self.chain}.next"
        try:
            if kept.exists():
                raise FileExistsError(0, "there is such a file already")
            file = _opened(following)
            self._path.rename(kept)
            following.rename(self._path)
        except OSError as error:
            logger.bind(cause=error.strerror).error("the audit trail's file cannot be changed: the old one goes on")
            self._max_bytes *= 2  # not tried again with every line
            return
        with self._swapping:
            self._full.append(self._file)
            self._file = file
        self._size, self._first = 0, self.link.seq + 1

    def _found(self) -> Link:
        """Return the last whole line, and set `link` to where the chain goes on.

        Where the head knows of more than the files, or of another last line, it goes on from the head, so that what was
        done to them does not become the truth.
        """
        lines = list(islice(_backwards(paths(self._folder, self.chain)), 2))
        records = [record_of(line) for line in lines]
        whole = next((record.link for record in records if record is not None), Link())
        head = read_head(self._folder / f"{self.chain}.head")
        if head is not None and head.seq >= whole.seq:
            whole = head
        self.is_torn = bool(records) and records[0] is None
        self.link = Link(whole.seq, digest(lines[0])) if self.is_torn else whole
        return whole


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
        fields = codec.loads(path.read_bytes())
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


def _tail(path: Path) -> bytes:
    """Return the end of a file, with two lines at least where there are so many."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2 * _LINE_BYTES))
        return file.read()


def _backwards(files: list[Path]) -> Iterator[bytes]:
    """Yield the last lines of a chain, the last one first."""
    for path in reversed(files):
        yield from reversed(_tail(path).removesuffix(b"\n").split(b"\n") if path.stat().st_size else [])


def _first_seq(path: Path) -> int | None:
    with path.open("rb") as file:
        record = record_of(file.readline(_LINE_BYTES).removesuffix(b"\n"))
    return None if record is None else record.seq
