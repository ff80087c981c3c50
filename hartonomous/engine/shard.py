"""One collection: its shard, the one thread that touches it, and when a write is acknowledged.

All calls into the engine run on one thread, in the order in which they came. They hold Python's global lock anyway, so
more threads would gain nothing, and one thread is the lock that makes a batch of operations one step for every reader.
A read that still waits in the queue is dropped when its client leaves; a write is finished whatever its client does.

A write is applied, then synced (see `journal`), then acknowledged. When a sync fails, what the disk holds is unknown:
the collection then refuses writes until a checkpoint has brought all of it to the disk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import qdrant_edge as edge

from hartonomous import codec
from hartonomous.engine import refusal, schema
from hartonomous.engine.journal import Journal, Tree, fsync_path, write_durably
from hartonomous.engine.refusal import RefusedError
from hartonomous.engine.values import VectorSchema
from hartonomous.log import logger

T = TypeVar("T")

CONFIG = "collection.json"
SHARD = "shard"

# How the engine's own messages begin, and what they mean to a client; anything else is the client's mistake.
_FAULTS = {
    "Service runtime error": (500, "Service internal error: "),
    "Inconsistent storage": (500, "Service internal error: "),
    "Out of memory": (507, "Service internal error: "),
    "Timeout error": (408, ""),
    "No point with id": (404, "Not found: "),
}


def from_engine(error: Exception) -> RefusedError:
    """Turn an exception of the engine, or of its converters of Python values, into a refusal."""
    message = str(error)
    if type(error) is not Exception:
        # A converter's message lists the variants that it tried: too long, and about Python.
        return refusal.malformed("a value has the wrong type or range")
    for begin, (status, prefix) in _FAULTS.items():
        if message.startswith(begin):
            return RefusedError(status, f"{prefix}{message}{' found' if status == 404 else ''}")
    return refusal.wrong_input(message)


class Workers:
    """The thread of the engine's calls and the threads of the disk's."""

    def __init__(self) -> None:
        self.edge = ThreadPoolExecutor(1, thread_name_prefix="edge")
        self.disk: Executor = ThreadPoolExecutor(2, thread_name_prefix="disk")

    async def run(self, job: Callable[[], T]) -> T:
        """Run `job` on the engine's thread; cancelled while it waits there, it never runs."""
        return await asyncio.get_running_loop().run_in_executor(self.edge, job)

    def close(self) -> None:
        """Wait for what runs."""
        self.edge.shutdown()
        self.disk.shutdown()


class Collection:
    """One collection that is open. `name` and `kept` (its description) are what collection.json holds."""

    def __init__(self, folder: Path, name: str, kept: dict[str, Any], shard: edge.EdgeShard, workers: Workers) -> None:
        self.folder = folder
        self.name = name
        self.kept = kept
        self.vectors: VectorSchema = schema.vector_schema(self.kept)
        self.journal = Journal(folder / SHARD / "wal", workers.disk)
        self._tree = Tree(folder)
        self._workers = workers
        self._shard: edge.EdgeShard | None = shard
        self._journal_failed = False
        # What the last process left to the journal is checkpointed when there is time, or room.
        self._dirty = True
        self.operations = 0
        # What housekeeping goes by: bytes written and operations since the last checkpoint, and when it was.
        self.unflushed = 0
        self.changes = 0
        self.checkpointed = time.monotonic()

    @property
    def shard(self) -> edge.EdgeShard:
        """The open shard; 404 when the collection was deleted meanwhile."""
        if self._shard is None:
            raise missing(self.name)
        return self._shard

    async def read(self, job: Callable[[edge.EdgeShard], T]) -> T:
        """Run a read on the engine's thread."""
        return await self._workers.run(lambda: self._guarded(job))

    def _guarded(self, job: Callable[[edge.EdgeShard], T]) -> T:
        try:
            return job(self.shard)
        except (RefusedError, codec.NotJsonError):
            raise
        except Exception as error:
            if type(error) in (Exception, TypeError, ValueError, OverflowError):
                raise from_engine(error) from error
            raise
        except BaseException as error:
            if type(error).__name__ != "PanicException":
                raise
            # A panic of the engine would pass every `except Exception` on its way up.
            raise RuntimeError("the engine panicked") from error

    async def write(self, job: Callable[[edge.EdgeShard], T], size: int) -> T:
        """Run a write of about `size` bytes and return when it is durable; raise RefusedError or OSError."""
        result = await self._workers.run(lambda: self._write(job, size))
        try:
            await self.journal.durable()
        except OSError as error:
            self._journal_failed = True
            logger.bind(collection=self.name, error=str(error)).error("the journal could not be synced")
            raise
        return result

    def _write(self, job: Callable[[edge.EdgeShard], T], size: int) -> T:
        if self._journal_failed:
            self.checkpoint()
        # Counted before it is known to succeed: a failed write may be applied in part.
        self._dirty = True
        self.unflushed += size
        return self._guarded(job)

    def apply(self, shard: edge.EdgeShard, operations: list[edge.UpdateOperation]) -> int:
        """Apply operations in order and return the number of the request; on the engine's thread."""
        for operation in operations:
            shard.update(operation)
        self.changes += len(operations)
        self.operations += 1
        return self.operations

    def checkpoint(self) -> None:
        """Bring journal, segments and their directories to the disk; on the engine's thread."""
        if self._shard is None:
            return
        self._tree.sync_changes()
        try:
            self._shard.flush()
        except Exception as error:
            raise from_engine(error) from error
        self._tree.sync_changes()
        self._journal_failed = False
        self.journal.reset()
        self._dirty = False
        self.unflushed = 0
        self.checkpointed = time.monotonic()

    @property
    def dirty(self) -> bool:
        """Whether anything was written since the last checkpoint."""
        return self._dirty

    def optimise(self) -> None:
        """Merge small segments and drop deleted points; on the engine's thread, which it holds until it is done."""
        if self._shard is None:
            return
        self.changes = 0
        self.checkpoint()
        try:
            changed = self._shard.optimize()
        except Exception as error:
            raise from_engine(error) from error
        if changed:
            self.checkpoint()

    def save(self) -> None:
        """Write the description durably."""
        write_durably(self.folder / CONFIG, codec.dumps({"name": self.name, "kept": self.kept}))

    def close(self) -> None:
        """Close the shard, which flushes it; on the engine's thread."""
        shard, self._shard = self._shard, None
        if shard is not None:
            shard.close()


def missing(name: str) -> RefusedError:
    """Return Qdrant's 404 for a collection."""
    return refusal.not_found(f"Collection `{name}` doesn't exist!")


def make(folder: Path, name: str, kept: dict[str, Any], workers: Workers) -> Collection:
    """Make an empty collection in `folder`, durable to the last file; on the engine's thread.

    collection.json comes last: a folder without one was never finished.
    """
    folder.mkdir()
    (folder / SHARD).mkdir()
    try:
        shard = edge.EdgeShard.create(str(folder / SHARD), schema.edge_config(kept))
    except Exception as error:
        raise from_engine(error) from error
    collection = Collection(folder, name, kept, shard, workers)
    collection.checkpoint()
    collection.save()
    fsync_path(folder.parent)
    return collection


def load(folder: Path, workers: Workers) -> Collection:
    """Open the collection in `folder`; the engine applies what its journal has and its segments have not."""
    description = codec.loads((folder / CONFIG).read_bytes())
    shard = edge.EdgeShard.load(str(folder / SHARD))
    return Collection(folder, description["name"], description["kept"], shard, workers)
