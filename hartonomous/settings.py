"""What a configuration file comes to: itself and the content of the files that it names, read and tried whole.

Two of them can be compared: a reload tells what changed, and what a running server cannot change.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hartonomous import clienttls, cparser, eventloop, tls, tracing
from hartonomous.config import Config
from hartonomous.configfile import digest, load, load_template
from hartonomous.core.template import Template
from hartonomous.errors import ConfigError
from hartonomous.fields import Section

TEMPLATE = "rag.generation.template"
TOKENIZER = "backends.embedding.tokenizer"

# What was done at the start: where the server listens, how it parses, on which loop, where it hears of reloads.
_FIXED = ("host", "port", "reuse_port", "admin", "mode", "event_loop", "runtime_directory")


@dataclass(slots=True, frozen=True)
class Settings:
    """A configuration, the prompt's texts, the certificate, and a digest of each file that counts by its key path.

    `trusts` are what connections over TLS to other services are made with.
    """

    config: Config
    template: Template
    certificate: tls.Certificate | None
    trusts: clienttls.Trusts
    digests: Mapping[str, bytes]

    def changes(self, old: Settings) -> list[str]:
        """Return the key paths whose values, or whose files' contents, are others than in `old`."""
        changed = dict.fromkeys(_differences(old.config, self.config))
        for path in {**old.digests, **self.digests}:
            if old.digests.get(path) != self.digests.get(path) and not _is_covered(path, changed):
                changed[path] = None
        return sorted(changed)

    def bound_by(self, old: Settings) -> tuple[Settings, list[str]]:
        """Return these settings with what only a restart changes as it is in `old`, and the key paths of that.

        Raises:
            ConfigError: together they would open a server without keys to other hosts.
        """
        before, after = old.config.server, self.config.server
        fixed = [name for name in _FIXED if getattr(before, name) != getattr(after, name)]
        kept: dict[str, Any] = {name: getattr(before, name) for name in fixed}
        certificate, digests = self.certificate, self.digests
        if (before.tls is None) != (after.tls is None):
            fixed.append("tls")
            kept["tls"] = before.tls
            certificate = old.certificate
            digests = _but_tls(self.digests) | _tls(old.digests)
        server = after.model_copy(update=kept)
        config = self.config.model_copy(update={"server": server, "audit": old.config.audit})
        audit = [f"audit.{name}" for name in _differences(old.config.audit, self.config.audit)]
        if not config.auth.keys and not server.is_loopback:
            raise ConfigError("auth.keys: the last key can be taken away at a restart alone", param="auth.keys")
        paths = sorted([*audit, *(f"server.{name}" for name in fixed)])
        return replace(self, config=config, certificate=certificate, digests=digests), paths


def read(path: Path, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read a configuration file and what it names. It is work for a thread.

    Raises:
        ConfigError: something cannot be read, or is wrong.
    """
    return complete(load(path, environ))


def complete(config: Config) -> Settings:
    """Read what a configuration names. Raises ConfigError."""
    cparser.check(config.server)
    eventloop.check(config.server)
    tracing.check(config.tracing)
    if config.redis.url is not None:
        import redis.asyncio  # noqa: F401 - takes 0.1 s, which is nothing for the event loop of a reload
    generation, certificate = config.rag.generation, config.server.tls
    template = load_template(generation.template)
    served = None if certificate is None else tls.read(certificate)
    files = {TEMPLATE: generation.template, TOKENIZER: config.backends.embedding.tokenizer}
    digests = {name: digest(name, path) for name, path in files.items() if path is not None}
    trusts = clienttls.read(config)
    for read_for in (served, *trusts.values()):
        digests |= {} if read_for is None else read_for.digests
    return Settings(config, template, served, trusts, digests)


def _differences(old: Section, new: Section, path: str = "") -> Iterator[str]:
    """Yield the key paths of what differs: of a section that is there in both, its keys; else its own."""
    for name in type(new).model_fields:
        before, after, here = getattr(old, name), getattr(new, name), f"{path}{name}"
        if isinstance(before, Section) and type(before) is type(after):
            yield from _differences(before, after, f"{here}.")
        elif before != after:
            yield here


def _is_covered(path: str, changed: Mapping[str, None]) -> bool:
    return any(path == other or path.startswith(f"{other}.") for other in changed)


def _tls(digests: Mapping[str, bytes]) -> dict[str, bytes]:
    return {path: digest for path, digest in digests.items() if path.startswith("server.tls.")}


def _but_tls(digests: Mapping[str, bytes]) -> dict[str, bytes]:
    return {path: digest for path, digest in digests.items() if not path.startswith("server.tls.")}
