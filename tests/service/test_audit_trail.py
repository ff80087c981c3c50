"""What stands in the audit trail: every refusal, ingest, delete, reload, sweep and admin read, with who and what."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp.test_utils import make_mocked_request

from hartonomous.__main__ import main
from hartonomous.core import apikey
from hartonomous.core.denied import MOST_COLLECTIONS
from hartonomous.errors import PermissionDeniedError
from hartonomous.keys import NOTES, RELOAD, STATE, TRAIL
from hartonomous.middleware.audit import note_error
from tests.service import fault_backend as fault
from tests.service.application import RunningApp, eventually, merged, running
from tests.service.keyed import Key, Keys, asking, keyed
from tests.service.rag import EMBEDDINGS, RigMaker
from tests.service.serving import backends, serving

SECRET = "a secret text of a document"


def _lines(app: RunningApp) -> list[dict[str, Any]]:
    records, _ = app.app[TRAIL].kept.all()
    return [json.loads(record.line) for record in records]


def _last(app: RunningApp) -> dict[str, Any]:
    return _lines(app)[-1]


async def _status(app: RunningApp, method: str, path: str, **options: Any) -> int:
    async with app.session.request(method, app.url + path, **options) as response:
        await response.read()
        return response.status


async def test_what_is_done_is_noted_with_who_did_it(rigs: RigMaker, tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    async with keyed(rigs, audit={"directory": folder}) as it:
        collection = it.keys.a.collection
        document = {"id": "one", "text": SECRET, "title": SECRET, "metadata": {"a": SECRET}}
        await it.a.post(
            "/rag/ingest", {"collection": collection, "documents": [document]}, headers={"X-Request-ID": "r1"}
        )
        ingested = _last(it.a)
        assert (
            ingested
            | {
                "event": "ingest",
                "key": "tenant-a",
                "remote": "127.0.0.1",
                "method": "POST",
                "route": "/rag/ingest",
                "outcome": "ok",
                "status": 200,
                "request_id": "r1",
                "collection": collection,
                "documents": {"created": 1, "updated": 0, "unchanged": 0, "failed": 0},
            }
            == ingested
        )
        await it.a.delete(f"/rag/collections/{collection}/documents/one")
        deleted = _last(it.a)
        assert (deleted["event"], deleted["outcome"], deleted["document"]) == ("delete", "ok", "one")
        await it.operator.delete(f"/rag/collections/{collection}")
        dropped = _last(it.a)
        assert (dropped["event"], dropped["key"], dropped["collection"]) == ("delete", "operator", collection)
        await it.operator.get("/admin/logs")
        assert (_last(it.a)["event"], _last(it.a)["kind"]) == ("admin_read", "app")
        await it.operator.post("/admin/sweep", {})
        assert _last(it.a)["event"] == "sweep"
        count = len(_lines(it.a))
        await it.a.post("/rag/search", {"query": SECRET})
        await it.a.get("/rag/collections")
        await it.a.get("/health")
        # A search in the default collection, which the key does not reach, is the only one of these.
        assert [line["event"] for line in _lines(it.a)[count:]] == ["permission_denied"]
    written = (folder / "audit-0.jsonl").read_text()
    assert [json.loads(line)["event"] for line in written.splitlines()] == [
        "ingest",
        "delete",
        "delete",
        "admin_read",
        "sweep",
        "permission_denied",
    ]
    assert SECRET not in written
    assert main(["audit", "verify", str(folder)]) == 0


async def test_refusals_are_noted_with_whom_they_met(rigs: RigMaker) -> None:
    async with keyed(rigs) as it:
        app, other = it.rig.app, it.keys.b.collection
        assert await _status(app, "GET", "/rag/collections") == 401
        nobody = _last(app)
        assert (nobody["event"], nobody["outcome"], nobody["key"]) == ("authentication_failed", "denied", None)
        wrong = Key("tenant-a", secret="another").text
        assert await _status(app, "GET", "/rag/collections", headers={"X-API-Key": wrong}) == 401
        assert (_last(app)["key"], _last(app)["claimed_key"]) == (None, "tenant-a")
        assert wrong not in json.dumps(_lines(app))
        assert apikey.id_of(wrong) == "tenant-a"
        assert (await it.a.get("/admin/logs"))[0] == 403
        scope = _last(app)
        assert (scope["event"], scope["key"], scope["code"]) == ("permission_denied", "tenant-a", "scope_missing")
        assert (await it.a.post("/rag/search", {"query": SECRET, "collection": other}))[0] == 403
        reach, count = _last(app), len(_lines(app))
        assert (reach["event"], reach["key"], reach["collection"]) == ("permission_denied", "tenant-a", other)
        queries = [{"query": SECRET, "collection": it.keys.a.collection}, {"query": SECRET, "collection": other}]
        assert (await it.a.post("/rag/batch-query", {"queries": queries}))[0] == 200
        assert len(_lines(app)) == count + 1
        within = _last(app)
        assert (within["event"], within["outcome"], within["collection"]) == ("permission_denied", "denied", other)
        assert SECRET not in json.dumps(_lines(app))


async def test_all_collections_that_a_batch_was_denied_are_noted(rigs: RigMaker) -> None:
    async with keyed(rigs) as it:
        names = ["foreign-1", it.keys.a.collection, "foreign-2", "foreign-1", "foreign-3"]
        queries = [{"query": SECRET, "collection": name} for name in names]
        assert (await it.a.post("/rag/batch-query", {"queries": queries}))[0] == 200
        told = _last(it.rig.app)
        assert (told["event"], told["collection"]) == ("permission_denied", "foreign-1")
        assert told["collections"] == ["foreign-1", "foreign-2", "foreign-3"]
        assert "more_collections" not in told


def test_no_more_collections_are_noted_than_a_line_has_room_for() -> None:
    request = make_mocked_request("POST", "/rag/batch-query")
    request[NOTES] = {}
    for number in range(MOST_COLLECTIONS + 1):
        error = PermissionDeniedError("no")
        error.collection = f"foreign-{number}"
        note_error(request, error)
    assert len(request[NOTES]["collections"]) == MOST_COLLECTIONS
    assert request[NOTES]["more_collections"] is True


async def test_a_reload_is_noted_with_what_changed_and_who_asked(rigs: RigMaker, tmp_path: Path) -> None:
    """Of two processes that serve one file one is asked; the other follows."""
    file, keys = tmp_path / "config.yaml", Keys()
    sections: dict[str, Any] = {"auth": keys.section(), "server": {"runtime_directory": tmp_path}}
    async with rigs.make(file, **sections) as rig, asking(rig.app, keys.operator) as operator:
        written = rig.config.model_dump(mode="json", exclude_none=True)
        auth = json.loads(json.dumps({"auth": keys.section()}))
        file.write_text(yaml.safe_dump(merged(written, auth)), encoding="utf-8")
        async with running(rig.config, file) as other:
            changes = {"health": {"interval_s": 30.0}, "audit": {"max_file_bytes": 5_000}}
            file.write_text(yaml.safe_dump(merged(merged(written, auth), changes)), encoding="utf-8")
            assert (await operator.post("/admin/config/reload", None))[0] == 200
            asked = _last(rig.app)
            assert (asked["event"], asked["key"], asked["route"]) == ("reload", "operator", "/admin/config/reload")
            assert "health.interval_s" in asked["changed"]
            assert asked["restart_required"] == ["audit.max_file_bytes"]
            await eventually(lambda: _lines(other), "the other one follows")
            (followed,) = _lines(other)
            assert (followed["event"], followed["cause"], followed["key"]) == ("reload", "process", None)
            assert followed["changed"] == asked["changed"]


async def test_a_reload_whose_client_left_is_noted_as_it_ended_and_once(rigs: RigMaker, tmp_path: Path) -> None:
    file, keys = tmp_path / "config.yaml", Keys()
    sections: dict[str, Any] = {"auth": keys.section(), "server": {"runtime_directory": tmp_path}}
    async with rigs.make(file, **sections) as rig, asking(rig.app, keys.operator) as operator:
        written = rig.config.model_dump(mode="json", exclude_none=True)
        auth = json.loads(json.dumps({"auth": keys.section()}))
        for held, interval, outcome in ((20.0, 30.0, "ok"), (40.0, -1.0, "failed")):
            before, polls = len(_lines(rig.app)), len(rig.generative.calls("/health"))
            rig.generative.on("/health", fault.hang())
            file.write_text(yaml.safe_dump(merged(merged(written, auth), {"health": {"interval_s": held}})))
            first = asyncio.create_task(rig.app.app[RELOAD]())
            await eventually(lambda polls=polls: len(rig.generative.calls("/health")) > polls, "it polls")  # type: ignore[misc]
            file.write_text(yaml.safe_dump(merged(merged(written, auth), {"health": {"interval_s": interval}})))
            asking_for = asyncio.create_task(operator.post("/admin/config/reload", None))
            await eventually(lambda: rig.app.app[STATE].active == 1, "another one is asked for")
            asking_for.cancel()
            await asyncio.wait({asking_for})
            await eventually(rig.app.app[STATE].idle.is_set, "its client has left")
            assert len(_lines(rig.app)) == before
            rig.generative.on("/health", fault.DEFAULT)
            await first
            await eventually(lambda before=before: len(_lines(rig.app)) > before, "it ends")  # type: ignore[misc]
            (line,) = _lines(rig.app)[before:]
            assert (line["event"], line["key"], line["outcome"]) == ("reload", "operator", outcome)
            assert (line["route"], "changed" in line) == ("/admin/config/reload", outcome == "ok")
            assert line["request_id"]


async def test_processes_write_chains_of_their_own_and_a_signal_is_noted(
    embedding_url: str, vector_url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "audit"
    sections: dict[str, Any] = {
        "backends": backends(embedding_url, vector_url),
        "audit": {"directory": str(folder)},
    }
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    async with serving(tmp_path / "one", **sections) as one, serving(tmp_path / "two", **sections) as two:
        one.process.send_signal(signal.SIGHUP)
        async with aiohttp.ClientSession() as session:
            for _ in range(5):
                await session.get(two.url + "/rag/collections", headers={"Origin": "https://evil.example"})
        await eventually(lambda: one.told("the configuration was read again"))
        await eventually(lambda: (folder / "audit-0.jsonl").stat().st_size)
        assert main(["audit", "verify", str(folder)]) == 0
        (reloaded,) = (json.loads(line) for line in (folder / "audit-0.jsonl").read_text().splitlines())
        assert (reloaded["event"], reloaded["cause"], reloaded["outcome"]) == ("reload", "signal", "ok")
        two.process.kill()
        one.stop()
        assert await one.exit_code() == 0
        await two.exit_code()
    assert main(["audit", "verify", str(folder)]) == 0
    lines = (folder / "audit-1.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 5
    (folder / "audit-1.jsonl").write_bytes(b"".join(lines[:2] + lines[3:]))
    assert main(["audit", "verify", str(folder)]) == 1


async def test_what_failed_is_noted_as_failed(rigs: RigMaker) -> None:
    async with keyed(rigs) as it:
        await it.a.post("/rag/ingest", {"documents": 1})
        assert (_last(it.a)["event"], _last(it.a)["outcome"], _last(it.a)["status"]) == ("ingest", "failed", 422)
        collection = it.keys.a.collection
        body = json.dumps({"text": "A lime."}) + "\nno json\n"
        headers = {"Content-Type": "application/x-ndjson"}
        path = f"/rag/ingest?collection={collection}"
        assert await _status(it.a, "POST", path, data=body, headers=headers) == 200
        assert _last(it.a)["documents"] == {"created": 1, "updated": 0, "unchanged": 0, "failed": 1}
        assert await _status(it.operator, "POST", "/admin/config/reload") == 422  # there is no file
        assert (_last(it.a)["event"], _last(it.a)["outcome"]) == ("reload", "failed")


async def test_a_client_that_left_in_the_middle_is_noted(rigs: RigMaker) -> None:
    async with keyed(rigs) as it:
        it.rig.embedding.on(EMBEDDINGS, fault.hang())
        body = {"collection": it.keys.a.collection, "documents": [{"id": "one", "text": SECRET}]}
        asking = asyncio.create_task(it.a.post("/rag/ingest", body))
        await eventually(lambda: it.rig.embedding.calls(EMBEDDINGS), "it is embedded")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await eventually(lambda: _lines(it.a), "it is noted")
        left = _last(it.a)
        assert (left["event"], left["status"], left["outcome"], left["sent"]) == ("ingest", 499, "failed", 1)
        it.rig.embedding.on(EMBEDDINGS)


async def test_without_keys_a_request_from_elsewhere_is_noted(rigs: RigMaker) -> None:
    async with rigs.make() as rig:
        assert (await rig.app.get("/rag/collections", headers={"Origin": "https://evil.example"}))[0] == 403
        assert (_last(rig.app)["event"], _last(rig.app)["code"]) == ("permission_denied", "local_only")


async def test_a_forwarded_address_that_nobody_trusts_is_not_noted(rigs: RigMaker) -> None:
    async with keyed(rigs) as it:
        async with aiohttp.ClientSession() as session:
            await session.get(it.rig.app.url + "/rag/collections", headers={"X-Forwarded-For": "203.0.113.9"})
        assert _last(it.a)["remote"] == "127.0.0.1"
