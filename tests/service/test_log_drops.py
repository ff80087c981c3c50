"""Row 40: a log on a full disk stops nobody; what it lost is counted, and told once there is room again."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from hartonomous import log
from tests.service.application import ConfigMaker, eventually, running
from tests.service.fault_backend import FaultBackend
from tests.service.serving import backends, serving

DROPPED = "hartonomous_log_dropped_total"


@pytest.fixture
def _full() -> Iterator[None]:
    """A log on a device that is always full."""
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        log.configure("INFO", full)
        yield
        log.logger.remove()


@pytest.mark.usefixtures("_full")
async def test_row_40_serving_goes_on_with_a_log_on_a_full_device(make_config: ConfigMaker) -> None:
    async with running(make_config()) as app:
        before = await app.metric(DROPPED)
        for _ in range(3):
            assert (await app.get("/health"))[0] == 200
        assert (await app.get("/nowhere"))[0] == 404
        assert await app.metric(DROPPED) >= before + 4


async def test_row_40_what_a_full_disk_lost_is_counted_and_told_when_there_is_room(
    tmp_path: Path, faulty: FaultBackend
) -> None:
    """The size that a file of the process may have stands for the disk: it is full in the middle of a line."""
    async with (
        serving(tmp_path, backends=backends(faulty.url), health={"interval_s": 600.0}) as served,
        aiohttp.ClientSession(served.url) as session,
    ):

        async def dropped() -> int:
            async with session.get("/metrics") as response:
                text = await response.text()
            return int(float(text.partition(f"\n{DROPPED} ")[2].split("\n")[0]))

        async def serve(times: int) -> None:
            for _ in range(times):
                async with session.get("/health") as response:
                    assert response.status == 200

        await eventually(lambda: served.told("backend health changed") == 3, "nobody else has anything to tell")
        assert await dropped() == 0
        served.limit(resource.RLIMIT_FSIZE, served.log.stat().st_size + 40)
        await serve(20)
        lost = await dropped()
        assert 20 <= lost <= 21  # the look at the metrics may be among them
        served.limit(resource.RLIMIT_FSIZE, resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE)[1])
        await serve(2)
        final = await dropped()
        assert lost <= final <= lost + 1
        served.stop()
        assert await served.exit_code() == 0
    whole, torn = [], []
    for line in served.log.read_text(encoding="utf-8").splitlines():
        try:
            whole.append(json.loads(line))
        except json.JSONDecodeError:
            torn.append(line)
    assert [len(line) for line in torn] == [40]
    assert [line["lines"] for line in whole if line["message"] == "log lines were lost"] == [final]
    told = next(index for index, line in enumerate(whole) if line["message"] == "log lines were lost")
    assert whole[told]["level"] == "WARNING"
    assert [line["message"] for line in whole[told + 1 : told + 3]] == ["request", "request"]
