"""The engine's process: owns the data folder, listens, keeps house, and ends in order.

Housekeeping (see `journal` for what a checkpoint is): a collection that was written to is checkpointed once requests
pause for CHECKPOINT_IDLE_S, and at the latest after CHECKPOINT_AFTER_S or CHECKPOINT_BYTES, so that a start replays
little. It is optimised after OPTIMISE_IDLE_S without a request and OPTIMISE_CHANGES operations.

Optimising. `optimize()` holds Python's global lock, and so the whole process, until it is done, and it cannot be
stopped. What makes it long is building an HNSW index: 2 s for 10,000 vectors of 384 dimensions, 22 s for 40,000. So
none is built unless a collection asks for it (`optimizers_config.indexing_threshold`): dense vectors are searched by
full scan, which is exact (6 ms for 40,000 vectors of 384 dimensions); payload and sparse indexes are always kept. What
is left is merging small segments and dropping deleted points (1.9 s for 40,000 points of which a third were deleted, on
a busy machine), and it only runs when nobody asks for anything, after a checkpoint. The engine keeps the old segments
until the next flush, which is a checkpoint's and comes after all files of the new ones are on the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from pathlib import Path

from aiohttp import web

from hartonomous.engine.app import create_app
from hartonomous.engine.locked import read_key
from hartonomous.engine.refusal import RefusedError
from hartonomous.engine.shard import Collection
from hartonomous.engine.state import ACTIVITY, Activity
from hartonomous.engine.store import RESERVE_BYTES, FolderInUseError, Store
from hartonomous.engine.supervisor import tell_ready
from hartonomous.log import logger
from hartonomous.systemd import Notifier

CHECKPOINT_IDLE_S = 2.0
CHECKPOINT_AFTER_S = 60.0
CHECKPOINT_BYTES = 32 * 2**20
OPTIMISE_IDLE_S = 10.0
OPTIMISE_CHANGES = 1000
DRAIN_S = 20.0
# A supervisor that was killed is gone a moment before the kernel has taken the engine's locks away.
FOLDER_WAIT_S = 1.0
_TICK_S = 1.0


class StartError(Exception):
    """The engine cannot start; the message is a sentence for the operator."""


def parse_address(address: str) -> tuple[str, int] | str:
    """Return (host, port) or, for `unix:PATH`, the path; raise StartError."""
    if address.startswith("unix:"):
        return address.removeprefix("unix:")
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise StartError(f"{address!r} is not an address: expected HOST:PORT or unix:PATH.")
    return host.strip("[]") or "127.0.0.1", int(port)


async def serve(data: Path, address: str, reserve: int, key: str | None = None) -> None:
    """Serve until SIGTERM or SIGINT; raise StartError when that cannot begin."""
    where = parse_address(address)
    # Heard as the service's main process (`--no-restart`); under our own supervisor only with NotifyAccess=all.
    manager = Notifier(os.environ.pop("NOTIFY_SOCKET", None))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    store = await _open(data, reserve)
    try:
        app = create_app(store, key)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=DRAIN_S)
        await runner.setup()
        try:
            shown = await _listen(runner, where)
            logger.bind(address=shown, data=str(data)).info("vector engine listening")
            tell_ready(shown)
            manager.tell(READY=1, STATUS=f"listening on {shown}")
            house = asyncio.create_task(_keep_house(store, app[ACTIVITY]))
            await stop.wait()
            logger.info("vector engine stopping")
            manager.tell(STOPPING=1)
            house.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await house
        finally:
            await runner.cleanup()
            await app[ACTIVITY].settled()
    finally:
        store.close()
    logger.info("vector engine stopped")


async def _open(data: Path, reserve: int) -> Store:
    try:
        store = await _own(data, reserve)
        store.open()
    except FolderInUseError as error:
        raise StartError(str(error)) from error
    except Exception as error:
        # Whatever the engine's loader or the disk says: the operator needs the sentence, not a traceback.
        raise StartError(f"The data folder {data} cannot be opened: {error}") from error
    return store


async def _own(data: Path, reserve: int) -> Store:
    until = time.monotonic() + FOLDER_WAIT_S
    while True:
        try:
            return Store(data, reserve=reserve)
        except FolderInUseError:
            if time.monotonic() >= until:
                raise
            await asyncio.sleep(0.02)


async def _listen(runner: web.AppRunner, where: tuple[str, int] | str) -> str:
    try:
        if isinstance(where, str):
            _refuse_socket_in_use(where)
            await web.UnixSite(runner, where).start()
            return f"unix:{where}"
        host, port = where
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise StartError(f"Cannot listen on {_show(where)}: {os.strerror(error.errno or 0)}.") from error
    return "http://{}:{}".format(*runner.addresses[0][:2])


def _show(where: tuple[str, int] | str) -> str:
    return f"unix:{where}" if isinstance(where, str) else f"{where[0]}:{where[1]}"


def _refuse_socket_in_use(path: str) -> None:
    # asyncio removes a socket file that is in its way, a living one as well.
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return
    raise StartError(f"Cannot listen on unix:{path}: another process listens there.")


async def _keep_house(store: Store, activity: Activity) -> None:
    while True:
        await asyncio.sleep(_TICK_S)
        with contextlib.suppress(OSError):
            store.load_ballast()
        for collection in list(store.collections.values()):
            try:
                await _tidy(store, collection, activity.idle_s)
            except (OSError, RefusedError) as error:
                # A full disk: what is acknowledged stands in the journal, and the next round tries again.
                logger.bind(collection=collection.name, error=str(error)).error("checkpoint failed")
            except Exception as error:  # noqa: BLE001 - one collection's trouble must not end the house's keeping
                logger.bind(collection=collection.name).opt(exception=error).error("checkpoint failed")


async def _tidy(store: Store, collection: Collection, idle_s: float) -> None:
    due = (
        idle_s >= CHECKPOINT_IDLE_S
        or collection.unflushed >= CHECKPOINT_BYTES
        or time.monotonic() - collection.checkpointed >= CHECKPOINT_AFTER_S
    )
    if collection.dirty and due:
        await store.workers.run(collection.checkpoint)
    if idle_s >= OPTIMISE_IDLE_S and collection.changes >= OPTIMISE_CHANGES:
        await store.workers.run(collection.optimise)


def run(data: Path, address: str, *, reserve: int = RESERVE_BYTES, key: str | None = None) -> None:
    """Serve until a signal; raise StartError. Writes are refused while less than `reserve` bytes are free.

    `key` is `file:PATH` of the file with the key that requests must show; without one everybody is answered.
    """
    try:
        secret = None if key is None else read_key(key)
    except ValueError as error:
        raise StartError(f"--api-key: {error}.") from error
    asyncio.run(serve(data, address, reserve, secret))
