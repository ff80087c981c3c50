"""`python -m tests.faults` as a process: what it does, how it ends, what it says of bad arguments."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.faults.__main__ import main
from tests.faults.kinds import KINDS, NONE, latency, parse, reset, sliced
from tests.faults.lies import LIES
from tests.service.fault_backend import FaultBackend

ROOT = Path(__file__).parents[2]
LISTEN = ("--listen", "127.0.0.1:0")
LIMIT_S = 60.0


@asynccontextmanager
async def command(*arguments: str) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """Start the command; its URL and its process. It is ended at the end, if it has not ended."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.faults", *LISTEN, *arguments, cwd=ROOT, stdout=pipe, stderr=pipe
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(LIMIT_S):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("Listening on 127.0.0.1:"), line
        yield f"http://{line.split()[2].removesuffix(';')}", process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _health(url: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(url + "/health") as answer:
        await answer.read()
        return answer.status


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_proxy_passes_on_and_ends_cleanly(faulty: FaultBackend, number: signal.Signals) -> None:
    async with command("--upstream", faulty.url, "--fault", "latency:0.01,0.01", "--fault", "slice:100") as (
        url,
        process,
    ):
        assert await _health(url) == 200
        idle = aiohttp.ClientSession()
        async with idle, idle.get(url + "/health") as answer:
            assert answer.status == 200
            process.send_signal(number)
            async with asyncio.timeout(LIMIT_S):
                out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert out.startswith(b"2 connections, ")


async def test_a_fault_of_the_command_line_is_there(faulty: FaultBackend) -> None:
    async with command("--upstream", faulty.url.removeprefix("http://"), "--fault", "reset:0") as (url, _):
        with pytest.raises(aiohttp.ClientError):
            await _health(url)
    assert faulty.calls("/health")


async def test_a_lying_backend_may_have_faults_as_well() -> None:
    async with command("--backend", "embedding", "--lie", "loading", "--fault", "slice:7") as (url, _):
        assert await _health(url) == 503


def test_the_list_has_every_name_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {words[0].partition(":")[0] for words in lines if len(words) > 2} >= set(KINDS) | set(LIES)


UPSTREAM = (*LISTEN, "--upstream", "127.0.0.1:1")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        LISTEN,
        ("--upstream", "127.0.0.1:1"),
        ("--listen", "nowhere", "--upstream", "127.0.0.1:1"),
        ("--listen", "127.0.0.1:99999", "--upstream", "127.0.0.1:1"),
        (*LISTEN, "--upstream", "127.0.0.1"),
        (*UPSTREAM, "--unknown"),
        (*UPSTREAM, "--fault"),
        (*UPSTREAM, "--fault", "nothing"),
        (*UPSTREAM, "--fault", "hang-up"),
        (*UPSTREAM, "--fault", "hang:1"),
        (*UPSTREAM, "--fault", "latency"),
        (*UPSTREAM, "--fault", "latency:1,2,3"),
        (*UPSTREAM, "--fault", "latency:soon"),
        (*UPSTREAM, "--fault", "latency:-1"),
        (*UPSTREAM, "--fault", "latency:nan"),
        (*UPSTREAM, "--fault", "bandwidth:0"),
        (*UPSTREAM, "--fault", "slice:0"),
        (*UPSTREAM, "--fault", "reset:1.5"),
        (*UPSTREAM, "--fault", "refuse", "--fault", "latency:1"),
        (*UPSTREAM, "--fault", "reset:1", "--fault", "close:2"),
        (*UPSTREAM, "--lie", "nan"),
        (*LISTEN, "--backend", "nothing"),
        (*LISTEN, "--backend", "reranking", "--lie", "null"),
        (*LISTEN, "--backend", "qdrant", "--lie", "write-lost"),
    ],
)
def test_bad_arguments_are_one_sentence_and_exit_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (2, "", 1)
    assert not err[0].islower()
    assert err.endswith(".\n")


def test_a_port_that_is_taken_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["--listen", address, "--upstream", "127.0.0.1:1"]) == 1
    assert capsys.readouterr().err == f"{address} cannot be listened on: Address already in use.\n"


def test_a_fault_is_read_with_its_direction_and_values() -> None:
    assert parse("none") == NONE
    assert parse("latency:0.5,0.1") == latency(0.5, 0.1)
    assert parse("latency-up:2") == latency(2, way="up")
    assert parse("slice-down:10,0.5") == sliced(10, 0.5, "down")
    assert parse("reset:0") == reset(0)
    assert parse("reset-up:9") == reset(9, "up")
