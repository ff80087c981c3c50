"""The supervisor: starts processes stage by stage, waits for their health, and ends all of them together.

A part is data (`Part`), so that the rules are tested with any cheap program:

- A stage is started when every part of the stage before answers its health address.
- A part that dies before it was ever healthy ends everything; one that dies later is started again, with the waits of
  `hartonomous.supervision.Restarts`, and the others go on.
- A signal (INT, TERM, HUP) ends everything: the parts are stopped in the reverse order of their start, each by SIGTERM,
  after its `grace` seconds by SIGKILL. A second signal does not wait any longer.
- Each part has a session of its own, so a terminal's Ctrl-C reaches the supervisor alone; what a part leaves behind
  in its process group is killed. If the supervisor itself is killed, the kernel ends the parts (`trial/child.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from hartonomous.supervision import Restarts, ending
from hartonomous.trial import TrialError, child

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL_SECONDS = 0.1
_HEALTH_TIMEOUT = aiohttp.ClientTimeout(total=5)
_LOG_LINES = 15
_LOG_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Part:
    """A process on `127.0.0.1:port`, healthy when `health_url` answers 200.

    `start` is how many seconds that may take, `grace` how many it has between SIGTERM and SIGKILL.
    """

    name: str
    argv: tuple[str, ...]
    port: int
    health_url: str
    start: float = 120.0
    grace: float = 10.0


@dataclass(slots=True)
class _Running:
    """A part and its process, which is None between a death and the next start."""

    part: Part
    process: Process | None
    started: float
    healthy: bool = False
    restarts: Restarts = field(default_factory=Restarts)


def say(text: str) -> None:
    """Print a line at once; a closed terminal or pipe never keeps the parts from being stopped."""
    try:
        print(text, flush=True)
    except OSError:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, sys.stdout.fileno())
        os.close(sink)


def check_ports(parts: Iterable[Part]) -> None:
    """Make sure that every part's port on 127.0.0.1 is free.

    Raises:
        TrialError: names each port that is not, and the part that wants it.
    """
    taken = [f"port {part.port} is in use, and the {part.name} needs it" for part in parts if _is_taken(part.port)]
    if taken:
        raise TrialError(f"On 127.0.0.1 {'; '.join(taken)}.")


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do it: connections that linger in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


class Stack:
    """Runs parts until a signal comes or one of them cannot start; used once, in the main thread."""

    def __init__(self, stages: Sequence[Sequence[Part]], logs: Path) -> None:
        self._stages = stages
        self._logs = logs
        self._running: list[_Running] = []
        self._watchers: list[asyncio.Task[None]] = []
        self._hurry = asyncio.Event()

    async def run(self, ready: Callable[[], None]) -> None:
        """Run everything until a signal comes; `ready` is called when all parts are healthy.

        Raises:
            TrialError: a part died before it was healthy, or never was; all others have been stopped.
        """
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._handled_signals():
            starting = asyncio.create_task(self._start())
            try:
                await asyncio.wait({starting, self._end}, return_when=asyncio.FIRST_COMPLETED)
                if not self._end.done():
                    starting.result()
                    ready()
                await self._end
            finally:
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)
                await self._stop()

    @contextlib.contextmanager
    def _handled_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        # Under nohup(1) the terminal's end is no reason to stop.
        numbers = [number for number in _SIGNALS if number != signal.SIGHUP or not _is_ignored(number)]
        for number in numbers:
            loop.add_signal_handler(number, self._on_signal)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _on_signal(self) -> None:
        if self._end.done():
            self._hurry.set()
        else:
            say("Stopping: what is being answered is finished; once more stops at once.")
            self._end.set_result(None)

    async def _start(self) -> None:
        async with aiohttp.ClientSession(timeout=_HEALTH_TIMEOUT) as session:
            for stage in self._stages:
                started = [await self._begin(part) for part in stage]
                await _wait_for_all(started, session)

    async def _begin(self, part: Part) -> _Running:
        _put_log_aside(_log_path(self._logs, part.name))
        running = _Running(part, await self._spawn(part), time.monotonic())
        self._running.append(running)
        self._watchers.append(asyncio.create_task(self._watch(running)))
        return running

    async def _spawn(self, part: Part) -> Process:
        # Called in the main thread: the kernel ties a child to the thread that started it.
        with _log_path(self._logs, part.name).open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *child.command(*part.argv), stdin=DEVNULL, stdout=log, stderr=STDOUT, start_new_session=True
            )

    async def _watch(self, running: _Running) -> None:
        while running.process is not None:
            code = await running.process.wait()
            if self._end.done():
                return
            if not running.healthy:
                self._give_up(running.part, code)
                return
            _kill_group(running.process)  # what it left behind may hold its port
            running.process = None
            await self._restart(running, f"ended {ending(code)}")

    def _give_up(self, part: Part, code: int) -> None:
        log = _log_path(self._logs, part.name)
        sentence = f"The {part.name} ended {ending(code)}, so everything was stopped."
        self._end.set_exception(TrialError(f"{sentence} The end of {log}:\n{_tail(log)}"))

    async def _restart(self, running: _Running, why: str) -> None:
        while running.process is None:
            wait_s = running.restarts.wait_after(time.monotonic() - running.started)
            when = f"in {wait_s:.1f} s" if wait_s else "now"
            log = _log_path(self._logs, running.part.name)
            say(f"  The {running.part.name} {why}; it is started again {when}. Its log: {log}")
            await asyncio.sleep(wait_s)
            running.started = time.monotonic()
            try:
                running.process = await self._spawn(running.part)
            except OSError as error:  # too little memory, too many processes: a death like others
                why = f"cannot be started ({error.strerror})"

    async def _stop(self) -> None:
        for watcher in self._watchers:
            watcher.cancel()
        # One may be in the middle of a start.
        await asyncio.gather(*self._watchers, return_exceptions=True)
        for running in reversed(self._running):
            if running.process is not None:
                await self._stop_one(running.part, running.process)

    async def _stop_one(self, part: Part, process: Process) -> None:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            gone, hurry = asyncio.ensure_future(process.wait()), asyncio.ensure_future(self._hurry.wait())
            await asyncio.wait({gone, hurry}, timeout=part.grace, return_when=asyncio.FIRST_COMPLETED)
            gone.cancel()
            hurry.cancel()
        _kill_group(process)
        await process.wait()


def _kill_group(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def _wait_for_all(stage: Iterable[_Running], session: aiohttp.ClientSession) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for running in stage:
                group.create_task(_wait_until_healthy(running, session))
    except ExceptionGroup as errors:  # what is raised where `except*` handles it came in a group before Python 3.11.4
        told = [error for error in errors.exceptions if isinstance(error, TrialError)]
        if not told:
            raise
        raise told[0] from None


async def _wait_until_healthy(running: _Running, session: aiohttp.ClientSession) -> None:
    part, begin = running.part, time.monotonic()
    while not await _is_healthy(part.health_url, session):
        if time.monotonic() - begin > part.start:
            raise TrialError(f"The {part.name} did not become healthy within {part.start:g} s.")
        await asyncio.sleep(_POLL_SECONDS)
    running.healthy = True
    say(f"  {part.name:<20} 127.0.0.1:{part.port:<6} ready after {time.monotonic() - begin:.1f} s")


async def _is_healthy(url: str, session: aiohttp.ClientSession) -> bool:
    try:
        async with session.get(url) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


def _log_path(logs: Path, name: str) -> Path:
    return logs / f"{name.lower().replace(' ', '-')}.log"


def _put_log_aside(path: Path) -> None:
    """Keep the log of the run before as `.log.1`; the processes of a part in one run share one log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.replace(path.with_suffix(".log.1"))


def _is_ignored(number: signal.Signals) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-_LOG_LINES:])
