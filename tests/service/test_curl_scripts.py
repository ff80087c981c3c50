"""The scripts of `etc/curl`, each run against the application: one for every call, with keys and without."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from hartonomous import log
from hartonomous.app import OPERATIONS
from tests.service.application import RunningApp, eventually
from tests.service.commands import Ended
from tests.service.keyed import Key, auth_section
from tests.service.rag import RigMaker, events_of

FOLDER = Path(__file__).parents[2] / "etc/curl"
SCRIPTS = sorted(FOLDER.glob("*.sh"))
CALLS = [script for script in SCRIPTS if os.access(script, os.X_OK)]
OPERATOR = Key("operator", ("query", "ingest", "metrics", "admin"), ("*",))
LIME = "A lime weighs 67 grams."


def _call_of(script: Path) -> tuple[str, str]:
    """Return method and route of a script, which its second line says."""
    found = re.fullmatch(r"# ([A-Z]+) (/[^\s:]*): \S.*", script.read_text(encoding="utf-8").splitlines()[1])
    assert found is not None, script.name
    return found[1], found[2]


class Scripts:
    """Runs scripts against an application; each must make the one call that it says."""

    def __init__(self, app: RunningApp, key: Key | None, collection: str) -> None:
        self.app = app
        self.collection = collection
        self.environment = {
            "PATH": os.environ["PATH"],
            "HARTONOMOUS_URL": app.url,
            "HARTONOMOUS_COLLECTION": collection,
            **({} if key is None else {"HARTONOMOUS_API_KEY": key.text}),
        }
        self._begin = log.kept.total

    @property
    def seen(self) -> list[tuple[str, str]]:
        """The requests since the last script was run, as the log has them."""
        records = [json.loads(record.line) for record in log.kept.after(self._begin)[0]]
        return [(record["method"], record["route"]) for record in records if record["message"] == "request"]

    async def start(self, name: str, *arguments: object) -> Process:
        """Start a script."""
        program = [str(FOLDER / f"{name}.sh"), *map(str, arguments)]
        return await asyncio.create_subprocess_exec(
            *program, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=self.environment, start_new_session=True
        )

    async def run(self, name: str, *arguments: object, stdin: str = "") -> Ended:
        """Run a script to its end."""
        self._begin = log.kept.total
        process = await self.start(name, *arguments)
        async with asyncio.timeout(30):
            out, err = await process.communicate(stdin.encode())
        assert process.returncode is not None
        return Ended(process.returncode, out.decode(), err.decode())

    async def text(self, name: str, *arguments: object, stdin: str = "") -> str:
        """Run a script that must succeed with the call that it says; return what it printed."""
        ended = await self.run(name, *arguments, stdin=stdin)
        assert (ended.status, ended.err) == (0, ""), ended
        assert self.seen == [_call_of(FOLDER / f"{name}.sh")]
        return ended.out

    async def json(self, name: str, *arguments: object, stdin: str = "") -> Any:
        """The same; return the answer."""
        return json.loads(await self.text(name, *arguments, stdin=stdin))

    async def lines(self, name: str, *arguments: object, stdin: str = "") -> list[Any]:
        """The same; return the lines of the answer."""
        return [json.loads(line) for line in (await self.text(name, *arguments, stdin=stdin)).splitlines()]


@pytest.fixture(params=[False, True], ids=["without keys", "with keys"])
async def scripts(
    request: pytest.FixtureRequest, rigs: RigMaker, tmp_path: Path, collection_name: str
) -> AsyncIterator[Scripts]:
    """The scripts, before an application that reads its configuration again from a file."""
    for program in ("curl", "jq"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    auth: dict[str, Any] = {"auth": auth_section(OPERATOR)} if request.param else {}
    file = tmp_path / "hartonomous.yaml"
    async with rigs.make(file, **auth) as rig:
        written = json.loads(json.dumps(rig.config.model_dump(mode="json", exclude_none=True) | auth))
        file.write_text(yaml.safe_dump(written), encoding="utf-8")
        log.configure("INFO", io.StringIO())
        yield Scripts(rig.app, OPERATOR if request.param else None, collection_name)
        log.logger.remove()


def test_every_call_of_the_application_has_a_script() -> None:
    calls = {_call_of(script) for script in CALLS}
    assert calls == {(operation.method, operation.path) for operation in OPERATIONS}


def test_the_scripts_are_short_programs_and_one_file_that_they_read() -> None:
    assert [script.name for script in SCRIPTS if script not in CALLS] == ["common.sh"]
    for script in CALLS:
        lines = script.read_text(encoding="utf-8").splitlines()
        assert lines[0] == "#!/bin/sh"
        assert lines[2].startswith(f"# usage: {script.name}")
        assert lines[3] == "set -eu"
        assert len(lines) < 25, script.name
        assert stat.S_IMODE(script.stat().st_mode) & 0o555 == 0o555


def test_the_scripts_have_no_fault_that_shellcheck_finds() -> None:
    program = Path(sys.executable).parent / "shellcheck"
    command = [program, "--external-sources", "--source-path=SCRIPTDIR", *SCRIPTS]
    assert subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False).stdout == ""


async def test_documents_go_in_are_listed_and_go_out(scripts: Scripts, tmp_path: Path) -> None:
    odd = tmp_path / 'a "lime", 1; type=x.md'
    odd.write_text("# Limes\n\nA lime is green.", encoding="utf-8")
    stored = await scripts.json("ingest-text", "fruit/lime 1?", stdin=LIME)
    assert stored["counts"]["created"] == 1
    lines = await scripts.lines(
        "ingest-lines", stdin='{"id": "b", "text": "A lemon."}\n{"id": "c", "text": "A pear."}\n'
    )
    assert [line["status"] for line in lines[:-1]] == ["created", "created"]
    stored = await scripts.json("ingest-files", odd)
    assert stored["counts"]["created"] == 1, stored
    assert scripts.collection in [each["name"] for each in (await scripts.json("collections"))["collections"]]
    page = await scripts.json("documents", scripts.collection, 3)
    rest = await scripts.json("documents", scripts.collection, 3, page["next_cursor"])
    found = {document["id"] for document in (*page["documents"], *rest["documents"])}
    assert {"fruit/lime 1?", "b", "c"} < found
    assert len(found) == 4
    assert (await scripts.json("document", "fruit/lime 1?"))["text"] == LIME
    assert await scripts.text("delete-document", "fruit/lime 1?") == ""
    assert (await scripts.run("document", "fruit/lime 1?")).status == 22
    assert await scripts.text("delete-collection", scripts.collection) == ""
    assert scripts.collection not in [each["name"] for each in (await scripts.json("collections"))["collections"]]


async def test_lines_come_from_a_file_and_from_a_pipe_that_stays_open(scripts: Scripts, tmp_path: Path) -> None:
    file = tmp_path / "documents.ndjson"
    file.write_text('{"id": "a", "text": "A lime."}\n', encoding="utf-8")
    first, counts = await scripts.lines("ingest-lines", file, scripts.collection)
    assert (first["id"], counts["counts"]["created"]) == ("a", 1)
    process = await scripts.start("ingest-lines", "-")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b'{"id": "b", "text": "A lemon."}\n' * 2)
    await process.stdin.drain()
    async with asyncio.timeout(20):
        assert json.loads(await process.stdout.readline())["id"] == "b"
    process.stdin.close()
    assert await process.wait() == 0


async def test_questions_are_answered(scripts: Scripts) -> None:
    await scripts.json("ingest-text", "lime", stdin=LIME)
    question = 'What does "a lime" weigh\\?'
    assert (await scripts.json("search", question))["results"][0]["document_id"] == "lime"
    answer = await scripts.json("query", question, scripts.collection)
    assert answer["sources"][0]["text"] == LIME
    assert answer["answer"]
    events = events_of(await scripts.text("query-stream", question))
    assert [events[0][0], events[1][0], events[-1][0]] == ["sources", "delta", "done"]
    batch = await scripts.json("batch-query", question, "And a lemon?")
    assert [result["status"] for result in batch["results"]] == [200, 200]
    lines = await scripts.lines("batch-query-stream", question, "And a lemon?")
    assert sorted(line["index"] for line in lines if "index" in line) == [0, 1]


async def test_what_openai_has_is_asked(scripts: Scripts) -> None:
    await scripts.json("ingest-text", "lime", stdin=LIME)
    answer = await scripts.json("chat", "What does a lime weigh?")
    assert answer["choices"][0]["message"]["content"]
    assert answer["grounding"]
    assert (await scripts.text("chat-stream", "What does a lime weigh?")).endswith("data: [DONE]\n\n")
    assert len((await scripts.json("embeddings", "a lime", "a lemon"))["data"]) == 2
    for name in ("rerank", "rerank-llama", "rerank-cohere"):
        assert len((await scripts.json(name, "What is green?", "a lime", "a lemon"))["results"]) == 2
    models = [model["id"] for model in (await scripts.json("models"))["data"]]
    assert f"rag:{scripts.collection}" in models
    assert (await scripts.json("model", f"rag:{scripts.collection}"))["id"] == f"rag:{scripts.collection}"


async def test_the_operator_asks(scripts: Scripts) -> None:
    await eventually(lambda: not scripts.app.runtime.monitor.missing(), "every backend up")
    assert (await scripts.json("health"))["status"] == "ok"
    assert (await scripts.json("ready"))["status"] == "ready"
    assert "hartonomous_" in await scripts.text("metrics")
    assert (await scripts.json("openapi"))["openapi"].startswith("3.1")
    assert (await scripts.json("reload"))["status"] == "reloaded"
    assert (await scripts.json("sweep"))["chunks"] == 0
    assert len((await scripts.json("logs", "kind=audit", "limit=1"))["records"]) == 1


async def test_a_follower_of_the_log_hears_what_comes_and_no_list_of_processes_shows_its_key(scripts: Scripts) -> None:
    await scripts.json("health")
    process = await scripts.start("logs-follow", "limit=1")
    assert process.stdout is not None
    async with asyncio.timeout(20):
        first = json.loads(await process.stdout.readline())
        await scripts.json("collections")
        while b'"/rag/collections"' not in await process.stdout.readline():
            pass
    assert first["message"]
    shown = b"\n".join(_command_lines())
    assert b"/admin/logs" in shown
    assert OPERATOR.text.encode() not in shown
    os.killpg(process.pid, signal.SIGTERM)
    await process.wait()


def _command_lines() -> Iterator[bytes]:
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # ended meanwhile
            yield file.read_bytes()


async def test_an_error_is_printed_and_is_the_exit_status(scripts: Scripts) -> None:
    ended = await scripts.run("query", "What?", "no such collection")
    assert ended.status == 22
    assert json.loads(ended.out)["error"]["param"] == "collection"
    for name in ("query", "document", "batch-query", "rerank", "ingest-files", "delete-collection"):
        ended = await scripts.run(name)
        assert (ended.status, scripts.seen) == (2, [])
        assert f"usage: {name}.sh" in ended.err
    scripts.environment["HARTONOMOUS_ADMIN_URL"] = "http://127.0.0.1:9"
    assert (await scripts.run("metrics")).status == 7


async def test_a_key_is_sent_only_if_there_is_one(scripts: Scripts) -> None:
    has_keys = scripts.environment.pop("HARTONOMOUS_API_KEY", None) is not None
    ended = await scripts.run("models")
    assert (ended.status, "authentication_error" in ended.out) == ((22, True) if has_keys else (0, False))
