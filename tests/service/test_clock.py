"""Row 41: the wall clock jumps by an hour, ahead or back, and no timer moves."""

from __future__ import annotations

import ast
import asyncio
import datetime
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hartonomous
from hartonomous.clients.points import _Sequences, sequence_at
from hartonomous.core import walltime
from hartonomous.core.walltime import WallTime
from tests.service.application import eventually
from tests.service.commands import Points
from tests.service.fault_backend import DEFAULT, after
from tests.service.rag import CHAT, EMBEDDINGS, RigMaker, ask, ingest, passed_on, sample, says

HOUR_S = 3_600.0
JUMPS = (HOUR_S, -HOUR_S)
ROOT = Path(hartonomous.__file__).parent

# Who may ask the wall clock, and for what: never for how long something took or may take.
ASK_THE_WALL_CLOCK = {
    "cli/keys.py": "whether the day on which a new key expires has passed",
    "audit.py": "shown in the trail",
    "clients/status.py": "a Retry-After that is a date",
    "core/walltime.py": "what is compared over processes",
    "engine/journal.py": "the stamps of files",
    "evaluation/runs.py": "shown in the report",
    "keyring.py": "when a key expires is a date",
    "handlers/logs.py": "shown to the caller",
    "handlers/openai.py": "shown to the caller",
    "handlers/ragmodel.py": "shown to the caller",
    "handlers/whole.py": "the Date of an answer",
    "middleware/access.py": "shown in the log",
    "pipelines/documents.py": "shown to the caller",
    "reload.py": "shown in the metrics",
    "sending/faults.py": "a Retry-After that is a date",
    "shedding.py": "shown in the log",
    "tally.py": "shown in the metrics",
    "tls.py": "the validity of certificates",
    "trial/rerank.py": "shown to the caller",
}
_CLOCKS = {
    "time": {"time", "time_ns", "gmtime", "localtime"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}


class Clock:
    """The wall clock of this process, which can be set."""

    def __init__(self) -> None:
        self.jump_s = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """The wall clock, whoever asks it."""
    made, seconds, nanoseconds = Clock(), time.time, time.time_ns

    class Moved(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return datetime.datetime.fromtimestamp(time.time(), tz)

    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: seconds() + made.jump_s)
        patch.setattr(time, "time_ns", lambda: nanoseconds() + int(made.jump_s * 1e9))
        patch.setattr(datetime, "datetime", Moved)
        yield made


@pytest.mark.parametrize("jump_s", JUMPS)
async def test_row_41_no_timer_moves_when_the_wall_clock_jumps(
    rigs: RigMaker, clock: Clock, jump_s: float, vector_url: str, collection_name: str
) -> None:
    """A kept answer stays, health is as young as it was, an ingest under way is neither swept nor out of time."""
    kept = {"rag": {"cache": {"answers": {"enabled": True}}}, "health": {"interval_s": 1.0}}
    question = {"query": "What does a lime weigh?", "rerank": False}
    async with rigs.make(**kept) as rig:
        app, batch = rig.app, f"/collections/{collection_name}/points/batch"
        rig.generative.on(CHAT, says("A lime weighs 67 grams."))
        await ingest(app, {"id": "lime", "text": "A lime weighs 67 grams."})
        answer = await ask(app, "/rag/query", question)
        await eventually(lambda: not app.runtime.monitor.missing(), "every backend up")
        under_way = asyncio.Event()
        rig.qdrant.on(batch, DEFAULT, after(passed_on(vector_url), under_way))
        taking = asyncio.create_task(ask(app, "/rag/ingest", {"documents": [{"id": "new", "text": "Lemons."}]}))
        await eventually(lambda: len(rig.qdrant.calls(batch)) >= 4, "its chunks are written and to be shown")
        unseen = await Points(vector_url).all(collection_name)
        asked = len(rig.embedding.calls(EMBEDDINGS)), len(rig.generative.calls(CHAT))

        clock.jump_s = jump_s
        assert (await app.get("/ready"))[0] == 200
        again = await ask(app, "/rag/query", question)
        assert (again[0], again[1]["answer"]) == (200, answer[1]["answer"])
        assert sample(app, "hartonomous_cache_requests_total", cache="answers", outcome="hit") == 1
        rig.qdrant.on(batch, DEFAULT)
        status, swept = await app.post("/admin/sweep", {"collection": collection_name})
        assert (status, swept["chunks"]) == (200, 0)
        assert await Points(vector_url).all(collection_name) == unseen
        assert not taking.done()
        under_way.set()
        status, taken = await taking
        assert (status, taken["counts"]["created"]) == (200, 1)
        # Neither was made a second time.
        assert asked == (len(rig.embedding.calls(EMBEDDINGS)), len(rig.generative.calls(CHAT)))
        assert abs(await app.metric("hartonomous_wall_clock_jump_seconds") - jump_s) < 60


@pytest.mark.parametrize("jump_s", JUMPS)
async def test_row_41_what_is_ingested_later_is_newer(
    rigs: RigMaker, clock: Clock, jump_s: float, vector_url: str, collection_name: str
) -> None:
    async with rigs.make() as rig:
        await ingest(rig.app, {"id": "one", "text": "The first version."})
        (first,) = (await Points(vector_url).all(collection_name, but=())).values()
        clock.jump_s = jump_s
        await ingest(rig.app, {"id": "one", "text": "The second version."})
        await ingest(rig.app, {"id": "two", "text": "Another document."})
        stored = (await Points(vector_url).all(collection_name, but=())).values()
        payloads = {point["payload"]["document_id"]: point["payload"] for point in stored}
        assert payloads["one"]["text"] == "The second version."
        assert all(payload["visible"] for payload in payloads.values())
        assert first["payload"]["sequence"] < payloads["one"]["sequence"] < payloads["two"]["sequence"]
        clock.jump_s = 0.0  # and set right again
        await ingest(rig.app, {"id": "one", "text": "The third version."})
        stored = (await Points(vector_url).all(collection_name)).values()
        assert sorted(point["payload"]["text"] for point in stored) == ["Another document.", "The third version."]


def test_row_41_a_process_that_starts_after_a_jump_back_still_replaces_what_is_stored(clock: Clock) -> None:
    stored = _Sequences().next()
    clock.jump_s = -HOUR_S
    begun_again = _Sequences()
    assert stored < begun_again.next(stored) < begun_again.next()


def test_row_41_an_age_is_counted_by_the_clock_that_makes_it_younger(clock: Clock) -> None:
    wall = WallTime()
    begun = wall.earliest()
    for jump_s in JUMPS:
        clock.jump_s = jump_s
        assert wall.earliest() - begun < 60
        assert wall.latest() - begun > -60
        assert abs(wall.jumped() - jump_s) < 60
    assert sequence_at(walltime.latest()) < 2**53


def test_row_41_nobody_else_asks_the_wall_clock() -> None:
    """How long something takes, lives or may take is the monotonic clock's, everywhere."""
    asking = {str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if _asks_the_wall_clock(path)}
    assert asking <= set(ASK_THE_WALL_CLOCK)


def _asks_the_wall_clock(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in _CLOCKS.get(_name(node.value), ()):
            return True
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            return bool({alias.name for alias in node.names} & _CLOCKS["time"])
    return False


def _name(node: ast.expr) -> str:
    """Return the last name of `time`, `datetime` or `datetime.datetime`."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
