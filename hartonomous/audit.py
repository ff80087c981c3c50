"""The audit trail: who did what, a line each, in a chain that shows what was changed or taken out (`core.chain`).

Each process writes a chain of its own: it takes the first free one of the folder (`audit-0.jsonl`, `audit-1.jsonl`, …)
and goes on with it after a restart. A file that is full is renamed after the number of its first line, and the next one
goes on with the chain.

A line is one `write` of the whole of it, which goes to the system's memory and holds up nobody. Once a second a thread
brings what is new to the disk, and only then writes into the chain's head (`audit-0.head`) how far it is: so a crash or
a power cut never leaves a head that knows more than the files, and a tail that is missing later was cut off.

A trail that cannot be written stops nobody either: what is lost is counted, and the next line that can be written comes
after one that says how many were.
"""

from __future__ import annotations

import asyncio
import os
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from hartonomous import log
from hartonomous.auditfiles import Files
from hartonomous.core.chain import NO_HEAD, RECOVERED, Link, digest, sealed
from hartonomous.core.kept import Kept, KeptRecord
from hartonomous.errors import ConfigError
from hartonomous.log import logger

if TYPE_CHECKING:
    from hartonomous.metrics import Metrics
    from hartonomous.security import Audit

SYNC_S = 1.0
"""How long a line may be in the system's memory alone."""


class Trail:
    """Writes the lines of a process and keeps the newest; without a folder it only keeps them. One thread writes."""

    def __init__(self, settings: Audit, metrics: Metrics, kept_records: int) -> None:
        self.kept = Kept(kept_records)
        self._settings = settings
        self._metrics = metrics
        self._files: Files | None = None
        self._link = Link()
        self._lost = 0
        self._is_synced = True

    def open(self) -> None:
        """Take a chain of the folder. Raises ConfigError when it cannot be written."""
        folder = self._settings.directory
        if folder is None:
            return
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._files = Files.claimed(folder, self._settings.max_file_bytes)
        except OSError as error:
            raise ConfigError(f"audit.directory: cannot be written ({error.strerror})") from error
        self._link = self._files.link
        logger.bind(chain=self._files.chain, seq=self._link.seq).info("the audit trail goes on")
        self._has_told()

    def write(self, event: str, **facts: Any) -> None:
        """Write a line. What JSON cannot say is said as text."""
        told = self._has_told()
        line, now = self._line(event, facts)
        if told and self._put(line):
            self._metrics.audit_lines.inc()
        else:
            self._lost += 1
            self._metrics.audit_lost.inc()
        self.kept.append(KeptRecord(now, 0, facts.get("request_id"), line.decode()))

    async def run(self) -> None:
        """Bring what was written to the disk, again and again."""
        while True:
            await asyncio.sleep(SYNC_S)
            if self._files is not None and self._files.is_dirty:
                await asyncio.to_thread(self.sync)

    def close(self) -> None:
        """Bring everything to the disk and give the chain back."""
        if self._files is not None:
            self.sync()
            self._files.close()
            self._files = None

    def sync(self) -> None:
        """Bring everything to the disk; wait for it. Any thread may call it."""
        if self._files is None:
            return
        try:
            self._files.sync()
            self._is_synced = True
        except OSError as error:
            if self._is_synced:
                logger.bind(cause=error.strerror).error("the audit trail does not reach the disk")
            self._is_synced = False

    def _has_told(self) -> bool:
        """Say what was lost or torn, if anything was; return whether the next line may follow."""
        found = self._found()
        if not self._lost and not found:
            return True
        facts = {"lost": self._lost, "torn": False} | found
        line, _ = self._line(RECOVERED, {"outcome": "failed", **facts})
        if not self._put(line):
            return False
        logger.bind(**facts).warning("the audit trail goes on after a gap")
        self._lost = 0
        return True

    def _found(self) -> dict[str, bool | str]:
        """Return what is wrong with the end of the files, as the next line says it."""
        facts: dict[str, bool | str] = {}
        if self._files is not None and self._files.is_torn:
            facts["torn"] = True
        if self._files is not None and self._files.is_changed:
            facts["changed"] = True
        if self._files is not None and self._files.is_headless:
            facts["head"] = NO_HEAD
        return facts

    def _line(self, event: str, facts: dict[str, Any]) -> tuple[bytes, float]:
        now = time.time()
        first = {"time": _stamp(now), "seq": self._link.seq + 1, "event": event}
        fields = log.encoded({**first, **facts, "pid": os.getpid(), "prev": self._link.digest})
        return sealed(fields.encode()), now

    def _put(self, line: bytes) -> bool:
        """Write a line; return whether it was taken whole."""
        if self._files is None:
            self._link = Link(self._link.seq + 1, digest(line))
            return True
        try:
            taken = self._files.append(line)
        except OSError as error:
            taken = False
            if not self._lost:
                logger.bind(cause=error.strerror).error("the audit trail cannot be written: lines are lost")
        self._link = self._files.link
        return taken


def _stamp(now: float) -> str:
    """Return a Unix time in UTC, to the millisecond."""
    second = int(now)
    return f"{_second(second)}.{int((now - second) * 1000):03}Z"


@lru_cache(maxsize=1)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
