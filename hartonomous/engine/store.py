"""The data folder: its lock, its collections and aliases, and how both survive a crash at any moment.

    lock                    held by the process that owns the folder
    ballast                 room for a start on a volume that others have filled
    aliases.json            {alias: collection}, replaced in one step
    collections/ID/         shard/ (the engine's files) and collection.json (name and parameters)
    collections/ID.dead/    being deleted

collection.json is written last: a collection exists once it stands there, and is gone once its folder is renamed. What
has none, or ends in `.dead`, is removed at start. The folder's name is random, so any collection name does.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from hartonomous import codec
from hartonomous.engine import shard
from hartonomous.engine.journal import fsync_path, rename_durably, write_durably
from hartonomous.engine.refusal import RefusedError, not_found, wrong_input
from hartonomous.engine.shard import Collection, Workers, missing

# Writes are refused while less than this is free, so that the engine's memory-mapped files always find their blocks:
# a page that does not is a SIGBUS.
RESERVE_BYTES = 96 * 2**20
# Given back to the volume when a start finds it full: opening a collection writes a little, replaying its journal some
# more. Made anew when there is room.
BALLAST_BYTES = 48 * 2**20
# Vectors, payload and indexes of a request against its own size.
_GROWTH = 4


class FolderInUseError(Exception):
    """Another process owns the data folder."""


class Store:
    """All collections of one data folder."""

    def __init__(self, folder: Path, *, reserve: int = RESERVE_BYTES) -> None:
        self.workers = Workers()
        self.collections: dict[str, Collection] = {}
        self.aliases: dict[str, str] = {}
        self._folder = folder
        self._reserve = reserve
        # One change of collections or aliases at a time.
        self._changing = asyncio.Lock()
        self._lock = self._own(folder)
        self._home = folder / "collections"
        self._ballast = folder / "ballast"

    @staticmethod
    def _own(folder: Path) -> int:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise FolderInUseError(f"The data folder {folder} belongs to a running process.") from error
        return descriptor

    def open(self) -> None:
        """Clean up after a crash and open every collection; raise OSError or what the engine raises."""
        if self._free() < BALLAST_BYTES:
            self._ballast.unlink(missing_ok=True)
        self._home.mkdir(exist_ok=True)
        fsync_path(self._folder)
        for folder in sorted(self._home.iterdir()):
            if folder.suffix or not (folder / shard.CONFIG).exists():
                shutil.rmtree(folder)
            else:
                collection = shard.load(folder, self.workers)
                self.collections[collection.name] = collection
        path = self._folder / "aliases.json"
        if path.exists():
            self.aliases = {a: c for a, c in codec.loads(path.read_bytes()).items() if c in self.collections}

    def close(self) -> None:
        """Flush and close every collection and give the folder back."""
        for collection in self.collections.values():
            self.workers.edge.submit(collection.close).result()
        self.workers.close()
        os.close(self._lock)

    def get(self, name: str) -> Collection:
        """Return a collection by its name or an alias of it, or raise a 404."""
        collection = self.collections.get(self.aliases.get(name, name))
        if collection is None:
            raise missing(name)
        return collection

    def need_room(self, size: int) -> None:
        """Raise a 507 when a write of `size` bytes might not find room on the volume."""
        if self._free() < self._reserve + _GROWTH * size:
            raise RefusedError(507, "Service internal error: No space left on device: the data volume is full")

    def _free(self) -> int:
        volume = os.statvfs(self._folder)
        return volume.f_bavail * volume.f_frsize

    def load_ballast(self) -> None:
        """Set room aside for the next start, when there is some and it is not set aside already; raise OSError."""
        if self._ballast.exists() or self._free() < self._reserve + BALLAST_BYTES:
            return
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, BALLAST_BYTES)

    async def create(self, name: str, kept: dict[str, Any]) -> None:
        """Make a collection; 409 when there is one, 400 when an alias has its name."""
        async with self._changing:
            if name in self.collections:
                raise RefusedError(409, f"Wrong input: Collection `{name}` already exists!")
            if name in self.aliases:
                raise wrong_input(f"Can't create collection with name {name}. Alias with the same name already exists")
            self.need_room(0)
            self.collections[name] = await self.workers.run(lambda: self._make(name, kept))

    def _make(self, name: str, kept: dict[str, Any]) -> Collection:
        folder = self._home / secrets.token_hex(8)
        try:
            return shard.make(folder, name, kept, self.workers)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    async def delete(self, name: str) -> bool:
        """Delete a collection (not an alias) and its aliases; False when there is none."""
        async with self._changing:
            collection = self.collections.get(name)
            if collection is None:
                return False
            kept = {alias: target for alias, target in self.aliases.items() if target != name}
            if kept != self.aliases:
                await self._save_aliases(kept)
            del self.collections[name]
            dead = collection.folder.with_suffix(".dead")
            await self.workers.run(collection.close)
            await self.workers.run(lambda: rename_durably(collection.folder, dead))
            await asyncio.get_running_loop().run_in_executor(self.workers.disk, shutil.rmtree, dead)
            return True

    async def describe(self, name: str, metadata: dict[str, Any]) -> None:
        """Merge `metadata` into a collection's, as Qdrant does: null removes a key."""
        async with self._changing:
            collection = self.get(name)
            merged = {**(collection.kept["metadata"] or {}), **metadata}
            merged = {key: value for key, value in merged.items() if value is not None}
            before = collection.kept
            collection.kept = {**before, "metadata": merged}
            try:
                await self.workers.run(collection.save)
            except BaseException:
                collection.kept = before
                raise

    async def change_aliases(self, changes: list[tuple[str, str, str]]) -> None:
        """Apply (`create`, alias, collection), (`delete`, alias, ""), (`rename`, old, new): all of them or none."""
        async with self._changing:
            aliases = dict(self.aliases)
            for kind, name, other in changes:
                if kind == "create":
                    self._check_alias(name, other)
                    aliases[name] = other
                elif kind == "delete":
                    aliases.pop(name, None)
                elif name in aliases:
                    self._check_new_alias(other)
                    aliases[other] = aliases.pop(name)
                else:
                    raise not_found(f"Alias {name} does not exists!")
            await self._save_aliases(aliases)

    def _check_alias(self, alias: str, collection: str) -> None:
        if collection not in self.collections:
            raise missing(collection)
        self._check_new_alias(alias)

    def _check_new_alias(self, alias: str) -> None:
        if alias in self.collections:
            raise RefusedError(409, f"Wrong input: Collection `{alias}` already exists!")

    async def _save_aliases(self, aliases: dict[str, str]) -> None:
        path = self._folder / "aliases.json"
        await asyncio.get_running_loop().run_in_executor(self.workers.disk, write_durably, path, codec.dumps(aliases))
        self.aliases = aliases
