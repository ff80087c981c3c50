"""The processes of a run: started on their cores, asked until they answer, ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.error import URLError
from urllib.request import urlopen

from hartonomous.trial import child
from tests.bench.machine import Cores, cpu_seconds, memory_mb, placed
from tests.service.vector_store import free_port

_START_S = 60.0
_POLL_S = 0.005


class Program:
    """A server on a port of its own; a context manager that is ready when entered, and ended when left."""

    def __init__(
        self,
        *command: str,
        log: Path,
        cores: frozenset[int],
        port: int = 0,
        ready: str = "/ready",
        environ: Mapping[str, str] | None = None,
        bound: bool = True,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.started_s = 0.0
        self._command = [part.replace("{port}", str(self.port)) for part in command]
        self._log = log
        self._cores = cores
        self._ready = self.url + ready
        self._bound = bound
        self._environ = {**os.environ, **(environ or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of the process."""
        assert self._process is not None
        return self._process.pid

    @property
    def cpu_s(self) -> float:
        """The processor time that it has used."""
        return cpu_seconds(self.pid)

    @property
    def memory_mb(self) -> float:
        """Its resident memory."""
        return memory_mb(self.pid)

    def __enter__(self) -> Self:
        # Bound to the life of this process by another program, which takes a moment to start.
        command = child.command(*self._command) if self._bound else self._command
        began = time.monotonic()
        with self._log.open("ab") as log, placed(self._cores):
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=self._environ)
        try:
            self._until_ready(began + _START_S)
        except BaseException:
            self.stop()
            raise
        self.started_s = time.monotonic() - began
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End it, and wait for its end."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _until_ready(self, ends: float) -> None:
        assert self._process is not None
        while not _answers(self._ready):
            if self._process.poll() is not None or time.monotonic() > ends:
                said = self._log.read_text(encoding="utf-8", errors="replace")[-2_000:]
                raise RuntimeError(f"{' '.join(self._command)} is not ready:\n{said}")
            time.sleep(_POLL_S)


class Maker:
    """Makes the programs of a run, whose logs are in its folder."""

    def __init__(self, folder: Path, cores: Cores) -> None:
        self.folder = folder
        self.cores = cores

    @staticmethod
    def python(module: str, *arguments: str) -> list[str]:
        """Return the command line of a Python module."""
        return [sys.executable, "-m", module, *arguments]

    def measured(
        self,
        module: str,
        *arguments: str,
        name: str,
        port: int = 0,
        environ: Mapping[str, str] | None = None,
        bound: bool = True,
    ) -> Program:
        """Return a program that is measured: a Python module and its arguments, `{port}` being its port."""
        log, command = self.folder / f"{name}.log", self.python(module, *arguments)
        return Program(*command, log=log, cores=self.cores.server, port=port, environ=environ, bound=bound)

    def beside(self, *command: str, name: str, ready: str, port: int = 0) -> Program:
        """Return a program that stands beside what is measured."""
        return Program(*command, log=self.folder / f"{name}.log", cores=self.cores.load, ready=ready, port=port)


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False
