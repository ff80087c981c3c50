"""Durability: what has to reach the disk, and when.

The engine writes each update to its journal (`wal/`, memory-mapped files) before it applies it, and at `load` applies
again what its segments do not have, by the number of the update. Its own `flush()` syncs journal and segments: a dozen
fsyncs and msyncs, 100 ms on a common disk, with Python's global lock held. A write is durable as soon as the journal
is: so a write is acknowledged after `fdatasync` of the journal's files alone (4 ms, the global lock released), and
`flush()` is only a checkpoint that bounds the work of the next `load`.

`Journal` makes writers share a sync (group commit): who arrives while one runs waits for the next one, together with
all others. `sync_changes` brings new files and the directories that name them to the disk, which `flush()` leaves to
the file system's order.
"""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import Executor
from pathlib import Path

_ATTEMPTS = 100
# File systems stamp a change with a clock of a few milliseconds: a directory that changed just now may change again
# under the same stamp.
_TICK_NS = 50_000_000


def fsync_path(path: Path) -> None:
    """Sync a file or a directory; raise OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, data: bytes) -> None:
    """Replace `path` in one step, so that after a power cut it holds the old or the new bytes, whole."""
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    fsync_path(path.parent)


def rename_durably(source: Path, target: Path) -> None:
    """Rename within one directory and sync that directory."""
    source.rename(target)
    fsync_path(target.parent)


class Tree:
    """A directory tree whose names are kept durable: remembers what was synced already."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._directories: dict[str, int] = {}
        self._files: set[tuple[str, int]] = set()

    def sync_changes(self) -> None:
        """Sync files that are new since the last call, and then the directories that changed; raise OSError."""
        for folder, _, names in os.walk(self._root):
            try:
                changed = Path(folder).stat().st_mtime_ns
                if self._directories.get(folder) == changed:
                    continue
                for name in names:
                    self._sync_new_file(Path(folder, name))
                fsync_path(Path(folder))
                if time.time_ns() - changed > _TICK_NS:
                    self._directories[folder] = changed
            except FileNotFoundError:
                # The engine removes files of its own between our look and our open.
                continue

    def _sync_new_file(self, path: Path) -> None:
        key = (str(path), path.stat().st_ino)
        if key not in self._files:
            fsync_path(path)
            self._files.add(key)


class Journal:
    """The journal of one collection, synced for groups of writers."""

    def __init__(self, folder: Path, pool: Executor) -> None:
        self._folder = folder
        self._pool = pool
        self._next: asyncio.Future[None] | None = None
        self._runner: asyncio.Task[None] | None = None
        self._closed_files: set[str] = set()
        self._failure: BaseException | None = None
        self.syncs = 0

    def reset(self) -> None:
        """Trust the journal again: what it was to hold is in the segments."""
        self._failure = None

    async def durable(self) -> None:
        """Return when everything that was applied before this call is on the disk; raise OSError.

        Cancelled here, only the wait ends: the sync goes on for the others.
        """
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
            # Nobody may be left to hear of a failure.
            self._next.add_done_callback(lambda done: done.exception())
        waiting = self._next
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        await asyncio.shield(waiting)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._next is not None:
            group, self._next = self._next, None
            if self._failure is None:
                await self._sync_for(group, loop)
            else:
                # The system tells of a failed write-back once: a later sync would succeed without what was lost.
                group.set_exception(OSError("an earlier sync failed"))

    async def _sync_for(self, group: asyncio.Future[None], loop: asyncio.AbstractEventLoop) -> None:
        try:
            await loop.run_in_executor(self._pool, self.sync)
        except Exception as error:  # noqa: BLE001 - handed to those who wait
            self._failure = error
            group.set_exception(error)
        else:
            group.set_result(None)

    def sync(self) -> None:
        """Sync the files of the journal; those that were full at the last sync are not touched again."""
        self.syncs += 1
        for _ in range(_ATTEMPTS):
            try:
                self._sync_files()
            except FileNotFoundError:
                # A file was full and got its new name between the listing and the open: look again.
                continue
            return
        raise OSError(f"the journal {self._folder} does not hold still")

    def _sync_files(self) -> None:
        names = {path.name for path in self._folder.iterdir()}
        for name in sorted(names):
            closed = name.startswith("closed-")
            if (not closed and not name.startswith("open-")) or name in self._closed_files:
                continue
            descriptor = os.open(self._folder / name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
            if closed:
                self._closed_files.add(name)
        self._closed_files &= names
