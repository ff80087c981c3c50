"""Waiting for something to change below the roots.

What has changed is for the next walk to find: here it is only known that it is worth one. A folder that comes back
after it was gone is watched anew; where the system cannot watch (no more watches, a network file system), a walk now
and then finds what has changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from hartonomous.sending.walk import Root

_CHECK_S = 30.0
# Changes that come at intervals shorter than the first belong together, for at most as long as the second (ms).
_QUIET_MS = 400
_LONGEST_MS = 5_000

Identity = tuple[int, int] | None


class Changes:
    """Tells that something has changed. Made by `watching`."""

    def __init__(self, roots: Sequence[Root], say: Callable[[str], None]) -> None:
        self._roots = roots
        self._say = say
        self._changed = asyncio.Event()
        self._watchers: dict[Root, asyncio.Task[None]] = {}
        self._identities: dict[Root, Identity] = {}

    async def wait(self, seconds: float) -> None:
        """Return when something has changed, or after `seconds`."""
        ends = asyncio.get_running_loop().time() + seconds
        while (left := ends - asyncio.get_running_loop().time()) > 0:
            self.refresh()
            try:
                async with asyncio.timeout(min(left, _CHECK_S)):
                    await self._changed.wait()
            except TimeoutError:
                continue
            break
        self._changed.clear()

    def refresh(self) -> None:
        """Watch every root that is there and is not watched, or has become another folder."""
        for root in self._roots:
            identity = _identity(_watched(root))
            known = self._identities.get(root)
            if identity == known:
                continue
            self._identities[root] = identity
            if root in self._watchers:
                self._watchers.pop(root).cancel()
                self._changed.set()
            if identity is not None:
                self._watchers[root] = asyncio.create_task(self._watch(root))

    async def _watch(self, root: Root) -> None:
        from watchfiles import awatch

        folder = root.path.is_dir()
        try:
            async with aclosing(
                awatch(
                    _watched(root),
                    watch_filter=lambda _change, path: _concerns(root, folder, path),
                    step=_QUIET_MS,
                    debounce=_LONGEST_MS,
                    recursive=folder,
                    ignore_permission_denied=True,
                )
            ) as changes:
                async for _ in changes:
                    self._changed.set()
        except (OSError, RuntimeError) as error:
            self._say(f"{root.path} cannot be watched ({error}): it is looked at now and then.")

    async def close(self) -> None:
        """Stop watching."""
        for watcher in self._watchers.values():
            watcher.cancel()
        await asyncio.gather(*self._watchers.values(), return_exceptions=True)


@asynccontextmanager
async def watching(roots: Sequence[Root], say: Callable[[str], None]) -> AsyncIterator[Changes]:
    """Yield what tells of changes below `roots`, from now on."""
    changes = Changes(roots, say)
    try:
        changes.refresh()
        yield changes
    finally:
        await changes.close()


def _watched(root: Root) -> Path:
    """Return the folder to watch: of a file its parent, for a file that is replaced is another one."""
    return root.path if root.path.is_dir() else root.path.parent


def _identity(path: Path) -> Identity:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _concerns(root: Root, folder: bool, path: str) -> bool:
    """Whether a change at `path` may be of a document: version control's own files change all the time."""
    if not folder:
        return path == str(root.path)
    return not any(part.startswith(".") for part in Path(path).parts[len(root.path.parts) :])
