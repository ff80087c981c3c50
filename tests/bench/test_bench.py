"""The harness itself: what it reads, what it says, and that the bare programs do what the application does.

That it measures well is not tested here: `make bench` wants a machine of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import orjson
import pytest

from hartonomous.configfile import load
from tests.bench import wrk
from tests.bench.instructions import total_of
from tests.bench.machine import Cores, placed
from tests.bench.processes import Maker, Program
from tests.bench.rankings import varied
from tests.bench.rig import CHAT_PATH, HEADERS, QUERY_PATH, YAML, Rig, chat_body, plain_backend, recorded_before
from tests.bench.run import ROWS
from tests.bench.table import TARGETS, Row, lines
from tests.bench.texts import documents, facts, question
from tests.service.vector_store import Engine

_FLOORS = Path(__file__).with_name("floors")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """What the bare programs and the application stand before; without nginx."""
    maker = Maker(tmp_path_factory.mktemp("bench"), Cores.here())
    with Engine(maker.folder / "vectors") as engine, plain_backend(maker) as models:
        recorded = recorded_before(maker, models.url, engine.url)
        with plain_backend(maker, str(maker.folder / "found.json")) as backend:
            yield Rig(maker, recorded, backend.url, "", "", "", backend, engine.url)


@pytest.fixture(scope="module")
def application(rig: Rig) -> Iterator[Program]:
    """The application as it is measured."""
    with rig.application() as program:
        yield program


def test_each_row_of_the_table_is_measured() -> None:
    assert list(ROWS) == list(TARGETS)


def test_what_callgrind_counted_is_read() -> None:
    assert total_of("events: Ir\nfn=(1) main\n12 34\nsummary: 900\n\ntotals: 901\n") == 901
    with pytest.raises(RuntimeError, match="callgrind"):
        total_of("events: Ir\n")


def test_what_is_started_on_a_core_stays_there_and_this_process_where_it_was() -> None:
    before = os.sched_getaffinity(0)
    core = frozenset({max(before)})

    with pytest.raises(subprocess.CalledProcessError) as failed, placed(core):
        subprocess.run(
            ["sh", "-c", "grep Cpus_allowed_list /proc/self/status; exit 1"], check=True, capture_output=True, text=True
        )

    assert failed.value.stdout.split()[1] == str(max(before))
    assert os.sched_getaffinity(0) == before


def test_what_wrk_printed_is_read() -> None:
    printed = """Running 1s test @ http://127.0.0.1:1/
  1 threads and 1 connections
{"seconds": 2.0, "requests": 3000, "p50_us": 1500.0, "p99_us": 9000.0, "mean_us": 2e3, "bad": 1, "broken": 2}
"""
    seen = wrk.parse(printed)
    assert (seen.per_second, seen.p50_ms, seen.p99_ms, seen.mean_ms) == (1_500, 1.5, 9, 2)
    assert (seen.bad, seen.broken) == (1, 2)


def test_wrk_that_printed_nothing_is_told() -> None:
    with pytest.raises(RuntimeError, match="unable to connect"):
        wrk.parse("unable to connect to 127.0.0.1:1 Connection refused")


@pytest.mark.parametrize(
    ("key", "value", "holds", "reaches"),
    [
        ("gateway", 0.74, False, False),
        ("gateway", 0.75, True, False),
        ("gateway", 1.0, True, True),
        ("added", 1.1, False, False),
        ("added", 1.0, True, False),
        ("added", 0.5, True, True),
    ],
)
def test_a_row_is_held_against_its_targets(key: str, value: float, *, holds: bool, reaches: bool) -> None:
    row = Row(TARGETS[key], value)
    assert (row.holds, row.reaches) == (holds, reaches)


def test_a_row_that_fails_holds_nothing_however_good_its_value_is() -> None:
    row = Row(TARGETS["rss"], 1.0, fails="it is not flat")
    assert not row.holds
    assert not row.reaches
    assert "  FAILS: it is not flat" in lines([row])


def test_the_table_says_what_was_measured_and_what_holds() -> None:
    table = lines([Row(TARGETS["batch"], 4.2, ["64 one by one 3 s"])])
    assert table[0].split() == ["measured", "must", "holds", "aim", "holds"]
    assert table[2].split()[-6:] == ["4.2", "times", "3", "yes", "6", "NO"]
    assert table[-1] == "  64 one by one 3 s"


def test_the_bare_programs_stay_short() -> None:
    assert all(len(path.read_text(encoding="utf-8").splitlines()) < 80 for path in _FLOORS.glob("*.py"))


def test_everything_is_switched_on_where_the_application_is_measured(rig: Rig, application: Program) -> None:
    status, _ = _ask(application, CHAT_PATH, chat_body(), {})
    assert status == 401
    _ask(application, CHAT_PATH, chat_body())
    log = (rig.folder / "application.log").read_text(encoding="utf-8")
    assert CHAT_PATH in log
    assert any((rig.folder / "application" / "audit").rglob("*"))
    limits = load(YAML, rig.environment(8700, {})).limits
    assert limits.address.is_set
    assert limits.key.is_set


def test_a_chat_comes_back_as_the_bare_program_gives_it(rig: Rig, application: Program) -> None:
    with rig.gateway_floor() as floor:
        for body in (chat_body(), chat_body(stream=True)):
            assert _ask(application, CHAT_PATH, body) == _ask(floor, CHAT_PATH, body)


def test_a_question_is_answered_as_the_bare_program_answers_it(rig: Rig, application: Program) -> None:
    body = orjson.dumps({"query": question(4_711)})
    with rig.rag_floor() as floor:
        theirs = orjson.loads(_ask(floor, QUERY_PATH, body)[1])
    ours = orjson.loads(_ask(application, QUERY_PATH, body)[1])
    assert ours["answer"] == theirs["answer"]
    assert len(ours["sources"]) == len(theirs["sources"]) == 5
    assert {source["text"] for source in ours["sources"]} | set(theirs["sources"]) <= set(documents())
    assert [row["markers"] for row in ours["grounding"]] == [[1], [2], [3]]
    assert all(row["support"] > 0.9 for row in ours["grounding"])


def test_other_rankings_have_other_chunks_that_begin_alike(rig: Rig) -> None:
    told = rig.recorded.static["batch.json"]
    one, other = (orjson.loads(varied(told, number))["result"] for number in (1, 2))
    texts = [[_texts(ranking) for ranking in some] for some in (orjson.loads(told)["result"], one, other)]
    assert all(set(dense) == set(sparse) for dense, sparse in texts)
    assert len({text for some in texts for text in some[0]}) == 3 * len(documents())
    assert [facts(text) for text in texts[1][0]] == [facts(text) for text in texts[0][0]]


def test_rows_that_are_shown_alone_stand_below_theirs_and_judge_nothing() -> None:
    target = TARGETS["overload"]
    row = Row(target, 1.0, beside=[Row(replace(target, title="  shown alone"), 0.0)])
    assert row.holds
    assert lines([row])[3].split() == ["shown", "alone", "0", "0.9", "NO", "1", "NO"]


@pytest.mark.parametrize("together", ["4", "0"])
def test_tokens_of_paced_streams_say_when_they_were_sent(rig: Rig, together: str) -> None:
    command = rig.maker.python("tests.bench.pacer", "{port}", together, "5", "0.005")
    request = rig.folder / "stream.request"
    body = chat_body(stream=True)
    request.write_bytes(f"POST {CHAT_PATH} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    with rig.maker.beside(*command, name="pacer", ready="/health") as pacer:
        told = _printed(rig, "tests.bench.reader", str(pacer.port), "4", "2", str(request), "0.001")
    assert told["tokens"] == 4 * 5 * 2
    assert 0 < told["steps"][0] <= told["steps"][-1] < 10_000


def test_a_flood_tells_what_was_good_and_what_was_refused(rig: Rig) -> None:
    request = rig.folder / "flood.request"
    request.write_bytes(b"GET /health HTTP/1.1\r\nX-Number: %08d\r\n\r\n")
    told = _printed(rig, "tests.bench.flood", str(rig.embedding.port), str(request), "100", "0.5", "10")
    assert 40 <= told["sent"] <= 50
    assert told["good_per_s"] > 0
    assert told["ok"] + told.get("late", 0) <= told["sent"]


def _ask(program: Program, path: str, body: bytes, headers: Any = HEADERS) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", program.port, timeout=60)
    connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
    response = connection.getresponse()
    answered = response.read()
    connection.close()
    return response.status, answered


def _texts(ranking: Any) -> list[str]:
    return [point["payload"]["text"] for point in ranking["points"]]


def _printed(rig: Rig, module: str, *arguments: str) -> Any:
    done = subprocess.run(rig.maker.python(module, *arguments), capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)
