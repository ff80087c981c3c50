"""On a systemd of its own: everything works in the narrow room that the units leave it."""

from __future__ import annotations

import os
import re
import shutil
import ssl
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.parsing.docx_writer import body_docx
from tests.parsing.pdf_writer import text_pdf
from tests.redis import PROGRAM, RedisServer
from tests.service.certificates import Files
from tests.systemd.host import API, KEYS, Host
from tests.systemd.machine import until

ENGINE = "hartonomous-engine.service"
HTML = b"<html><body><article><p>A lime weighs 67 grams and it is green.</p></article></body></html>"
DOCX = body_docx("<w:p><w:r><w:t>A lime weighs 67 grams.</w:t></w:r></w:p>")
FILES = {"lime.pdf": text_pdf("A lime weighs 67 grams."), "lime.html": HTML, "lime.docx": DOCX}


def found(host: Host, collection: str) -> list[str]:
    """Return the documents that a search for limes finds."""
    status, answer = host.post("/rag/search", {"query": "What does a lime weigh?", "collection": collection})
    assert status == 200, answer
    return [each["document_id"] for each in answer["results"]]


def ingest(host: Host, collection: str) -> None:
    document = {"id": "lime", "text": "A lime weighs 67 grams."}
    status, answer = host.post("/rag/ingest", {"documents": [document], "collection": collection})
    assert (status, answer["counts"]["failed"]) == (200, 0), answer


def test_what_was_ingested_is_found_and_answered_from(api: Host) -> None:
    ingest(api, "answers")
    assert found(api, "answers") == ["lime"]
    status, answer = api.post("/rag/query", {"query": "What does a lime weigh?", "collection": "answers"})
    assert (status, answer["degraded"]) == (200, [])


def test_the_engine_has_it_still_when_it_was_killed(api: Host) -> None:
    ingest(api, "kept")
    pid = api.machine.main_pid(ENGINE)
    api.machine.systemctl("kill", "--kill-whom=main", "--signal=KILL", ENGINE)
    until(lambda: api.machine.main_pid(ENGINE) not in (0, pid))
    until(lambda: api.machine.show(ENGINE, "ActiveState") == "active")
    until(lambda: api.post("/rag/search", {"query": "lime", "collection": "kept"})[0] == 200)
    assert found(api, "kept") == ["lime"]


def test_the_engine_is_reached_by_a_socket_file(api: Host) -> None:
    where = "unix:/run/hartonomous-engine/engine.sock"
    api.machine.write("/etc/hartonomous/engine.env", f"ENGINE_LISTEN={where}\n")
    try:
        api.machine.systemctl("restart", ENGINE)
        api.configure(more=((r"url: http://127.0.0.1:6333", f"url: {where}"),))
        api.start("hartonomous.service")
        ingest(api, "by-file")
        assert found(api, "by-file") == ["lime"]
    finally:
        api.machine.write("/etc/hartonomous/engine.env", "")
        api.machine.systemctl("restart", ENGINE)


async def test_files_of_every_kind_are_read_in_processes_of_their_own(api: Host) -> None:
    form = aiohttp.FormData({"collection": "files"})
    for name, content in FILES.items():
        form.add_field("file", content, filename=name)
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{API}/rag/ingest", data=form, headers=api.headers("tenant")) as response,
    ):
        answer: Any = await response.json()
    assert (response.status, answer["counts"]["failed"]) == (200, 0), answer
    assert len(api.machine.processes("hartonomous.service")) > 1
    status, documents = api.get("/rag/collections/files/documents", key="tenant")
    assert (status, len(documents["documents"])) == (200, 3), documents


def test_it_speaks_tls(api: Host, tmp_path: Path) -> None:
    files = Files(tmp_path)
    for name, path in (("tls.crt", files.certificate), ("tls.key", files.key)):
        api.machine.write(f"/etc/hartonomous/{name}", path.read_bytes(), mode=0o640, owner="root:hartonomous")
    api.configure(more=((r"# tls: \{(.*), client_ca: \S+\}", r"tls: {\1}"),))
    api.machine.systemctl("restart", "hartonomous.service")
    trusted = ssl.create_default_context(cafile=str(files.client_ca))
    assert api.get("/ready", base="https://127.0.0.1:8700", context=trusted)[0] == 200


@pytest.mark.skipif(PROGRAM is None, reason="needs redis-server")
async def test_it_counts_in_redis(api: Host, tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    await server.start()
    try:
        limit, url = (
            (r"# key: \{.*\}", "key: {requests_per_s: 0.01, burst: 2}"),
            (r"# url: redis:\S+", f"url: {server.url}"),
        )
        api.configure(more=((r"processes: 1", "processes: 2"), limit, url))
        api.start("hartonomous.service")
        assert [api.get("/v1/models", key="tenant")[0] for _ in range(3)] == [200, 200, 429]
        assert await server.command("DBSIZE") != b":0\r\n"
    finally:
        server.kill()


def test_the_audit_trail_is_among_the_logs(api: Host) -> None:
    api.get("/v1/models", key="tenant")
    files = (api.machine.root / "var/log/hartonomous/audit").iterdir()
    assert "tenant" in "".join(path.read_text() for path in files if path.is_file())


def test_secrets_are_for_the_service_alone(api: Host) -> None:
    credentials = api.machine.root / "run/credentials/hartonomous.service"
    assert (credentials / "pepper").read_text() == api.pepper
    pid = api.machine.main_pid(ENGINE)
    assert not (api.machine.root / f"proc/{pid}/root/run/credentials/hartonomous.service").exists()
    assert (
        api.pepper not in (api.machine.root / f"proc/{api.machine.main_pid('hartonomous.service')}/environ").read_text()
    )


def test_the_list_of_keys_may_be_a_secret_too(api: Host) -> None:
    api.machine.write("/etc/hartonomous/credentials/keys", api.listed("tenant"), mode=0o600)
    where = "${CREDENTIALS_DIRECTORY:-/etc/hartonomous/credentials}/keys"
    api.configure(more=((rf"keys: file:{KEYS}", f"keys: file:{where}"),))
    api.machine.systemctl("restart", "hartonomous.service")
    assert [api.get("/v1/models", key=name)[0] for name in ("tenant", "other")] == [200, 401]


def test_metrics_know_when_the_process_began(api: Host) -> None:
    status, metrics = api.get("/metrics", key="operator", base="http://127.0.0.1:8701")
    began = re.search(r"^process_start_time_seconds (\S+)", metrics, re.MULTILINE)
    assert status == 200
    assert began is not None
    assert abs(time.time() - float(began[1])) < 600


def test_a_model_service_is_started_when_its_model_is_loaded(host: Host) -> None:
    host.machine.systemctl("restart", "hartonomous-llama@embedding.service")
    assert host.get("/health", base="http://127.0.0.1:8711")[0] == 200


@pytest.mark.skipif(
    "HARTONOMOUS_TEST_QDRANT" not in os.environ, reason="HARTONOMOUS_TEST_QDRANT names no qdrant program"
)
def test_qdrant_takes_the_place_of_the_engine(api: Host) -> None:
    shutil.copy(os.environ["HARTONOMOUS_TEST_QDRANT"], api.machine.root / "usr/local/bin/qdrant")
    api.machine.systemctl("stop", ENGINE)
    try:
        api.machine.systemctl("start", "hartonomous-qdrant.service")
        until(lambda: api.get("/ready")[0] == 200)
        ingest(api, "by-qdrant")
        assert found(api, "by-qdrant") == ["lime"]
    finally:
        api.machine.systemctl("stop", "hartonomous-qdrant.service")
        api.machine.systemctl("start", ENGINE)
