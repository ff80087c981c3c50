"""Files to text: a line of callers before a few warm worker processes.

A worker is started with the first file that finds none idle, and kept for the next; it is ended after IDLE_S without a
file, after MAX_FILES, or when it has grown. A worker whose answer was not awaited to its end (the caller was cancelled,
or the time was up) is killed, so that no file ever gets another one's answer; its place is free once it is gone.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from hartonomous.config import Parsing
from hartonomous.errors import BackendUnavailableError, DeadlineExceededError, HartonomousError, ValidationFailedError
from hartonomous.log import logger
from hartonomous.parsing.process import DiedError, StartError, Worker
from hartonomous.parsing.protocol import Answer, Kind, Request
from hartonomous.parsing.refusal import INTERNAL, REASONS

IDLE_S: Final = 60.0
MAX_FILES: Final = 200
# A worker that holds more than this, and more than this part of its limit, after a file is replaced.
_GROWN_BYTES: Final = 128 * 1024 * 1024
_GROWN_SHARE: Final = 4
# A worker needs several times the bytes that it is given; more than this part of its limit is not even sent.
_SENT_SHARE: Final = 2
# Who ends a worker so is outside: an operator, or the kernel when memory is short. The file may be innocent.
_FROM_OUTSIDE: Final = frozenset((-signal.SIGKILL, -signal.SIGTERM))
# Its time for computing was up; PDFium was refused memory, after which it aborts.
_DEATHS: Final = {-signal.SIGXCPU: "parsing_timeout", -signal.SIGABRT: "file_too_costly"}


@dataclass(slots=True, frozen=True)
class Parsed:
    """The text of a file, its title, and the offsets (code points) in the text at which pages 2, 3, … begin."""

    text: str
    title: str | None
    pages: tuple[int, ...]


class Parser:
    """Turns files into text; made inside a running event loop, it starts no process before the first file."""

    def __init__(self, config: Parsing, *, idle_s: float = IDLE_S, max_files: int = MAX_FILES) -> None:
        self._config = config
        self._idle_s = idle_s
        self._max_files = max_files
        self._places = asyncio.Semaphore(config.workers)
        self._idle: dict[Worker, asyncio.TimerHandle] = {}
        self._busy: set[Worker] = set()
        self._leaving: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def pids(self) -> frozenset[int]:
        """The ids of the processes that are alive and not told to end."""
        return frozenset(worker.pid for worker in (*self._idle, *self._busy) if worker.alive and worker.pid is not None)

    async def parse(self, data: str | bytes | Path, kind: Kind, limit_s: float) -> Parsed:
        """Return the text of a file: text as it was sent, bytes, or the content of a file on disk.

        `limit_s` seconds are left to the caller, its place in the line included; the time for one file is bounded by
        the configuration besides.

        Raises:
            ValidationFailedError: the file is refused; its code says why.
            DeadlineExceededError: the caller's time is up.
            BackendUnavailableError: the parser is being closed.
            HartonomousError: no worker could be started.
        """
        self._check_open()
        content, request = self._request(data, kind)
        try:
            async with asyncio.timeout(limit_s):
                answer, text = await self._answered(request, content)
        except TimeoutError:
            raise DeadlineExceededError("The time for the request was over before the file was read.") from None
        if answer["reason"] is not None:
            _refuse(answer["reason"], kind, answer.get("detail"))
        return Parsed(text.decode("utf-8", "replace"), answer["title"], tuple(answer["pages"]))

    async def close(self) -> None:
        """Kill every worker and wait until all are gone; files under way and in line are refused."""
        if self._closed:
            return
        self._closed = True
        for worker in list(self._idle):
            self._idle.pop(worker).cancel()
            self._leave(worker)
        for worker in self._busy:
            worker.kill()
        # Whoever stands in line takes a place before this does, and is refused.
        for _ in range(self._config.workers):
            await self._places.acquire()
        if self._leaving:
            await asyncio.wait(self._leaving)

    def _request(self, data: str | bytes | Path, kind: Kind) -> tuple[bytes, Request]:
        path = str(data.absolute()) if isinstance(data, Path) else None
        content = b"" if isinstance(data, Path) else data.encode("utf-8", "replace") if isinstance(data, str) else data
        if len(content) > self._config.memory_bytes // _SENT_SHARE:
            _refuse("file_too_costly", kind)
        return content, {
            "kind": kind,
            "size": len(content),
            "path": path,
            "decoded": isinstance(data, str),
            "max_text_bytes": self._config.max_text_bytes,
            "cpu_s": self._config.timeout_s,
        }

    async def _answered(self, request: Request, content: bytes, *, again: bool = True) -> tuple[Answer, bytes]:
        """Ask a worker, and with `again` another one when the first was killed by somebody else."""
        try:
            return await self._asked(request, content)
        except DiedError as error:
            self._check_open()
            logger.bind(kind=request["kind"], returncode=error.returncode).warning("a parsing process died")
            if not again or error.returncode not in _FROM_OUTSIDE:
                _refuse(_reason_of_death(error.returncode), request["kind"])
        return await self._answered(request, content, again=False)

    async def _asked(self, request: Request, content: bytes) -> tuple[Answer, bytes]:
        async with self._worker() as worker:
            try:
                async with asyncio.timeout(self._config.timeout_s):
                    return await worker.ask(request, content)
            except TimeoutError:
                _refuse("parsing_timeout", request["kind"])

    @asynccontextmanager
    async def _worker(self) -> AsyncIterator[Worker]:
        """Take a worker for as long as the block runs, an idle one or a new one."""
        await self._places.acquire()
        worker = self._taken()
        self._busy.add(worker)
        try:
            self._check_open()
            if not worker.alive:
                await self._start(worker)
            yield worker
        finally:
            self._busy.discard(worker)
            self._give_back(worker)

    async def _start(self, worker: Worker) -> None:
        try:
            await worker.start()
        except StartError as error:
            self._check_open()  # it may have been killed by `close`
            logger.bind(reason=str(error)).error("a parsing process could not be started")
            raise HartonomousError("The server could not start a process to read the file with.") from None
        self._check_open()

    def _taken(self) -> Worker:
        """Return the idle worker that was used last, so that surplus ones stay idle and end, or one to be started."""
        while self._idle:
            worker, timer = self._idle.popitem()
            timer.cancel()
            if worker.idle:
                return worker
        return Worker(self._config.memory_bytes)

    def _give_back(self, worker: Worker) -> None:
        if self._closed or not worker.idle:
            self._leave(worker, self._places)
            return
        grown = worker.resident > max(_GROWN_BYTES, self._config.memory_bytes // _GROWN_SHARE)
        if grown or worker.files >= self._max_files:
            self._leave(worker, self._places)
            return
        self._idle[worker] = asyncio.get_running_loop().call_later(self._idle_s, self._expire, worker)
        self._places.release()

    def _expire(self, worker: Worker) -> None:
        del self._idle[worker]
        self._leave(worker)

    def _leave(self, worker: Worker, places: asyncio.Semaphore | None = None) -> None:
        """Kill a worker; its place is free when it is gone. There is nothing that it could lose."""
        worker.kill()
        task = asyncio.get_running_loop().create_task(_gone(worker, places))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _check_open(self) -> None:
        if self._closed:
            raise BackendUnavailableError("The server is shutting down.", code="draining", retry_after=1)


async def _gone(worker: Worker, places: asyncio.Semaphore | None) -> None:
    try:
        await worker.wait()
    finally:
        if places is not None:
            places.release()


def _reason_of_death(returncode: int) -> str:
    return _DEATHS.get(returncode, "broken_file")


def _refuse(reason: str, kind: str, detail: str | None = None) -> NoReturn:
    if detail is not None:
        logger.bind(kind=kind, error=detail).warning("a file met an error that was not foreseen")
    if reason == INTERNAL:
        raise HartonomousError("The server could not read the file.")
    code, sentence = REASONS.get(reason, REASONS["broken_file"])
    raise ValidationFailedError(sentence, code=code)
