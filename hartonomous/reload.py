"""The configuration is read again while the server serves: a new runtime beside the old one, and then in its place.

Everything is read, checked and made before the swap, which is one assignment; whatever fails before leaves the old
configuration serving. A request keeps the runtime that it began with, which is closed when its last request has ended.
Between making and swapping the backends are polled, which may take seconds: a key that is gone opens nothing by then,
and the other processes know already.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress

from hartonomous import clienttls, log
from hartonomous.core.kept import Kept
from hartonomous.errors import ConfigError
from hartonomous.keys import Noted, Reloaded, Runtime, State, Tenure
from hartonomous.log import logger
from hartonomous.metrics import Metrics
from hartonomous.pipelines.jobs import Jobs
from hartonomous.settings import Settings
from hartonomous.siblings import LOOK_S, Siblings
from hartonomous.tls import ServingContext

# How long after the limit of a poll its result is there at the latest.
_POLLED_S = 1.0

Read = Callable[[], Settings]
Make = Callable[[Settings, AsyncExitStack], Awaitable[Runtime]]
"""Makes a runtime; what is to be done at its end it pushes on the stack."""


class Reloader:
    """Holds what the server serves with. One reload at a time: who comes meanwhile reads what is there afterwards.

    `read` reads the configuration again, in a thread. `serving` is the context of the listening socket, None without
    TLS. `siblings` are the other processes that serve the same file, None without a file. `kept` are the newest lines
    of the audit trail.
    """

    def __init__(
        self,
        state: State,
        metrics: Metrics,
        read: Read,
        make: Make,
        serving: ServingContext | None,
        siblings: Siblings | None,
        kept: Kept,
    ) -> None:
        self._state = state
        self._metrics = metrics
        self._read = read
        self._make = make
        self._serving = serving
        self._siblings = siblings
        self._kept = kept
        self._settings: Settings | None = None
        self._one_at_a_time = asyncio.Lock()
        self._jobs = Jobs()
        self._retiring: dict[asyncio.Task[None], Tenure] = {}

    async def start(self, settings: Settings) -> None:
        """Make the first runtime. Raises ConfigError."""
        await self._swap(settings)
        self._tell_success(settings)
        if self._siblings is not None:
            await self._catch_up(settings)

    async def reload(self, noted: Noted | None = None) -> Reloaded:
        """Serve what the configuration file says now, here and in the other processes of this host.

        Once begun it is done, also when its caller leaves, and `noted` is told how it ended.

        Raises:
            ConfigError: the file, or something that it names, is wrong; the old configuration serves on, everywhere.
        """
        return await self._jobs.run(self._reload_in_turn(noted, told=False))

    async def follow(self, noted: Noted) -> None:
        """Reload whenever another process has, and tell `noted` how it ended; it has no end of its own."""
        while self._siblings is not None:
            await asyncio.sleep(LOOK_S)
            if self._siblings.have_reloaded():
                with suppress(Exception):  # told where it was raised
                    await self._jobs.run(self._reload_in_turn(noted, told=True))

    async def _catch_up(self, settings: Settings) -> None:
        """Reload if the file has changed since `settings` were read: what others told before nobody heard here."""
        with suppress(ConfigError):
            read, _ = (await asyncio.to_thread(self._read)).bound_by(settings)
            if read.changes(settings):
                await self._reload_in_turn(None, told=True)

    async def _reload_in_turn(self, noted: Noted | None, *, told: bool) -> Reloaded:
        """Reload when those before have; `told`: the other processes know of it."""
        async with self._one_at_a_time:
            try:
                with self._state.reloading():
                    reloaded = await self._reload(told=told)
            except Exception as error:
                self._tell_failure(error)
                if noted is not None:
                    noted(error)
                raise
        self._metrics.config_reloads.labels("reloaded" if reloaded.changed else "unchanged").inc()
        found = {"changed": reloaded.changed, "restart_required": reloaded.restart_required}
        logger.bind(**found).info("the configuration was read again")
        if noted is not None:
            noted(reloaded)
        return reloaded

    async def close(self) -> None:
        """Close the runtime, and those of before, whatever still uses them; a reload under way is finished first."""
        await self._jobs.drain()
        async with self._one_at_a_time:
            if self._state.tenure is not None:
                self._retire(self._state.tenure)
            for tenure in self._retiring.values():
                tenure.end()
            if self._retiring:
                await asyncio.wait(self._retiring)

    async def _reload(self, *, told: bool) -> Reloaded:
        old = self._settings
        assert old is not None
        read = await asyncio.to_thread(self._read)
        settings, restart_required = read.bound_by(old)
        changed = settings.changes(old)
        if changed:
            await self._swap(settings, told=told)
        elif not told:
            self._tell_siblings()
        if settings.config.log != old.config.log:
            log.configure(settings.config.log.level, kept_records=settings.config.log.kept_records)
            self._kept.resize(settings.config.log.kept_records)
        self._tell_success(settings)
        return Reloaded(changed, restart_required)

    async def _swap(self, settings: Settings, *, told: bool = True) -> None:
        async with AsyncExitStack() as stack:
            runtime = await self._make(settings, stack)
            if not told:
                self._tell_siblings()
            if self._state.tenure is not None:
                with self._state.narrowed(runtime.keyring):
                    await first_round(runtime)
            tenure = Tenure(runtime, stack.pop_all())
        old = self._state.serve(tenure)
        self._settings = settings
        self._metrics.backends.keep(runtime.pools)
        self._metrics.tenants.serve({key.id: key.owner or key.id for key in settings.config.auth.keys})
        if self._serving is not None and settings.certificate is not None:
            self._serving.certificate = settings.certificate
        if self._state.needs_keys and not runtime.keyring:
            logger.warning("the last key is gone: nobody comes in before there are keys again, or a restart")
        elif not runtime.keyring and old is None:
            logger.warning("there are no keys: only this host is served, without any proxy")
        self._state.needs_keys |= bool(runtime.keyring)
        if old is not None:
            old.runtime.monitor.is_told = old.runtime.monitor is runtime.monitor
            runtime.monitor.is_told = True
            self._retire(old)
        self._change_addresses(runtime)

    def _change_addresses(self, runtime: Runtime) -> None:
        """Let nobody ask an address that is taken away, also those who began with a runtime of before.

        Those who began with other settings of a service whose every address is taken away have none but these to ask.
        """
        for pool in runtime.pools.values():
            pool.adopt()
        for older in self._state.runtimes:
            for name, pool in older.pools.items():
                if name in runtime.pools:
                    pool.follow(runtime.pools[name])

    def _tell_siblings(self) -> None:
        if self._siblings is not None:
            self._siblings.tell()

    def _retire(self, tenure: Tenure) -> None:
        """Let a runtime end with its last request."""
        self._state.retired.add(tenure)
        task = asyncio.create_task(tenure.retire())
        self._retiring[task] = tenure
        task.add_done_callback(self._retired)

    def _retired(self, task: asyncio.Task[None]) -> None:
        self._state.retired.discard(self._retiring.pop(task))
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.opt(exception=error).error("an old configuration could not be closed")

    def _tell_success(self, settings: Settings) -> None:
        self._metrics.config_successful.set(1)
        self._metrics.config_succeeded_at.set(time.time())
        if settings.certificate is not None:
            self._metrics.certificate_ends_at.set(settings.certificate.not_after)
            settings.certificate.warn()
        clienttls.warn(settings.config, settings.trusts)

    def _tell_failure(self, error: Exception) -> None:
        self._metrics.config_reloads.labels("failed").inc()
        self._metrics.config_successful.set(0)
        if isinstance(error, ConfigError):
            logger.bind(problem=error.message).error("the configuration is wrong: the old one serves on")
        else:
            logger.opt(exception=error).error("the configuration could not be reloaded: the old one serves on")


async def first_round(runtime: Runtime) -> None:
    """Wait until it is known which backends are up, so that `/ready` does not forget it; a poll has a limit."""
    with suppress(TimeoutError):
        async with asyncio.timeout(runtime.config.health.timeout_s + _POLLED_S):
            await runtime.monitor.look()
