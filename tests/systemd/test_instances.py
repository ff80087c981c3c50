"""On a systemd of its own: several processes at one address, each with its metrics, started and stopped together."""

from __future__ import annotations

import asyncio
import urllib.error

import pytest

from tests.systemd.host import API, Host
from tests.systemd.load import Load
from tests.systemd.machine import until

PORTS = ("8701", "8702")
UNITS = tuple(f"hartonomous@{port}.service" for port in PORTS)
EMBED = {"input": ["A lime weighs 67 grams."], "model": "embedding"}


@pytest.fixture
def many(host: Host) -> Host:
    """The machine with the API as two processes."""
    host.configure(more=((r"processes: 1", "processes: 2"),))
    host.machine.systemctl("enable", *UNITS)
    host.start("hartonomous.target")
    return host


def asked(host: Host, port: str) -> float:
    """Return how often an instance was asked for its models."""
    status, metrics = host.get("/metrics", key="operator", base=f"http://127.0.0.1:{port}")
    assert status == 200, metrics
    lines = [line for line in metrics.splitlines() if line.startswith("hartonomous_http_requests_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if '"/v1/models"' in line)


def is_refused(host: Host) -> bool:
    """Whether nobody listens any more."""
    try:
        host.get("/health")
    except urllib.error.URLError as error:
        return isinstance(error.reason, ConnectionRefusedError)
    except OSError:
        pass
    return False


def test_all_of_them_answer_at_one_address(many: Host) -> None:
    for _ in range(60):
        assert many.get("/v1/models", key="tenant")[0] == 200
    counts = [asked(many, port) for port in PORTS]
    assert min(counts) > 0
    assert sum(counts) == 60


def test_enabling_one_enables_its_socket_and_the_target(many: Host) -> None:
    for unit in ("hartonomous@8701.socket", "hartonomous@8702.socket", "hartonomous.target"):
        assert many.machine.systemctl("is-enabled", unit) == "enabled"


def test_a_reload_of_one_is_a_reload_of_all(many: Host) -> None:
    pids = [many.machine.main_pid(unit) for unit in UNITS]
    assert many.get("/v1/models", key="other")[0] == 200
    many.configure("tenant", "operator", more=((r"processes: 1", "processes: 2"),))
    many.machine.systemctl("reload", UNITS[0])
    until(lambda: {many.get("/v1/models", key="other")[0] for _ in range(20)} == {401})
    assert [many.machine.main_pid(unit) for unit in UNITS] == pids


@pytest.mark.parametrize("unit", [UNITS[0], "hartonomous.target"])
async def test_a_restart_under_load_refuses_no_connection_and_fails_no_call(many: Host, unit: str) -> None:
    pid = many.machine.main_pid(UNITS[0])
    async with Load(f"{API}/v1/embeddings", EMBED, many.headers("tenant")) as load:
        await asyncio.to_thread(many.machine.systemctl, "restart", unit)
        await load.answered(40)
    assert set(load.seen) == {"200"}, load.seen
    assert many.machine.main_pid(UNITS[0]) != pid


def test_the_target_stops_all_of_them(many: Host) -> None:
    assert all(many.machine.processes(unit) for unit in UNITS)
    many.machine.systemctl("stop", "hartonomous.target")
    until(lambda: not any(many.machine.processes(unit) for unit in UNITS))
    until(lambda: is_refused(many))


def test_one_process_and_several_exclude_each_other(many: Host) -> None:
    many.machine.systemctl("start", "hartonomous.service")
    assert [many.machine.show(unit, "ActiveState") for unit in UNITS] == ["inactive", "inactive"]
