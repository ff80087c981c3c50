"""An application with keys: those of three tenants, an operator and a few that may do little, each with a client.

`async with keyed(rigs) as it:` is a rig whose `it.a`, `it.b`, `it.c` and `it.operator` are its application as a tenant
or the operator asks it, and work with everything that takes a `RunningApp`: `await ingest(it.a, "…", collection=
it.keys.a.collection)`. `it.rig.app` asks without a key. What the tenants ingest is dropped at the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp

from hartonomous.core import apikey
from hartonomous.core.access import SCOPES, Scope
from tests.service.application import RunningApp, merged
from tests.service.rag import Rig, RigMaker
from tests.service.vector_store import drop_collection

PEPPER = "pepper-of-the-tests-0123456789"
TENANT: tuple[Scope, ...] = ("query", "ingest")


@dataclass(slots=True, frozen=True)
class Key:
    """A key and what it may do; `secret` makes another key of the same id."""

    id: str
    scopes: tuple[Scope, ...] = ()
    collections: tuple[str, ...] = ()
    secret: str = "the one of the tests"
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The key itself."""
        return apikey.make(self.id, hashlib.sha256(f"{self.id} {self.secret}".encode()).digest())

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a request with this key."""
        return {"Authorization": f"Bearer {self.text}"}

    @property
    def entry(self) -> dict[str, Any]:
        """What stands in the configuration, below `auth.keys`."""
        hashed = apikey.hashed(self.text, PEPPER.encode())
        return {"id": self.id, "hash": hashed, "scopes": self.scopes, "collections": self.collections, **self.options}

    @property
    def collection(self) -> str:
        """The name of a collection that the key reaches and no other test uses."""
        pattern = self.collections[0]
        return f"{pattern[:-1]}docs" if pattern.endswith("*") else pattern


class Keys:
    """The keys of one test: their collections carry `mark`, which is its own."""

    def __init__(self, mark: str | None = None) -> None:
        self.mark = mark or uuid4().hex[:12]
        self.a = Key("tenant-a", TENANT, (f"a-{self.mark}-*",))
        self.b = Key("tenant-b", TENANT, (f"b-{self.mark}-*",))
        self.c = Key("tenant-c", TENANT, (f"c-{self.mark}",))
        self.operator = Key("operator", tuple(sorted(SCOPES)), ("*",))
        self.metrics = Key("only-metrics", ("metrics",))
        self.powerless = Key("powerless", (), ("*",))

    def __iter__(self) -> Iterator[Key]:
        return iter((self.a, self.b, self.c, self.operator, self.metrics, self.powerless))

    def section(self, *more: Key, **changes: Any) -> dict[str, Any]:
        """Return the section `auth` with these keys and more; `changes` are its other settings."""
        return auth_section(*self, *more, **changes)


def auth_section(*keys: Key, **changes: Any) -> dict[str, Any]:
    """Return the section `auth` with these keys; `changes` are its other settings."""
    return {"pepper": PEPPER, "keys": tuple(key.entry for key in keys), **changes}


@dataclass(slots=True)
class KeyedRig:
    """A rig and its application as each of the keys asks it."""

    rig: Rig
    keys: Keys
    a: RunningApp
    b: RunningApp
    c: RunningApp
    operator: RunningApp


@asynccontextmanager
async def keyed(
    rigs: RigMaker, path: Path | None = None, /, *, more: tuple[Key, ...] = (), **changes: Any
) -> AsyncIterator[KeyedRig]:
    """Start a rig with the keys of `Keys` and `more`; sections given are put over the tests' configuration."""
    keys = Keys()
    sections = merged({"auth": keys.section(*more)}, changes)
    async with AsyncExitStack() as stack:
        rig = await stack.enter_async_context(rigs.make(path, **sections))
        stack.push_async_callback(_drop, rig.config.backends.qdrant.url, keys)
        tenants = [
            await stack.enter_async_context(asking(rig.app, key)) for key in (keys.a, keys.b, keys.c, keys.operator)
        ]
        yield KeyedRig(rig, keys, *tenants)


@asynccontextmanager
async def asking(app: RunningApp, key: Key) -> AsyncIterator[RunningApp]:
    """Yield the application as this key asks it."""
    async with aiohttp.ClientSession(headers=key.headers) as session:
        yield RunningApp(app.app, app.url, session)


async def _drop(url: str, keys: Keys) -> None:
    """Drop what the tenants of this test have made."""
    async with aiohttp.ClientSession(url) as session, session.get("/collections") as response:
        names = {entry["name"].partition("@")[0] for entry in (await response.json())["result"]["collections"]}
    for name in names:
        if keys.mark in name:
            await drop_collection(url, name)
