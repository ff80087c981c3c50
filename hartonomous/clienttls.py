"""TLS towards the backends, Redis and the collector of spans: who is believed, and our own certificate, tried at once.

Certificates of backends are always checked: their chain, their time and the host's name. With a `ca` those that it
signed are believed and no others; a certificate that stands there itself is believed as well.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from hartonomous.config import Config
from hartonomous.configfile import digest
from hartonomous.core.addresses import is_loopback
from hartonomous.errors import ConfigError
from hartonomous.log import logger
from hartonomous.security import ClientTls
from hartonomous.services import ModelService, Qdrant
from hartonomous.tls import CIPHERS, is_exposed, no_passphrase, problems


@dataclass(slots=True, frozen=True)
class Trust:
    """What connections to one service are made with: equal where its settings and the content of its files are.

    `digests` are of the files, by their key paths; `exposed` says that every user of this host can read our key.
    """

    settings: ClientTls
    digests: Mapping[str, bytes]
    context: ssl.SSLContext = field(compare=False)
    exposed: bool = field(default=False, compare=False)


Trusts = Mapping[str, Trust]
"""By the name of the service: those that are spoken to over TLS."""


def read(config: Config) -> dict[str, Trust]:
    """Read the files of every service with an address over TLS. It is work for a thread.

    Raises:
        ConfigError: one cannot be read, they do not go together, or there is no address that they were for.
    """
    return {
        name: _read(f"{path}.tls", tls) for name, path, urls, tls in _services(config) if _is_secure(path, urls, tls)
    }


def warn(config: Config, trusts: Trusts) -> None:
    """Log which of our keys are no secret: on this host, or on the way to a service."""
    for name, trust in trusts.items():
        if trust.exposed:
            logger.bind(service=name).warning("every user of this host can read our key for a service")
    keys = {"redis": config.redis.password, **{name: service.api_key for name, service in _backends(config)}}
    keys["tracing"] = next(iter(config.tracing.headers.values()), None)
    for name, _, urls, _ in _services(config):
        if keys[name] is not None and any(map(_is_overheard, urls)):
            logger.bind(service=name).warning("the key for a service goes over the network without TLS")


def _is_overheard(url: str) -> bool:
    """Whether others on the network can read what goes to an address."""
    parts = urlsplit(url)
    return parts.scheme in {"http", "redis"} and not is_loopback(parts.hostname or "")


def _services(config: Config) -> Iterator[tuple[str, str, tuple[str, ...], ClientTls]]:
    """Yield the name of each service, its key path, its addresses and its files."""
    for name, service in _backends(config):
        urls = (service.url,) if isinstance(service, Qdrant) else tuple(address.url for address in service.urls)
        yield name, f"backends.{name}", urls, service.tls
    if config.redis.url is not None:
        yield "redis", "redis", (config.redis.url,), config.redis.tls
    if config.tracing.endpoint is not None:
        yield "tracing", "tracing", (config.tracing.endpoint,), config.tracing.tls


def _backends(config: Config) -> Iterator[tuple[str, ModelService | Qdrant]]:
    for name in type(config.backends).model_fields:
        service = getattr(config.backends, name)
        if service is not None:
            yield name, service


def _is_secure(path: str, urls: tuple[str, ...], tls: ClientTls) -> bool:
    """Whether there is TLS to an address. Raises ConfigError: there is none, and yet there are files for it."""
    secure = any(url.startswith(("https://", "rediss://")) for url in urls)
    if not secure and tls != ClientTls():
        key = f"{path}.tls"
        raise ConfigError(f"{key}: there is no address over TLS: expected https:// (of Redis rediss://)", param=key)
    return secure


def _read(key: str, tls: ClientTls) -> Trust:
    files = {f"{key}.{name}": getattr(tls, name) for name in ("ca", "certificate", "key")}
    digests = {name: digest(name, path) for name, path in files.items() if path is not None}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    if tls.ca is None:
        context.load_default_certs()
    else:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        with problems(f"{key}.ca", tls.ca):
            context.load_verify_locations(tls.ca)
    exposed = _show(context, key, tls)
    return Trust(tls, digests, context, exposed)


def _show(context: ssl.SSLContext, key: str, tls: ClientTls) -> bool:
    """Let connections show our certificate, if there is one; return whether everybody here can read its key."""
    if tls.certificate is None or tls.key is None:
        return False
    with problems(f"{key}.certificate", tls.certificate):
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(tls.certificate)
    with problems(f"{key}.key", tls.key):
        context.load_cert_chain(tls.certificate, tls.key, password=no_passphrase)
        return is_exposed(tls.key)
