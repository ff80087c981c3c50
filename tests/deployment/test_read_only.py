"""The server where nothing can be written but its temporary folder and its audit trail, as in a container."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.parsing.docx_writer import body_docx
from tests.parsing.pdf_writer import text_pdf
from tests.service.application import eventually
from tests.service.keyed import Key, auth_section
from tests.service.serving import Served
from tests.service.vector_store import drop_collection

OPERATOR = Key("operator", ("query", "ingest", "metrics", "admin"), ("*",))
# Keeps the folders that are named first, makes every other mount read-only, and becomes the command behind `--`.
VIEW = """
set -eu
mount --make-rprivate /
kept=
while [ "$1" != -- ]; do mount --bind "$1" "$1"; kept="$kept $1 "; shift; done
shift
while read -r _ _ _ _ place _; do
    case $kept in *" $place "*) ;; *) mount -o remount,bind,ro "$place" 2>/dev/null || true ;; esac
done < /proc/self/mountinfo
for place in / /tmp /var/tmp "$PWD"; do ! touch "$place/written" 2>/dev/null || exit 99; done
exec "$@"
"""


def _can_have_a_view() -> bool:
    command = ["unshare", "--mount", "mount", "--make-rprivate", "/"]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
async def served(
    tmp_path: Path, embedding_url: str, generative_url: str, vector_url: str, collection_name: str
) -> AsyncIterator[Served]:
    """A server in such a view."""
    if not _can_have_a_view():
        pytest.skip("mounts cannot be made here")
    temporary, trail, log = tmp_path / "tmp", tmp_path / "audit", tmp_path / "serve.log"
    temporary.mkdir()
    trail.mkdir()
    config: dict[str, Any] = {
        "server": {"port": 0},
        "auth": auth_section(OPERATOR),
        "audit": {"directory": str(trail)},
        "backends": {
            "embedding": {"urls": [embedding_url]},
            "generative": {"urls": [generative_url]},
            "qdrant": {"url": vector_url},
        },
        "rag": {
            "default_collection": collection_name,
            "retrieval": {"min_similarity": 0.0, "min_words": 0.0},
            "generation": {"max_tokens": 8},
        },
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(config))), encoding="utf-8")
    command = [sys.executable, "-m", "hartonomous", "serve", "--config", str(tmp_path / "config.yaml")]
    view = ["unshare", "--mount", "sh", "-c", VIEW, "sh", str(temporary), str(trail), "--", *command]
    environment = {name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR"}
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            *view, stderr=file, env={**environment, "TMPDIR": str(temporary)}
        )
    try:
        await eventually(
            lambda: process.returncode is not None or b'"listening"' in log.read_bytes(), "the server listens"
        )
        yield Served(process, log)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await drop_collection(vector_url, collection_name)


async def test_it_ingests_answers_reloads_and_stops(served: Served, tmp_path: Path) -> None:
    async with aiohttp.ClientSession(served.url, headers=OPERATOR.headers) as session:
        form = aiohttp.FormData(default_to_multipart=True)
        form.add_field("file", text_pdf("A pear is green."), filename="pear.pdf")
        form.add_field("file", body_docx("<w:p><w:r><w:t>An apple is red.</w:t></w:r></w:p>"), filename="apple.docx")
        async with session.post("/rag/ingest", data=form) as response:
            assert (await response.json())["counts"]["created"] == 2
        lines = "".join(
            json.dumps({"id": f"line-{number}", "text": f"Number {number}."}) + "\n" for number in range(20)
        )
        async with session.post(
            "/rag/ingest", data=lines, headers={"Content-Type": "application/x-ndjson"}
        ) as response:
            assert json.loads((await response.text()).splitlines()[-1])["counts"]["created"] == 20
        async with session.post("/rag/query", json={"query": "What is green?", "stream": True}) as response:
            assert "event: done" in await response.text()
        async with session.post("/admin/config/reload") as response:
            assert (await response.json())["status"] == "reloaded"
    served.stop()
    assert await served.exit_code() == 0
    assert [line for line in served.lines if line["level"] in {"WARNING", "ERROR"}] == []
    assert (tmp_path / "audit/audit-0.jsonl").stat().st_size > 0
