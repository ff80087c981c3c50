"""TLS of the listening socket: files that are checked before they serve, and that can be exchanged while it serves.

TLS 1.2 and 1.3 with the cipher suites of Mozilla's intermediate profile (5.7, https://wiki.mozilla.org/Security/
Server_Side_TLS). A connection keeps the certificate of its own handshake; the next handshake is made with the newest.

There are no session tickets: one key would open all of them until the next reload, and with it what was recorded of TLS
1.2. There is no HSTS: it would hold for every port of the host, and here none answers plain HTTP.
"""

from __future__ import annotations

import ssl
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from hartonomous.configfile import digest
from hartonomous.errors import ConfigError
from hartonomous.log import logger
from hartonomous.security import Tls

# Of TLS 1.2; those of 1.3 are OpenSSL's own, which are the profile's.
CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
# X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which `ssl` has no name for: an expired certificate is to be read as well.
_ANY_TIME = 0x200000


@dataclass(slots=True, frozen=True)
class Certificate:
    """Files that were read and go together: what makes handshakes with them, and a digest of each file by its key.

    `not_before` and `not_after` are Unix times in seconds. `exposed`: every user of this host can read the key.
    """

    context: ssl.SSLContext
    digests: dict[str, bytes]
    not_before: float
    not_after: float
    exposed: bool = False

    def warn(self) -> None:
        """Log that the certificate is not valid now, or its key no secret: it serves all the same, better than none."""
        if self.exposed:
            logger.warning("every user of this host can read the key of the certificate")
        if not self.not_before <= time.time() < self.not_after:
            expired = time.time() >= self.not_after
            logger.warning("the certificate has expired" if expired else "the certificate is not valid yet")


class ServingContext(ssl.SSLContext):
    """What the listening socket holds for its whole life: each handshake is made with the `certificate` of the moment.

    To exchange the files of one context would add to it: certificates of another kind of key and client authorities
    would stay beside the new ones.
    """

    certificate: Certificate

    @classmethod
    def of(cls, certificate: Certificate) -> Self:
        """Return a context that begins with this certificate."""
        serving = cls(ssl.PROTOCOL_TLS_SERVER)
        serving.certificate = certificate
        return serving

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        """Begin a connection: what asyncio calls for each one."""
        return self.certificate.context.wrap_bio(*args, **options)


def read(config: Tls) -> Certificate:
    """Read the files and try them in a handshake. It is work for a thread.

    Raises:
        ConfigError: one cannot be read, they do not go together, or no client could accept the certificate.
    """
    files = {"certificate": config.certificate, "key": config.key, "client_ca": config.client_ca}
    named = {f"server.tls.{name}": path for name, path in files.items() if path is not None}
    digests = {key: digest(key, path) for key, path in named.items()}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    with problems("server.tls.certificate", config.certificate):
        leaf = _trusting(config.certificate)
    with problems("server.tls.key", config.key):
        context.load_cert_chain(config.certificate, config.key, password=no_passphrase)
        exposed = is_exposed(config.key)
    with problems("server.tls.certificate", config.certificate):
        not_before, not_after = _validity(context, leaf)
    if config.client_ca is not None:
        with problems("server.tls.client_ca", config.client_ca):
            context.load_verify_locations(config.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    return Certificate(context, digests, not_before, not_after, exposed)


def _trusting(certificate: Path) -> ssl.SSLContext:
    """Return the context of a client that trusts exactly what stands in this file."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.verify_flags = ssl.VerifyFlags(client.verify_flags | _ANY_TIME)
    client.load_verify_locations(certificate)
    return client


def _validity(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[float, float]:
    """Return from when until when the certificate is valid, as a client finds it in a handshake in memory."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(back, there)
    answering = server.wrap_bio(there, back, server_side=True)
    for side in (asking, answering, asking, answering, asking):  # the last one is for TLS 1.2
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    found: dict[str, Any] = asking.getpeercert() or {}
    return ssl.cert_time_to_seconds(found["notBefore"]), ssl.cert_time_to_seconds(found["notAfter"])


@contextmanager
def problems(key: str, path: Path) -> Iterator[None]:
    """Turn what goes wrong with a PEM file into a ConfigError; `key` is the key path that names it."""
    try:
        yield
    except ssl.SSLError as error:
        another = error.reason == "KEY_VALUES_MISMATCH"
        expected = _EXPECTED.get(key, _EXPECTED[key.rpartition(".")[2]])
        raise _wrong(key, path, "is not the key of the certificate" if another else expected) from error
    except OSError as error:
        raise _wrong(key, path, f"cannot be read: {error.strerror}") from error


_NO_CERTIFICATE = "holds no certificate in PEM form"
# By the key path, or the end of one.
_EXPECTED = {
    "server.tls.certificate": f"{_NO_CERTIFICATE} that a client could accept",
    "certificate": _NO_CERTIFICATE,
    "key": "holds no private key in PEM form, or one with a passphrase",
    "client_ca": _NO_CERTIFICATE,
    "ca": _NO_CERTIFICATE,
}


def no_passphrase() -> str:
    """Return nothing: without this OpenSSL would ask the terminal, and the server would wait for it."""
    return ""


def is_exposed(key: Path) -> bool:
    """Whether every user of this host can read a file. Raises OSError."""
    return bool(key.stat().st_mode & stat.S_IROTH)


def _wrong(key: str, path: Path, what: str) -> ConfigError:
    return ConfigError(f"{key}: {path} {what}", param=key)
