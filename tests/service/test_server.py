"""`hartonomous serve` and `hartonomous check` as processes: start, signals, drain, exit codes."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.service import fault_backend as fault
from tests.service.application import eventually
from tests.service.fault_backend import FaultBackend

CHAT = "/v1/chat/completions"
STREAM = {"messages": [], "stream": True}


class Server:
    """A running `hartonomous serve`."""

    def __init__(self, process: Process, url: str, lines: list[dict[str, Any]]) -> None:
        self.process = process
        self.url = url
        self.lines = lines

    def told(self, message: str) -> bool:
        """Whether the log holds this message."""
        return any(line["message"] == message for line in self.lines)

    def stop(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    async def exit_code(self) -> int:
        """Wait for the end."""
        async with asyncio.timeout(30):
            return await self.process.wait()


Serve = Callable[..., Awaitable[Server]]


def _config(folder: Path, **sections: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(sections), encoding="utf-8")
    return path


def _backends(url: str, store: str = "http://127.0.0.1:9") -> dict[str, Any]:
    return {"embedding": {"urls": [url]}, "generative": {"urls": [url]}, "qdrant": {"url": store}}


async def _hartonomous(*arguments: str) -> tuple[int, str, str]:
    """Run a command to its end; return exit code, standard output and standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hartonomous", *arguments, stdout=PIPE, stderr=PIPE
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def _serving(config: Path) -> AsyncIterator[Server]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hartonomous", "serve", "--config", str(config), stderr=PIPE
    )
    lines: list[dict[str, Any]] = []
    assert process.stderr is not None
    reader = asyncio.create_task(_read(process.stderr, lines))
    try:
        await eventually(lambda: any(line["message"] == "listening" for line in lines) or reader.done(), "listening")
        address = next(line for line in lines if line["message"] == "listening")
        yield Server(process, f"http://127.0.0.1:{address['port']}", lines)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reader


async def _read(stream: asyncio.StreamReader, lines: list[dict[str, Any]]) -> None:
    while line := await stream.readline():
        lines.append(json.loads(line))  # each line of the log is JSON


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A session to call the server with."""
    async with aiohttp.ClientSession() as made:
        yield made


async def _status(session: aiohttp.ClientSession, url: str, **options: Any) -> int:
    async with session.get(url, **options) as response:
        return response.status


async def test_it_serves_and_an_idle_server_stops_at_once(
    tmp_path: Path, faulty: FaultBackend, vector_url: str, session: aiohttp.ClientSession
) -> None:
    config = _config(tmp_path, server={"port": 0, "drain_s": 300.0}, backends=_backends(faulty.url, vector_url))
    for number in (signal.SIGTERM, signal.SIGINT):
        async with _serving(config) as server:
            await _until(session, server.url + "/ready", '"status":"ready"')
            server.process.send_signal(number)
            assert await server.exit_code() == 0  # which it waits for 30 s at most
            assert server.told("stopped")


async def test_a_stop_lets_a_stream_finish_and_tells_everybody_meanwhile(
    tmp_path: Path, faulty: FaultBackend, session: aiohttp.ClientSession
) -> None:
    released = asyncio.Event()
    events = fault.sse(fault.TOKENS)

    async def slow(exchange: fault.Exchange) -> None:
        await exchange.head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        await exchange.chunk(events[0])
        await released.wait()
        await exchange.chunk(b"".join(events[1:]))
        await exchange.raw(b"0\r\n\r\n")

    faulty.on(CHAT, slow)
    config = _config(tmp_path, server={"port": 0, "drain_s": 20.0}, backends=_backends(faulty.url))
    async with _serving(config) as server, session.post(server.url + CHAT, json=STREAM) as streamed:
        assert await streamed.content.readexactly(len(events[0])) == events[0]
        server.stop()
        await eventually(lambda: server.told("draining"), "the drain")
        async with session.get(server.url + "/ready") as response:
            assert response.status == 503
            assert "the server is shutting down" in (await response.json())["reasons"]
        assert await _status(session, server.url + "/health") == 200
        async with session.post(server.url + CHAT, json=STREAM) as refused:
            assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
            assert (await refused.json())["error"]["code"] == "draining"
        assert len(faulty.calls(CHAT)) == 1
        server.stop()  # a second signal changes nothing
        released.set()
        assert await streamed.read() == b"".join(events[1:])
        assert await server.exit_code() == 0


async def test_a_stop_waits_for_a_whole_answer(
    tmp_path: Path, faulty: FaultBackend, session: aiohttp.ClientSession
) -> None:
    released = asyncio.Event()
    faulty.on(CHAT, fault.after(fault.reply(200, b'{"whole": true}'), released))
    config = _config(tmp_path, server={"port": 0}, backends=_backends(faulty.url))
    async with _serving(config) as server:
        asking = asyncio.create_task(_ask(session, server.url))
        await eventually(lambda: faulty.calls(CHAT), "the backend is asked")
        server.stop()
        await eventually(lambda: server.told("draining"), "the drain")
        released.set()
        assert await asking == (200, b'{"whole": true}')
        assert await server.exit_code() == 0


async def _ask(session: aiohttp.ClientSession, url: str) -> tuple[int, bytes]:
    async with session.post(url + CHAT, json={"messages": []}) as response:
        return response.status, await response.read()


async def test_after_the_drain_time_streams_get_an_error_and_answers_a_503(
    tmp_path: Path, faulty: FaultBackend, session: aiohttp.ClientSession
) -> None:
    first = b"data: {}\n\n"
    # One stream under way, one answer awaited, one call waiting for a connection.
    faulty.on(CHAT, fault.stream([first], "hang"), fault.hang())
    backends = _backends(faulty.url)
    backends["generative"]["concurrency"] = 2
    config = _config(tmp_path, server={"port": 0, "drain_s": 0.3}, backends=backends)
    async with _serving(config) as server, session.post(server.url + CHAT, json=STREAM) as streamed:
        assert await streamed.content.readexactly(len(first)) == first
        asking = [asyncio.create_task(_ask(session, server.url)) for _ in range(2)]
        await eventually(lambda: len(faulty.calls(CHAT)) == 2, "the backend is asked")
        await _until(session, server.url + "/metrics", "hartonomous_http_requests_in_flight 4.0")
        server.stop()
        rest = await streamed.read()
        assert b'"code":"draining"' in rest
        assert b"[DONE]" not in rest
        for status, body in await asyncio.gather(*asking):
            assert (status, json.loads(body)["error"]["code"]) == (503, "draining")
        assert await server.exit_code() == 0
        assert server.told("what is under way is cut off")
        assert not [line for line in server.lines if line["level"] == "ERROR"]


async def _until(session: aiohttp.ClientSession, url: str, text: str) -> None:
    """Ask again and again until the answer holds a text."""
    for _ in range(1_000):
        async with session.get(url) as response:
            if text in await response.text():
                return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{url} never answered {text}")


async def test_a_port_in_use_is_a_sentence_and_exit_code_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = _config(tmp_path, server={"port": port}, backends=_backends("http://127.0.0.1:9"))
        code, out, err = await _hartonomous("serve", "--config", str(config))
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == f"cannot listen on 127.0.0.1:{port}: address already in use"
    assert "Traceback" not in err


async def test_a_broken_configuration_is_a_sentence_and_exit_code_2(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("backends: {}\nserver:\n  prot: 1\n", encoding="utf-8")
    for arguments in (("serve", "--config", str(path)), ("check", str(path))):
        code, out, err = await _hartonomous(*arguments)
        assert (code, out) == (2, "")
        assert f"{path}:3: server.prot: unknown key" in err.splitlines()
        assert "Traceback" not in err


async def test_check_says_what_is_wrong_and_what_is_right(tmp_path: Path) -> None:
    right = _config(tmp_path, backends=_backends("http://127.0.0.1:9"))
    assert await _hartonomous("check", str(right)) == (0, f"{right}: ok\n", "")
    absent = tmp_path / "absent.yaml"
    assert await _hartonomous("check", str(absent)) == (2, "", f"{absent}: cannot be read: No such file or directory\n")
    _config(tmp_path, backends=_backends("http://127.0.0.1:9"), rag={"retrieval": {"language": "klingon"}})
    code, _, err = await _hartonomous("check", str(right))
    assert code == 2
    assert "unknown language 'klingon'" in err


async def test_an_unknown_language_fails_the_start_with_a_sentence(tmp_path: Path) -> None:
    config = _config(
        tmp_path,
        backends=_backends("http://127.0.0.1:9"),
        rag={"retrieval": {"language": "klingon"}},
        server={"port": 0},
    )
    code, _, err = await _hartonomous("serve", "--config", str(config))
    assert code == 2
    assert "unknown language 'klingon'" in err
    assert "Traceback" not in err


HEAVY = (
    "qdrant_client",
    "grpc",
    "numpy",
    "httpx",
    "qdrant_edge",
    "xllamacpp",
    "openai",
    "pytest",
    "redis",
    "semantic_text_splitter",
)


async def test_heavy_packages_are_not_on_the_way_to_the_first_answer() -> None:
    """qdrant-client alone is 0.6 s and 54 MB: it is imported when a collection is made."""
    program = f"import sys, hartonomous.server; print([name for name in {HEAVY!r} if name in sys.modules])"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=PIPE)
    out, _ = await process.communicate()
    assert out.decode().strip() == "[]"
