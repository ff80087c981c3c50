"""A whole run: everything started, loaded for a time, and then each panel and each rule asked for what it shows."""

from __future__ import annotations

import asyncio
import time
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.monitoring.asked import Asked, by_panels, by_rules, by_variables
from tests.monitoring.load import Load
from tests.monitoring.prometheus import SCRAPE_S, Found
from tests.monitoring.stack import SCRAPER, Stack, running

_SCRAPED_S = 30.0
# How much longer the load goes on for what has not happened yet.
_LATE_S = 60.0
_SERIES = 'scrape_samples_scraped{job="hartonomous"}'


@dataclass(slots=True)
class Report:
    """What was found: by who asks; the faults of Prometheus itself; how many series the server has; what promtool
    complains of in its /metrics."""

    found: dict[Asked, Found] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    idle_series: int = 0
    busy_series: int = 0
    exemplars: int = 0
    complaints: str = ""

    @property
    def empty(self) -> list[str]:
        """Who asked for something and got no number."""
        return [f"{asked.who}: {asked.expression}" for asked, found in self.found.items() if not found.numbers]

    @property
    def failed(self) -> bool:
        """Whether anything was empty or wrong."""
        return bool(self.empty or self.faults or self.complaints)

    def lines(self) -> list[str]:
        """Return the table."""
        width = max(len(asked.who) for asked in self.found)
        rows = [f"{asked.who:<{width}} {found.series:>7} {found.numbers:>8}" for asked, found in self.found.items()]
        series = f"series of the server: {self.idle_series} idle, {self.busy_series} busy; exemplars: {self.exemplars}"
        problems = [*(f"EMPTY {line}" for line in self.empty), *(f"WRONG {line}" for line in self.faults)]
        problems += [f"WRONG {line}" for line in self.complaints.splitlines()]
        verdict = "FAILED" if self.failed else "passed"
        return [f"{'asked by':<{width}} {'series':>7} {'samples':>8}", *rows, series, *problems, verdict]


async def watch(
    seconds: float, folder: Path, models: dict[str, str], store_url: str, tell: Callable[[str], object] = print
) -> Report:
    """Load a server for so many seconds, or a minute longer, while Prometheus watches; report what there was to see."""
    report = Report()
    async with running(folder, models, store_url) as stack:
        start = time.time()
        await _until_scraped(stack)
        report.idle_series = int(await stack.prometheus.number(_SERIES))
        tell(f"{seconds:g} s of load")
        load = Load(stack)
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            await asyncio.sleep(seconds)
            await _look(stack, report, start)
            load.ended.set()
        await _until_scraped(stack, since=time.time())
        end = time.time()
        report.busy_series = int(await stack.prometheus.number(_SERIES))
        report.faults = await stack.prometheus.faults()
        report.exemplars = await _exemplars(stack, start, end)
        report.complaints = await _complaints(stack)
    return report


async def _look(stack: Stack, report: Report, start: float) -> None:
    """Ask for everything; what a busy machine has not come to yet is asked for again, while the load goes on."""
    ends = time.monotonic() + _LATE_S
    asked = list(dict.fromkeys((*by_panels(time.time() - start, SCRAPE_S), *by_variables(), *by_rules())))
    while asked:
        report.found |= {one: await stack.prometheus.over(one, start, time.time()) for one in asked}
        asked = [one for one in asked if not report.found[one].numbers]
        if time.monotonic() > ends:
            return
        await asyncio.sleep(SCRAPE_S)


async def _until_scraped(stack: Stack, since: float = 0.0) -> None:
    """Wait until Prometheus has read the server since then."""
    ends = time.monotonic() + _SCRAPED_S
    while not await stack.prometheus.number('timestamp(up{job="hartonomous"} == 1)') > since:
        assert time.monotonic() < ends, await stack.prometheus.faults()
        await asyncio.sleep(0.1)


async def _exemplars(stack: Stack, start: float, end: float) -> int:
    """Return how many exemplars there are that carry a trace's id."""
    times = {"start": f"{start:.3f}", "end": f"{end:.3f}"}
    query = "hartonomous_http_request_duration_seconds_bucket"
    series = await stack.prometheus.ask("query_exemplars", query=query, **times)
    return sum("trace_id" in exemplar["labels"] for each in series for exemplar in each["exemplars"])


async def _complaints(stack: Stack) -> str:
    """Return what promtool says of the server's metrics, which have all been there by now."""
    async with (
        aiohttp.ClientSession(headers=SCRAPER.headers) as session,
        session.get(f"{stack.url}/metrics", ssl=stack.tls) as response,
    ):
        text = await response.read()
    process = await asyncio.create_subprocess_exec(
        "promtool", "check", "metrics", stdin=PIPE, stdout=PIPE, stderr=STDOUT
    )
    said, _ = await process.communicate(text)
    return said.decode()
