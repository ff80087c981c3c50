"""The signals and the drain.

`run` serves until SIGTERM or SIGINT. Then `/ready` is 503 at once, and after `notice_s` new work is refused with 503,
while the socket stays open so that everybody sees it; what is under way has `drain_s` to finish. After that the calls
to the model services are ended, so that every stream gets its error event; what is being written to the vector store is
finished. Each answer says that its connection closes. At the end who has connected and not been answered is answered,
and the process exits. A second signal does not hurry anybody: systemd's own limit does. SIGHUP reads the
configuration again.

Where others serve the same address, now or when this process has ended, nobody is refused: after `notice_s` nothing is
accepted any more, so that who connects waits for them, and what comes on the connections that are there is answered.
SIGUSR2 starts such a successor (`hartonomous.upgrade`) and then stops. A successor that stops waits for the process
before, as long as that one may take.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import web

from hartonomous import memory
from hartonomous.adopting import adopt
from hartonomous.app import create_app
from hartonomous.config import Config
from hartonomous.doors import Doors
from hartonomous.errors import ConfigError
from hartonomous.keys import METRICS, RELOAD, STATE, TRAIL, State
from hartonomous.log import logger
from hartonomous.middleware.reloads import reload_noted
from hartonomous.reload import first_round
from hartonomous.systemd import NOTHING, Given
from hartonomous.telling import Telling
from hartonomous.upgrade import Predecessor, Successor, UpgradeError

# How long a request that was cut off may take to say so, and a client to take what it was answered.
_LAST_WORDS_S = 5.0
# How long a new process may take to become ready, beside its first look at the backends.
_START_S = 60.0


async def run(config: Config, path: Path | None = None, given: Given = NOTHING) -> None:
    """Serve `config` until a signal comes; it is read again from `path`. `given` is what the service manager passed.

    Raises:
        ConfigError: the address cannot be listened on, or a file that the configuration names is wrong.
    """
    hangup = _signalled(signal.SIGHUP)
    upgrade = _signalled(signal.SIGUSR2)
    adopted = adopt(given, config)
    app = create_app(config, path)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=_LAST_WORDS_S)
    stopped = _signalled(signal.SIGTERM, signal.SIGINT)
    await runner.setup()
    doors = Doors(runner, config, adopted)
    telling = Telling(app, doors, given)
    before = Predecessor(adopted.channel)
    try:
        await doors.bind()
        if await _is_ours(app, before, stopped):
            doors.open()
            memory.settle()
            async with _beside(telling.run()):
                async with _beside(_reload(app, hangup)), _beside(_hear_again(app, doors, before)):
                    await _serve(app, doors, telling, given, stopped, upgrade)
                await _stop(app, doors, telling, before)
    finally:
        await runner.cleanup()
        await doors.wait_closed(_LAST_WORDS_S)
        telling.close()
        before.close()
    logger.info("stopped")


async def _is_ours(app: web.Application, before: Predecessor, stopped: asyncio.Event) -> bool:
    """Wait until the process before leaves its sockets to this one, if it does; False when a signal came before.

    Raises:
        ConfigError: it has ended without a word.
    """
    if before.ended.is_set():
        return True
    await first_round(app[STATE].current)
    taken = asyncio.create_task(before.has_left())
    if not await _is_first(taken, stopped):
        return False
    if not taken.result():
        raise ConfigError("the process that this one was to follow has ended")
    app[STATE].current.changes.are_missed = True
    return True


async def _hear_again(app: web.Application, doors: Doors, before: Predecessor) -> None:
    """Keep answers from the moment in which the process before has ended: what it changed was not told here."""
    await before.ended.wait()
    app[STATE].current.changes.are_missed = doors.are_handed_over


async def _serve(
    app: web.Application, doors: Doors, telling: Telling, given: Given, stopped: asyncio.Event, upgrade: asyncio.Event
) -> None:
    """Serve until a signal ends it, or a successor has the sockets."""
    while not stopped.is_set():
        if not await _is_first(asyncio.create_task(upgrade.wait()), stopped):
            return
        attempt = asyncio.create_task(_hand_over(app, doors, telling, given))
        if not await _is_first(attempt, stopped) or attempt.result():
            return
        upgrade.clear()  # those that came meanwhile asked for the same


async def _hand_over(app: web.Application, doors: Doors, telling: Telling, given: Given) -> bool:
    """Start a successor and leave the sockets to it; return whether it has them."""
    logger.info("a new process is started")
    successor = Successor(given, doors.passed)
    try:
        if os.getpid() == 1:
            raise UpgradeError("the first process of a container cannot be replaced")
        successor.start()
        health = app[STATE].current.config.health
        await successor.ready(_START_S + health.timeout_s)
        # First, because the other one is heard only then; and this one is not, from then on: what fails between the
        # two is to the manager the death of its main process.
        telling.main_process(successor.pid)
        successor.hand_over()
    except BaseException as error:
        await successor.kill()
        if not isinstance(error, Exception):
            raise
        _tell_failure(app, error)
        return False
    telling.close()
    doors.hand_over(successor)
    app[STATE].current.changes.are_missed = True
    logger.bind(pid=successor.pid).info("a new process serves")
    return True


def _tell_failure(app: web.Application, error: Exception) -> None:
    """Say that an upgrade has failed, which ends nothing else, also when the fault is our own."""
    app[METRICS].upgrades_failed.inc()
    told = logger.bind(problem=str(error) or type(error).__name__)
    told = told if isinstance(error, UpgradeError) else told.opt(exception=error)
    told.error("the upgrade failed: the old process serves on")


async def _reload(app: web.Application, hangup: asyncio.Event) -> None:
    """Reload at each SIGHUP; those that come during a reload are one more."""
    while await hangup.wait():
        hangup.clear()
        with suppress(Exception):  # told where it was raised
            await app[RELOAD](reload_noted(app[TRAIL], cause="signal"))


async def _stop(app: web.Application, doors: Doors, telling: Telling, before: Predecessor) -> None:
    """Drain, and wait for the process before: when this one has ended a service manager ends what is left."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _stop_s(app[STATE].current.config)
    if not doors.are_handed_over:
        before.stopping()
    await _drain(app, doors, telling)
    await doors.close(_LAST_WORDS_S)
    if not before.ended.is_set():
        logger.info("the process before still has work")
        await _is_set(before.ended, until - loop.time())


def _stop_s(config: Config) -> float:
    """Return how long a stop may take, in seconds."""
    limits = config.server
    return limits.notice_s + limits.drain_s + 4 * _LAST_WORDS_S + config.backends.qdrant.timeout_s


async def _drain(app: web.Application, doors: Doors, telling: Telling) -> None:
    """Wait until nothing is under way, or end the calls to the model services when that takes too long."""
    state, metrics = app[STATE], app[METRICS]
    limits = state.current.config.server
    state.stopping = True
    metrics.draining.set(1)
    telling.stopping(_stop_s(state.current.config))
    logger.bind(notice_s=limits.notice_s, drain_s=limits.drain_s, active=state.active).info("draining")
    if not doors.are_handed_over:
        await asyncio.sleep(limits.notice_s)
    if doors.are_shared:
        doors.leave()
        await doors.answered(limits.drain_s)
        is_idle = not state.active
    else:
        state.draining = True
        is_idle = await _is_set(state.idle, limits.drain_s)
    if not is_idle:
        state.draining = True
        logger.bind(active=state.active).warning("what is under way is cut off")
        metrics.cut_off.inc(state.active)
        await _cut_off(state)


async def _cut_off(state: State) -> None:
    """End the calls to the model services, and wait until their requests have said so."""
    runtimes = state.runtimes
    for pool in {pool for runtime in runtimes for pool in runtime.pools.values()}:
        if pool.name != "qdrant":
            await pool.abort()
    # What has begun to be written has its calls to the store left, each of which has a limit of its own; its caller
    # still hears of it.
    for runtime in runtimes:
        await runtime.ingestor.jobs.drain()
    await _is_set(state.idle, _LAST_WORDS_S)


async def _is_set(event: asyncio.Event, limit_s: float) -> bool:
    """Wait until an event is set; return whether that was within the time."""
    try:
        async with asyncio.timeout(limit_s):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def _is_first(task: asyncio.Task[Any], stopped: asyncio.Event) -> bool:
    """Wait until a task is done, or ended by a signal; return whether it is done."""
    signalled = asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait((task, signalled), return_when=asyncio.FIRST_COMPLETED)
    finally:
        signalled.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    return not task.cancelled()


@asynccontextmanager
async def _beside(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Run this meanwhile."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


def _signalled(*numbers: signal.Signals) -> asyncio.Event:
    """Return what each of these signals sets."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in numbers:
        loop.add_signal_handler(number, event.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)  # those that came before are told now
    return event
