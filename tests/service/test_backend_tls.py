"""TLS and keys towards the backends and Redis: who is believed, what is shown, what a failure says, a reload."""

from __future__ import annotations

import asyncio
import datetime
import shutil
import socket
import ssl
import subprocess
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from hartonomous import clienttls, log
from hartonomous.cache.shared import SharedCache
from hartonomous.cli import check
from hartonomous.config import Config
from hartonomous.errors import ConfigError
from hartonomous.keys import RELOAD
from hartonomous.metrics import Metrics
from tests.service import fault_backend as fault
from tests.service.application import ConfigMaker, RunningApp, eventually, running
from tests.service.certificates import Files
from tests.service.fault_backend import FaultBackend
from tests.service.rag import EMBEDDINGS, sample
from tests.service.serving import backends
from tests.service.vector_store import drop_collection

SECRET = "the-key-of-a-backend"
EXPIRED = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
REDIS = shutil.which("redis-server")
MODELS = ("embedding", "reranking", "generative")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """An authority, and a certificate with its key that we show to backends."""
    return Files(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def told() -> Iterator[list[dict[str, Any]]]:
    """What is logged: the message and everything that is bound to it."""
    lines: list[dict[str, Any]] = []
    sink = log.logger.add(lambda said: lines.append({"message": said.record["message"], **said.record["extra"]}))
    yield lines
    log.logger.remove(sink)


def server_context(leaf: trustme.LeafCert, clients: trustme.CA | None = None) -> ssl.SSLContext:
    """Return the context of a backend, which asks for a certificate that `clients` signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    if clients is not None:
        clients.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def shown(files: Files) -> dict[str, str]:
    """Return the section `tls` of a service that asks for our certificate."""
    return {"ca": str(files.client_ca), "certificate": str(files.certificate), "key": str(files.key)}


def config_of(url: str, ca: Path) -> dict[str, Any]:
    """Return a configuration with one model server over TLS, which is all three."""
    return {"backends": backends(url, tls={"ca": str(ca)}, api_key=SECRET)}


@asynccontextmanager
async def one_server(folder: Path, files: Files, leaf: trustme.LeafCert) -> AsyncIterator[FaultBackend]:
    """Start a model server with this certificate; the configuration for it is in the folder."""
    async with FaultBackend(tls=server_context(leaf)) as backend:
        write_config(folder, files, backend.url)
        yield backend


def write_config(folder: Path, files: Files, url: str) -> None:
    """Write a configuration with one model server."""
    config = config_of(url, files.client_ca) | {"health": {"interval_s": 0.2}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def loaded(folder: Path) -> Config:
    """Return the configuration of the folder."""
    values = yaml.safe_load((folder / "config.yaml").read_text())
    for service in ("embedding", "generative"):
        values["backends"][service]["urls"] = tuple(values["backends"][service]["urls"])
    return Config.model_validate(values)


async def embed(app: RunningApp) -> tuple[int, Any]:
    """Ask for an embedding."""
    return await app.post(EMBEDDINGS, {"input": "a lime"})


@pytest.mark.parametrize("is_mutual", [False, True], ids=["one-way", "mutual"])
async def test_everything_works_over_tls_and_each_backend_gets_its_own_key(
    make_config: ConfigMaker, authority: Files, vector_url: str, collection_name: str, *, is_mutual: bool
) -> None:
    plain = make_config().backends
    ours = shown(authority) if is_mutual else {"ca": str(authority.client_ca)}
    async with AsyncExitStack() as stack:
        made = {}
        for name in (*MODELS, "qdrant"):
            service = getattr(plain, name)
            url = service.url if name == "qdrant" else service.urls[0].url
            leaf = authority.authority.issue_cert("127.0.0.1")
            context = server_context(leaf, authority.authority if is_mutual else None)
            made[name] = await stack.enter_async_context(FaultBackend(url, context))
        keyed = {name: {"tls": ours, "api_key": f"{SECRET}-{name}"} for name in made}
        models = {name: {**keyed[name], "urls": (made[name].url,)} for name in MODELS}
        config = make_config(backends={**models, "qdrant": {**keyed["qdrant"], "url": made["qdrant"].url}})
        app = await stack.enter_async_context(running(config))
        document = {"id": "lime", "text": "Limes are green and sour."}
        status, answer = await app.post("/rag/ingest", {"documents": [document]})
        assert status == 200, answer
        status, answer = await app.post("/rag/query", {"query": "What are limes?"})
        assert (status, answer["sources"][0]["document_id"]) == (200, "lime"), answer
        for name, backend in made.items():
            header = "api-key" if name == "qdrant" else "Authorization"
            expected = f"{SECRET}-{name}" if name == "qdrant" else f"Bearer {SECRET}-{name}"
            assert {request.headers[header] for request in backend.requests} == {expected}
            assert all(f"{SECRET}-{name}" in str(request.headers) for request in backend.requests)
    await drop_collection(vector_url, collection_name)


def leaf_of(kind: str, files: Files) -> trustme.LeafCert:
    """Return a certificate of which something is wrong."""
    if kind == "unknown":
        return trustme.CA().issue_cert("127.0.0.1")
    if kind == "expired":
        return files.authority.issue_cert("127.0.0.1", not_after=EXPIRED)
    return files.authority.issue_cert("another.example.org")


WRONG = {
    "unknown": "unable to get local issuer certificate",
    "expired": "certificate has expired",
    "another": "certificate is not valid for '127.0.0.1'",
}


@pytest.mark.parametrize("kind", WRONG)
async def test_a_backend_that_cannot_be_believed_is_down_and_gets_nothing(
    tmp_path: Path, authority: Files, told: list[dict[str, Any]], kind: str
) -> None:
    """Row 1 of the fault table, for TLS: tried again, then a 503 that names the service; the log says why."""
    async with one_server(tmp_path, authority, leaf_of(kind, authority)) as backend:
        await refused(tmp_path, told, WRONG[kind])
        assert not backend.requests


async def test_a_backend_that_speaks_no_tls_is_down_and_gets_nothing(
    tmp_path: Path, authority: Files, told: list[dict[str, Any]]
) -> None:
    received = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read(65_536))
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        write_config(tmp_path, authority, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await refused(tmp_path, told, "WRONG_VERSION_NUMBER")
    assert SECRET.encode() not in b"".join(received)


async def refused(folder: Path, told: list[dict[str, Any]], reason: str) -> None:
    """Hold that a call is tried again, that the answer is a 503, and that the log says why."""
    async with running(loaded(folder)) as app:
        status, answer = await embed(app)
        assert (status, answer["error"]["type"]) == (503, "backend_unavailable")
        assert answer["error"]["message"] == "The embedding service cannot be reached."
        assert sample(app, "hartonomous_backend_retries_total", service="embedding", reason="unreachable") == 2
        await eventually(lambda: any("tls" in line for line in told), "the log tells")
        assert (await app.get("/health"))[1]["backends"]["embedding"] == "down"
    reasons = {line["tls"] for line in told if "tls" in line}
    assert all(reason in found for found in reasons), reasons
    assert SECRET not in str(told)


async def test_a_redirect_is_not_followed_so_a_key_stays_where_it_belongs(tmp_path: Path, authority: Files) -> None:
    leaf = authority.authority.issue_cert("127.0.0.1")
    async with one_server(tmp_path, authority, leaf) as backend, FaultBackend(tls=server_context(leaf)) as stranger:
        elsewhere = {"Location": f"{stranger.url}{EMBEDDINGS}"}
        backend.otherwise = fault.reply(307, b"", elsewhere)
        backend.on(EMBEDDINGS, fault.reply(307, b"", elsewhere))
        async with running(loaded(tmp_path)) as app:
            status, answer = await embed(app)
            assert (status, answer["error"]["type"]) == (502, "backend_error")
            await eventually(lambda: backend.calls("/health"), "a poll")
        assert stranger.connections == 0


async def test_a_reload_believes_the_new_authority_and_no_longer_the_old_one(tmp_path: Path) -> None:
    first, second = trustme.CA(), trustme.CA()
    files = Files(tmp_path)
    first.cert_pem.write_to_path(str(files.client_ca))
    async with one_server(tmp_path, files, second.issue_cert("127.0.0.1")) as backend:
        async with running(loaded(tmp_path), tmp_path / "config.yaml") as app:
            assert (await embed(app))[0] == 503
            files.client_ca.write_text("none")
            with pytest.raises(ConfigError) as failure:
                await app.app[RELOAD]()
            assert failure.value.param == "backends.embedding.tls.ca"
            second.cert_pem.write_to_path(str(files.client_ca))
            reloaded = await app.app[RELOAD]()
            assert reloaded.changed == ["backends.embedding.tls.ca", "backends.generative.tls.ca"]
            assert (await embed(app))[0] == 200
            assert not (await app.app[RELOAD]()).changed
            pool = app.runtime.pools["embedding"]
            first.cert_pem.write_to_path(str(files.client_ca))
            await app.app[RELOAD]()
            assert app.runtime.pools["embedding"] is not pool
            assert (await embed(app))[0] == 503
        assert backend.calls(EMBEDDINGS)


def test_files_that_are_wrong_are_told_by_their_key_also_by_check(
    tmp_path: Path, authority: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.key"
    authority.authority.issue_cert("x.org").private_key_pem.write_to_path(str(other))
    broken, missing = tmp_path / "broken.pem", tmp_path / "missing.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    wrong = [
        ("qdrant", "ca", missing, "cannot be read: No such file or directory"),
        ("qdrant", "ca", broken, "holds no certificate in PEM form"),
        ("generative", "certificate", authority.key, "holds no certificate in PEM form"),
        ("embedding", "key", authority.certificate, "holds no private key in PEM form, or one with a passphrase"),
        ("redis", "key", other, "is not the key of the certificate"),
    ]
    for service, name, path, sentence in wrong:
        config = config_of("https://127.0.0.1:9", authority.client_ca)
        config["backends"]["qdrant"] = {"url": "https://127.0.0.1:9"}
        config["redis"] = {"url": "rediss://127.0.0.1:9"}
        section = config["redis"] if service == "redis" else config["backends"][service]
        section["tls"] = shown(authority) | {name: str(path)}
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(config))
        assert check.run(Namespace(config=file)) == 2
        key = f"{'' if service == 'redis' else 'backends.'}{service}.tls.{name}"
        assert capsys.readouterr().err == f"{key}: {path} {sentence}\n"


def test_files_for_an_address_without_tls_are_refused_as_they_would_protect_nothing(authority: Files) -> None:
    config = config_of("http://127.0.0.1:9", authority.client_ca)
    config["backends"]["embedding"]["urls"] = config["backends"]["generative"]["urls"] = ("http://127.0.0.1:9",)
    with pytest.raises(ConfigError, match="no address over TLS") as failure:
        clienttls.read(Config.model_validate(config))
    assert failure.value.param == "backends.embedding.tls"


def test_a_key_that_everybody_can_read_is_told(authority: Files, told: list[dict[str, Any]]) -> None:
    config = config_of("https://127.0.0.1:9", authority.client_ca)
    config["backends"]["embedding"] |= {"urls": ("https://127.0.0.1:9",), "tls": shown(authority)}
    config["backends"]["generative"]["urls"] = ("https://127.0.0.1:9",)
    for mode, expected in ((0o600, []), (0o644, ["embedding"])):
        authority.key.chmod(mode)
        read = Config.model_validate(config)
        clienttls.warn(read, clienttls.read(read))
        assert [line["service"] for line in told] == expected
    authority.key.chmod(0o600)


def test_a_key_that_goes_over_the_network_without_tls_is_told(told: list[dict[str, Any]]) -> None:
    here, there = ("http://127.0.0.1:9", "http://[::1]:9"), ("https://models.example.org", "http://10.1.2.3:8710")
    models = {"embedding": {"urls": here, "api_key": SECRET}, "generative": {"urls": there, "api_key": SECRET}}
    store = {"url": "http://qdrant.example.org:6333"}
    redis = {"url": "redis://redis.example.org", "password": SECRET}
    config = Config.model_validate({"backends": {**models, "qdrant": store}, "redis": redis})
    clienttls.warn(config, clienttls.read(config))
    assert {line["service"] for line in told} == {"generative", "redis"}
    assert SECRET not in str(told)


@pytest.fixture
def redis_port(tmp_path: Path, authority: Files) -> Iterator[int]:
    """A Redis that speaks TLS alone, to clients with a certificate and a password."""
    if REDIS is None:
        pytest.skip("redis-server is not installed")
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port: int = free.getsockname()[1]
    files = {"cert-file": authority.certificate, "key-file": authority.key, "ca-cert-file": authority.client_ca}
    tls = [word for name, path in files.items() for word in (f"--tls-{name}", str(path))]
    plain = ["--port", "0", "--tls-port", str(port), "--requirepass", SECRET, "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen([REDIS, *plain, *tls], stdout=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.kill()
        process.wait()


async def test_redis_is_spoken_to_over_tls_with_our_certificate_and_password(
    redis_port: int, authority: Files, tmp_path: Path
) -> None:
    right = {"url": f"rediss://127.0.0.1:{redis_port}/0", "password": SECRET, "timeout_s": 2.0}
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(str(stranger))
    assert await kept(right | {"tls": shown(authority)}, patient=True)
    for wrong in (
        right | {"tls": shown(authority) | {"ca": str(stranger)}},
        right | {"tls": {"ca": str(authority.client_ca)}},
        right | {"tls": shown(authority), "password": "another"},
        right | {"url": f"rediss://localhost.localdomain:{redis_port}/0", "tls": shown(authority)},
        right | {"url": f"redis://127.0.0.1:{redis_port}/0"},
    ):
        assert not await kept(wrong)


async def kept(section: dict[str, Any], *, patient: bool = False) -> bool:
    """Whether something can be kept in Redis; with patience it may still be starting."""
    config = Config.model_validate({"backends": backends_of_nobody(), "redis": section})
    for _ in range(100 if patient else 1):
        cache = SharedCache(config.redis, Metrics(), trust=clienttls.read(config).get("redis"))
        await cache.put("key", b"value", 60)
        found = await cache.get("key")
        await cache.close()
        if found is not None:
            return found[0] == b"value"
        await asyncio.sleep(0.05)
    return False


def backends_of_nobody() -> dict[str, Any]:
    """Return backends that nobody asks."""
    return {name: {"urls": ("http://127.0.0.1:9",)} for name in ("embedding", "generative")}
