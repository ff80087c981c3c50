"""`hartonomous query`: before the real application, and before one that breaks."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hartonomous.__main__ import main
from hartonomous.sending import client
from tests.forked import PIPE, Forked, hartonomous
from tests.service.application import RunningApp, eventually
from tests.service.commands import Ended
from tests.service.fault_backend import FaultBackend, close, json_reply, stream
from tests.service.keyed import keyed
from tests.service.rag import CHAT, Rig, RigMaker, ingest, says

QUESTION = "What does a lime weigh?"
PATH = "/rag/query"
LIME = {
    "id": "lime",
    "text": "# Weights\n\nA lime weighs 67 grams.\nIt is green.",
    "title": "On limes",
    "format": "markdown",
    "metadata": {"team": "fruit"},
}


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARTONOMOUS_API_KEY", raising=False)


@pytest.fixture
async def fruit(rig: Rig) -> Rig:
    """A rig with two documents."""
    await ingest(rig.app, LIME, {"id": "lemon", "text": "A lemon weighs 120 grams.", "metadata": {"team": "other"}})
    return rig


@pytest.fixture
async def broken() -> AsyncIterator[FaultBackend]:
    """A server in the API's place."""
    async with FaultBackend() as server:
        yield server


async def start(url: str, *arguments: str) -> Forked:
    return await hartonomous("query", "--url", url, *arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE)


async def query(url: str, *arguments: str, stdin: bytes = b"") -> Ended:
    process = await start(url, *arguments)
    out, err = await process.communicate(stdin)
    assert process.returncode is not None
    assert b"Traceback" not in err
    return Ended(process.returncode, out.decode(), err.decode())


def event(name: str, **value: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(value)}\n\n".encode()


async def test_an_answer_is_followed_by_the_sources_that_it_uses(fruit: Rig) -> None:
    fruit.generative.on(CHAT, says("A lime weighs 67 grams [1]."))
    done = await query(fruit.app.url, "--mode", "sparse", QUESTION)
    assert (done.status, done.err) == (0, "")
    answer, empty, source, excerpt = done.out.splitlines()
    assert (answer, empty) == ("A lime weighs 67 grams [1].", "")
    assert source.startswith("[1] lime (On limes), Weights  ")
    assert 0 < float(source.rpartition(" ")[2]) <= 1
    assert excerpt == "    A lime weighs 67 grams."
    assert "\x1b" not in done.out


async def test_text_is_printed_as_it_comes(fruit: Rig) -> None:
    held = asyncio.Event()

    async def behave(exchange: Any) -> None:
        await exchange.head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        await exchange.chunk(b'data: {"choices": [{"index": 0, "delta": {"content": "A lime weighs "}}]}\n\n')
        await held.wait()
        await exchange.chunk(b'data: {"choices": [{"index": 0, "delta": {"content": "67 grams [1]."}}]}\n\n')
        await exchange.chunk(b"data: [DONE]\n\n")
        await exchange.chunk(b"")

    fruit.generative.on(CHAT, behave)
    process = await start(fruit.app.url, QUESTION)
    assert process.stdout is not None
    begun = await asyncio.wait_for(process.stdout.readuntil(b"lime weighs"), 30)
    assert begun == b"A lime weighs"
    held.set()
    out, _ = await process.communicate()
    assert out.decode().splitlines()[0].endswith("67 grams [1].")
    assert process.returncode == 0


async def test_arguments_go_with_the_question(fruit: Rig, collection_name: str) -> None:
    fruit.generative.on(CHAT, says("120 grams."))
    other = {"must": [{"key": "metadata.team", "match": {"value": "other"}}]}
    asked = ("--collection", collection_name, "--top-k", "1", "--filter", json.dumps(other))
    done = await query(fruit.app.url, "--json", *asked, "--max-tokens", "17", "How", "much?")
    assert done.status == 0, done.err
    answer = json.loads(done.out)
    assert done.out.count("\n") == 1
    assert [source["document_id"] for source in answer["sources"]] == ["lemon"]
    (call,) = fruit.generative.calls(CHAT)
    assert call.json["max_tokens"] == 17
    assert "How much?" in call.json["messages"][-1]["content"]


async def test_a_question_may_come_from_standard_input(fruit: Rig) -> None:
    fruit.generative.on(CHAT, says("67 grams [1]."))
    done = await query(fruit.app.url, "-", stdin=f"{QUESTION}\n".encode())
    assert done.status == 0
    assert done.out.startswith("67 grams")


@pytest.mark.parametrize(
    ("arguments", "stdin", "sentence"),
    [
        (("-",), b" \n", "the question is empty"),
        (("-",), b"\xff?", "no UTF-8"),
        ((" ",), b"", "the question is empty"),
        (("--filter", "[1]", QUESTION), b"", "'[1]' is no JSON object"),
        (("--mode", "magic", QUESTION), b"", "invalid choice: 'magic'"),
        (("--key-file", "/nowhere/key", QUESTION), b"", "/nowhere/key cannot be read: No such file"),
        (("--collection", "\udcff", QUESTION), b"", "'\\udcff' is no UTF-8"),
        (("--filter", '{"must": "\udcff"}', QUESTION), b"", "is no JSON object"),
        (("--url", "http://127.0.0.1:99999", QUESTION), b"", "'http://127.0.0.1:99999' is no address"),
        (("--url", "http://127.0.0.1:0", QUESTION), b"", "'http://127.0.0.1:0' is no address"),
        (("--url", "http://[::1", QUESTION), b"", "'http://[::1' is no address"),
        (("--url", "http://:8700", QUESTION), b"", "'http://:8700' is no address"),
        (("--url", "http://\udcff", QUESTION), b"", "'http://\\udcff' is no UTF-8"),
    ],
)
async def test_wrong_usage_is_told_and_nothing_is_asked(
    broken: FaultBackend, arguments: tuple[str, ...], stdin: bytes, sentence: str
) -> None:
    done = await query(broken.url, *arguments, stdin=stdin)
    assert (done.status, done.out) == (2, "")
    assert sentence in done.err
    assert not broken.calls(PATH)


async def test_what_the_answer_was_made_without_is_told(fruit: Rig) -> None:
    fruit.generative.on(CHAT, says("A lime weighs 67 grams [1]."))
    fruit.embedding.on("/v1/embeddings", json_reply({}, 500))
    done = await query(fruit.app.url, QUESTION)
    assert done.status == 0
    assert "Made without: " in done.err
    assert "Made without: " not in done.out


async def test_an_error_of_the_api_is_told_in_its_own_words(fruit: Rig) -> None:
    done = await query(fruit.app.url, "--collection", "nothing-of-that-name", QUESTION)
    assert (done.status, done.out) == (1, "")
    assert done.err == "There is no such collection.\n"


async def test_a_key_is_sent_and_asked_for(rigs: RigMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with keyed(rigs) as it:
        key = it.keys.a
        await ingest(it.a, LIME, collection=key.collection)
        it.rig.generative.on(CHAT, says("67 grams [1]."))
        asked = ("--collection", key.collection, QUESTION)
        refused = await query(it.a.url, *asked)
        assert (refused.status, refused.out) == (1, "")
        assert "key" in refused.err
        (tmp_path / "key").write_text(key.text + "\n")
        by_file = await query(it.a.url, "--key-file", str(tmp_path / "key"), *asked)
        monkeypatch.setenv("HARTONOMOUS_API_KEY", key.text)
        by_environment = await query(it.a.url, *asked)
    for done in (by_file, by_environment):
        assert (done.status, done.err) == (0, "")
        assert done.out.startswith("67 grams [1].")


async def test_an_error_in_the_middle_ends_the_text_and_is_told(fruit: Rig) -> None:
    fruit.generative.on(CHAT, stream([b'data: {"choices": [{"delta": {"content": "A lime is a "}}]}\n\n'], "reset"))
    done = await query(fruit.app.url, QUESTION)
    assert done.status == 1
    assert done.out == "A lime is a\n"
    assert "generative" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("end", ["complete", "clean", "reset"])
async def test_a_stream_that_breaks_off_is_no_answer(broken: FaultBackend, end: Any) -> None:
    broken.on(PATH, stream([event("sources", sources=[]), event("delta", text="Half a ")], end))
    done = await query(broken.url, QUESTION)
    assert (done.status, done.out) == (1, "Half a \n")
    assert "broke" in done.err


@pytest.mark.parametrize("arguments", [(), ("--json",)])
async def test_a_server_that_is_away_is_named(broken: FaultBackend, arguments: tuple[str, ...]) -> None:
    broken.on(PATH, close())
    done = await query(broken.url, *arguments, QUESTION)
    assert (done.status, done.out) == (1, "")
    assert broken.url in done.err
    gone = await query("http://127.0.0.1:9", *arguments, QUESTION)
    assert gone.status == 1
    assert "http://127.0.0.1:9 cannot be reached" in gone.err


async def test_a_server_that_falls_silent_is_given_up(
    broken: FaultBackend, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(client, "_SILENCE_S", 0.2)
    broken.on(PATH, stream([event("delta", text="Half")], "hang"))
    assert await asyncio.to_thread(main, ["query", "--url", broken.url, QUESTION]) == 1
    printed = capsys.readouterr()
    assert printed.out == "Half\n"
    assert printed.err == f"{broken.url} does not answer.\n"


async def test_a_terminal_that_stands_still_is_not_the_servers_silence(
    broken: FaultBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_SILENCE_S", 0.2)
    told: list[str] = []

    def tell(name: str, value: Any) -> None:
        time.sleep(0.3)
        told.append(name)

    broken.on(PATH, stream([event("delta", text="a"), event("delta", text="b"), event("done")]))
    async with client.connected(client.Target(broken.url), None, 10.0) as api:
        await api.answer_streaming({"query": QUESTION}, tell)
    assert told == ["delta", "delta", "done"]


async def test_nothing_that_steers_a_terminal_gets_through(broken: FaultBackend) -> None:
    nasty = "\x1b]0;owned\x07 \x9b31m \u202eevil\r\tand\u061c\nmore"
    citation = {"marker": 1, "document_id": nasty, "headings": [nasty], "score": 0.5, "text": nasty, "page": 2}
    answer = {"answer": nasty, "citations": [citation], "degraded": [nasty], "omitted": 2, "finish_reason": "length"}
    broken.on(PATH, stream([event("delta", text=nasty), event("done", **answer)]), json_reply(answer))
    shown = await query(broken.url, QUESTION)
    line = await query(broken.url, "--json", QUESTION)
    for text in (shown.out, shown.err, line.out):
        assert not [char for char in text if char < " " and char not in "\n\t"]
        assert not {"\x9b", "\u202e", "\u061c"}.intersection(text)
    assert shown.out.startswith("\\x1b]0;owned\\x07 \\x9b31m \\u202eevil\\r\tand\\u061c\nmore\n\n[1] ")
    assert "2 more found did not fit" in shown.err
    assert "cut off" in shown.err
    assert json.loads(line.out) == answer


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (event("error", error="boom"), "The server broke off and gave no reason.\n"),
        (event("error"), "The server broke off and gave no reason.\n"),
        (event("done", citations=["x"], degraded=5, finish_reason=[]), ""),
        (event("done", citations=3, degraded="dense"), ""),
        (event("done", citations=[{"headings": 5, "score": "much", "text": None}]), ""),
    ],
)
async def test_an_answer_of_another_shape_is_no_traceback(broken: FaultBackend, answer: bytes, sentence: str) -> None:
    broken.on(PATH, stream([answer]))
    done = await query(broken.url, QUESTION)
    assert (done.status, done.err) == (int(bool(sentence)), sentence)


@pytest.mark.parametrize("arguments", [(), ("--json",)])
async def test_a_full_disk_under_standard_output_is_told(broken: FaultBackend, arguments: tuple[str, ...]) -> None:
    broken.on(PATH, json_reply({"answer": "a"}) if arguments else stream([event("delta", text="a"), event("done")]))
    full = os.open("/dev/full", os.O_WRONLY)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hartonomous", "query", "--url", broken.url, *arguments, QUESTION),
        stdout=full,
        stderr=PIPE,
    )
    os.close(full)
    _, err = await process.communicate()
    assert (process.returncode, err) == (1, b"Standard output cannot be written: no space left on device.\n")


async def test_ctrl_c_ends_the_stream_at_the_server(broken: FaultBackend) -> None:
    broken.on(PATH, stream([event("delta", text="Begun")], "hang"))
    process = await start(broken.url, QUESTION)
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readuntil(b"Begun"), 30)
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (process.returncode, out, err) == (130, b"\n", b"")
    (call,) = broken.calls(PATH)
    await asyncio.wait_for(call.closed.wait(), 10)


async def test_whoever_stops_reading_ends_it_in_silence(broken: FaultBackend) -> None:
    broken.on(PATH, stream([event("delta", text="word ")] * 20_000, "hang"))
    read, write = os.pipe()
    os.close(read)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hartonomous", "query", "--url", broken.url, QUESTION), stdout=write, stderr=PIPE
    )
    os.close(write)
    with suppress(TimeoutError):
        _, err = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, err) == (1, b"")


async def test_the_connection_of_a_whole_answer_is_closed_as_well(fruit: Rig) -> None:
    app: RunningApp = fruit.app
    fruit.generative.on(CHAT, stream([], "hang"))
    process = await start(app.url, "--json", QUESTION)
    await eventually(lambda: fruit.generative.calls(CHAT), "a call")
    process.send_signal(signal.SIGINT)
    await process.communicate()
    assert process.returncode == 130
    (call,) = fruit.generative.calls(CHAT)
    await asyncio.wait_for(call.closed.wait(), 10)
