"""The port speaks TLS: which versions and certificates, and how both are exchanged without a connection being lost."""

from __future__ import annotations

import asyncio
import datetime
import json
import re
import signal
import socket
import ssl
import warnings
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
import trustme
import yaml

from hartonomous import log, tls
from hartonomous.cli import check
from hartonomous.errors import ConfigError
from hartonomous.security import Tls
from tests.service import fault_backend as fault
from tests.service.application import eventually
from tests.service.certificates import Files
from tests.service.fault_backend import FaultBackend
from tests.service.rag import CHAT
from tests.service.serving import Served, backends, serving

STREAM = {"messages": [], "stream": True}
FAILED = "a TLS handshake failed"
BROKEN = "the configuration is wrong: the old one serves on"
USUAL = {
    "listening",
    "backend health changed",
    "request",
    "there are no keys: only this host is served, without any proxy",
}


@pytest.fixture(scope="module")
def authority_files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The files of one authority; making it is what takes the time."""
    return Files(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def files(authority_files: Files) -> Files:
    """Files that go together."""
    authority_files.issue()
    return authority_files


@asynccontextmanager
async def secure(folder: Path, files: Files, url: str) -> AsyncIterator[Served]:
    """Start a server with TLS."""
    async with serving(folder, server={"tls": files.section()}, backends=backends(url)) as served:
        yield served


async def handshake(served: Served, context: ssl.SSLContext) -> tuple[str, str, bytes]:
    """Return the version, the cipher and the certificate of a new connection."""
    _, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=context)
    over: ssl.SSLObject = writer.get_extra_info("ssl_object")
    found = str(over.version()), str((over.cipher() or ("",))[0]), over.getpeercert(binary_form=True) or b""
    writer.close()
    await writer.wait_closed()
    return found


def serial(leaf: trustme.LeafCert) -> bytes:
    """Return a certificate as it goes over the wire."""
    return ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())


async def test_row_43_a_broken_certificate_at_a_reload_leaves_the_old_one_serving(
    tmp_path: Path, files: Files, faulty: FaultBackend
) -> None:
    first, released, events = files.issue(), asyncio.Event(), fault.sse(["a", "b"])

    async def slow(exchange: fault.Exchange) -> None:
        await exchange.head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        await exchange.chunk(events[0])
        await released.wait()
        await exchange.chunk(b"".join(events[1:]))
        await exchange.raw(b"0\r\n\r\n")

    faulty.on(CHAT, slow)
    client = files.client()
    async with secure(tmp_path, files, faulty.url) as served:
        url = f"https://127.0.0.1:{served.port}"
        connector = aiohttp.TCPConnector(ssl=client)
        async with aiohttp.ClientSession(url, connector=connector) as session, session.post(CHAT, json=STREAM) as held:
            assert await held.content.readexactly(len(events[0])) == events[0]
            assert (await handshake(served, client))[2] == serial(first)

            files.certificate.write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
            async with session.post("/admin/config/reload") as response:
                error = (await response.json())["error"]
                assert (response.status, error["param"]) == (422, "server.tls.certificate")
            assert served.told(BROKEN) == 1
            assert (await handshake(served, client))[2] == serial(first)

            second = files.issue()
            served.process.send_signal(signal.SIGHUP)
            await eventually(lambda: served.told("the configuration was read again"), "the reload")
            assert served.lines[-1]["changed"] == ["server.tls.certificate", "server.tls.key"]
            assert (await handshake(served, client))[2] == serial(second)
            async with session.get("/metrics") as response:
                text = await response.text()
            assert 'hartonomous_config_reloads_total{outcome="failed"} 1.0' in text

            released.set()
            assert await held.read() == b"".join(events[1:])
        served.stop()
        assert await served.exit_code() == 0


async def test_only_modern_tls_is_spoken_and_plain_http_makes_no_noise(
    tmp_path: Path, files: Files, faulty: FaultBackend
) -> None:
    async with secure(tmp_path, files, faulty.url) as served:
        modern = files.client()
        assert (await handshake(served, modern))[0] == "TLSv1.3"
        modern.maximum_version = ssl.TLSVersion.TLSv1_2
        version, cipher, _ = await handshake(served, modern)
        assert version == "TLSv1.2"
        assert cipher.startswith("ECDHE-")
        for context in (_old(files.client()), _weak(files.client())):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await handshake(served, context)
        for sent in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03", b""):
            await asyncio.gather(*(_knock(served.port, sent) for _ in range(20)))
        assert (await handshake(served, modern))[0] == "TLSv1.2"
        assert {line["message"] for line in served.lines} <= USUAL | {FAILED}
        told = [line for line in served.lines if line["message"] == FAILED]
        assert {line["level"] for line in told} == {"INFO"}
        assert {line["reason"] for line in told} == {"refused", "not_tls"}
        failed = await _failures(served, files.client())
        assert failed["refused"] == 2
        assert failed["not_tls"] == 20
        assert len(told) <= 22

        await _let_only_known_clients_in(tmp_path, files, served)


async def _failures(served: Served, context: ssl.SSLContext) -> dict[str, int]:
    """Return how many handshakes failed, by reason."""
    url = f"https://127.0.0.1:{served.port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url, ssl=context) as response:
        text = await response.text()
    found = re.findall(r'hartonomous_tls_handshakes_failed_total\{reason="(\w+)"\} (\d+)', text)
    return {reason: int(count) for reason, count in found}


def _old(context: ssl.SSLContext) -> ssl.SSLContext:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    return context


def _weak(context: ssl.SSLContext) -> ssl.SSLContext:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-GCM-SHA256:ECDHE-RSA-AES128-SHA:ECDHE-ECDSA-AES128-SHA")
    return context


async def _let_only_known_clients_in(folder: Path, files: Files, served: Served) -> None:
    """Reload with a `client_ca`: from then on others are refused at the handshake."""
    ours, strangers = files.client(), files.client()
    files.authority.issue_cert("client@example.org").configure_cert(ours)
    trustme.CA().issue_cert("client@example.org").configure_cert(strangers)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["server"]["tls"] = files.section(client_ca=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    url = f"https://127.0.0.1:{served.port}"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=files.client())) as session:
        async with session.post(url + "/admin/config/reload") as response:
            assert (await response.json())["changed"] == ["server.tls.client_ca"]
        async with session.get(url + "/health") as response:
            assert response.status == 200  # over a connection from before
    for context in (strangers, files.client()):
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get(url + "/health")
    known = aiohttp.TCPConnector(ssl=ours)
    async with aiohttp.ClientSession(connector=known) as session, session.get(url + "/health") as response:
        assert response.status == 200


async def _knock(port: int, sent: bytes) -> None:
    """Say something that is no TLS, and leave when it is answered, or at once when it is no whole word."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    if len(sent) > 5:
        async with asyncio.timeout(10):
            with suppress(ConnectionError):
                await reader.read()
    writer.close()


def test_files_that_do_not_go_together_are_told_by_their_key(files: Files) -> None:
    whole = files.certificate.read_bytes()
    wrong = [
        (files.certificate, whole[:200], "server.tls.certificate", "holds no certificate"),
        (files.certificate, b"", "server.tls.certificate", "holds no certificate"),
        (files.key, b"none", "server.tls.key", "holds no private key"),
        (files.key, files.authority.issue_cert("x.org").private_key_pem.bytes(), "server.tls.key", "is not the key of"),
        (files.client_ca, b"none", "server.tls.client_ca", "holds no certificate"),
    ]
    for path, content, key, sentence in wrong:
        right = path.read_bytes()
        path.write_bytes(content)
        try:
            with pytest.raises(ConfigError) as failure:
                tls.read(Tls.model_validate(files.section(client_ca=True)))
        finally:
            path.write_bytes(right)
        assert failure.value.param == key
        assert failure.value.message.startswith(f"{key}: {path} {sentence}")
    files.key.unlink()
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        tls.read(files.config)


def test_an_expired_certificate_is_taken_with_a_warning(files: Files) -> None:
    ended = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    files.issue(not_after=ended)
    told: list[str] = []
    sink = log.logger.add(lambda message: told.append(message.record["message"]), level="WARNING")
    found = tls.read(files.config)
    found.warn()
    log.logger.remove(sink)
    assert (found.not_after, told) == (ended.timestamp(), ["the certificate has expired"])


def test_check_finds_a_broken_certificate(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"server": {"tls": files.section()}, "backends": backends("http://127.0.0.1:9")}))
    assert check.run(Namespace(config=path)) == 0
    files.certificate.write_bytes(files.key.read_bytes())
    assert check.run(Namespace(config=path)) == 2
    assert f"server.tls.certificate: {files.certificate} holds no certificate" in capsys.readouterr().err


async def test_no_session_is_resumed_so_no_key_opens_what_was_recorded(
    tmp_path: Path, files: Files, faulty: FaultBackend
) -> None:
    async with secure(tmp_path, files, faulty.url) as served:
        for newest in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2):
            context = files.client()
            context.maximum_version = newest
            assert await asyncio.to_thread(_tickets, served.port, context) is False


def _tickets(port: int, context: ssl.SSLContext) -> bool:
    """Whether a session got a ticket, after an answer: in TLS 1.3 they come behind the handshake."""
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        secured.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        while secured.recv(65_536):
            pass
        return secured.session is not None and secured.session.has_ticket


async def test_of_clients_with_certificates_only_those_of_the_authority_that_are_valid_come_in(
    tmp_path: Path, files: Files, faulty: FaultBackend
) -> None:
    tls = {"tls": files.section(client_ca=True)}
    audit = {"directory": str(tmp_path / "audit")}
    async with serving(tmp_path, server=tls, backends=backends(faulty.url), audit=audit) as served:
        url = f"https://127.0.0.1:{served.port}/health"
        valid = files.authority.issue_cert("client@example.org")
        async with _client(files, valid) as held, held.get(url) as response:
            assert response.status == 200
            ended = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
            stranger = trustme.CA()
            for wrong in (
                files.authority.issue_cert("client@example.org", not_after=ended),
                stranger.issue_cert("client@example.org"),
                stranger.create_child_ca().issue_cert("client@example.org"),
                None,
            ):
                async with _client(files, wrong) as session:
                    with pytest.raises(aiohttp.ClientError):
                        await session.get(url)
            async with held.get(url) as again:
                assert again.status == 200
        assert {line["message"] for line in served.lines} <= USUAL | {FAILED, "the audit trail goes on"}
        # Clients try again by themselves.
        told = [line["reason"] for line in served.lines if line["message"] == FAILED]
        assert set(told) == {"bad_certificate", "no_certificate"}
        trail = (tmp_path / "audit" / "audit-0.jsonl").read_text(encoding="utf-8").splitlines()
        noted = [record for record in map(json.loads, trail) if record["event"] == "authentication_failed"]
        assert [(record["code"], record["remote"]) for record in noted] == [(reason, "127.0.0.1") for reason in told]


def _client(files: Files, leaf: trustme.LeafCert | None) -> aiohttp.ClientSession:
    context = files.client()
    if leaf is not None:
        leaf.configure_cert(context)
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context))


def test_a_key_that_everybody_can_read_is_told(files: Files) -> None:
    told: list[str] = []
    sink = log.logger.add(lambda message: told.append(message.record["message"]), level="WARNING")
    tls.read(files.config).warn()
    assert not told
    files.key.chmod(0o644)
    tls.read(files.config).warn()
    log.logger.remove(sink)
    assert told == ["every user of this host can read the key of the certificate"]
