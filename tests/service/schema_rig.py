"""What the tests of collections share: a pool and a `Schema` over the store under test, and calls past them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import orjson
import pytest

from hartonomous.clients import collections
from hartonomous.clients.pool import Pool
from hartonomous.clients.schema import Schema
from hartonomous.core.access import EVERYTHING
from hartonomous.core.call import Call
from hartonomous.core.deadline import Deadline
from hartonomous.core.fingerprint import EmbeddingFingerprint
from hartonomous.metrics import Metrics
from hartonomous.services import Collections, Qdrant
from tests.service.vector_store import drop_collection

TINY = EmbeddingFingerprint("tiny", 4, "query: ", "")
OTHER = EmbeddingFingerprint("other", 8, "", "")


def call(seconds: float = 60.0) -> Call:
    """Return a call with so much time left."""
    return Call("test", Deadline(seconds), {"X-Request-ID": "test"}, EVERYTHING)


class Killed(BaseException):
    """What stands for `kill -9` between two calls to the store: nothing catches it."""


_INDEXING: Sequence[tuple[Any, tuple[str, ...]]] = ((collections, ("create_index",)),)
_CHANGES: Sequence[tuple[Any, tuple[str, ...]]] = (
    (collections, ("create_collection",)),
    (collections.Collections, ("point", "delete", "set_mark")),
)


class Store:
    """The vector store: plain REST past `Schema`, and schemas of any number of processes."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    @property
    def url(self) -> str:
        """The address of the store."""
        return self.pool.replicas[0].url

    def schema(self, **settings: Any) -> Schema:
        """Return a schema of its own, as another process has it, with these settings of collections."""
        return Schema(self.pool, Qdrant(url=self.url, collections=Collections(**settings)))

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request and return the result."""
        data = None if body is None else orjson.dumps(body)
        return orjson.loads((await self.pool.request(method, path, call(), data)).body)["result"]

    async def put(self, name: str, **body: Any) -> None:
        """Make a collection as somebody else would, or an earlier version."""
        vectors = {"dense": {"size": 4, "distance": "Cosine"}}
        sparse = {"sparse": {"modifier": "idf"}}
        await self.ask("PUT", f"/collections/{name}", {"vectors": vectors, "sparse_vectors": sparse} | body)

    async def names(self, collection: str) -> list[str]:
        """Return the physical collections of this one, and itself if it is one."""
        names = [entry["name"] for entry in (await self.ask("GET", "/collections"))["collections"]]
        return sorted(name for name in names if name.partition("@")[0] == collection)

    async def target(self, alias: str) -> str | None:
        """Return what an alias stands for."""
        aliases = (await self.ask("GET", "/aliases"))["aliases"]
        return next((item["collection_name"] for item in aliases if item["alias_name"] == alias), None)

    async def point(self, alias: str, name: str) -> None:
        """Let an alias stand for a collection."""
        action = {"create_alias": {"alias_name": alias, "collection_name": name}}
        await self.ask("POST", "/collections/aliases", {"actions": [action]})

    async def fill(self, name: str, *numbers: int) -> None:
        """Write points."""
        points = [{"id": number, "vector": {}, "payload": {"n": number}} for number in numbers]
        await self.ask("PUT", f"/collections/{name}/points?wait=true", {"points": points})

    async def ids(self, name: str) -> list[int]:
        """Return the ids of a collection's points."""
        page = await self.ask("POST", f"/collections/{name}/points/scroll", {"limit": 100})
        return [point["id"] for point in page["points"]]

    async def mark(self, name: str) -> dict[str, Any]:
        """Return what Hartonomous wrote about a collection."""
        mark: dict[str, Any] = (await self.ask("GET", f"/collections/{name}"))["config"]["metadata"]["hartonomous"]
        return mark


def ours(**changes: Any) -> dict[str, Any]:
    """Return the metadata that version 1 wrote, with these changes of the mark."""
    return {"hartonomous": {"schema": 1, "fingerprint": TINY.as_dict(), "language": "english", **changes}}


@contextmanager
def killed_before(change: int, *, indexing: bool = True) -> Iterator[list[str]]:
    """Let the process end before its `change`-th change of the store, counted from 0; yields what it has changed.

    The indexes of a collection are a change each, or with its making one.
    """
    done: list[str] = []

    def counted(name: str, real: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def wrapper(*arguments: Any, **options: Any) -> Any:
            if len(done) == change:
                raise Killed
            done.append(name)
            return await real(*arguments, **options)

        return wrapper

    with pytest.MonkeyPatch.context() as patch, suppress(Killed):
        for owner, names in (*_CHANGES, *(_INDEXING if indexing else ())):
            for name in names:
                patch.setattr(owner, name, counted(name, getattr(owner, name)))
        yield done


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def pool(vector_url: str, metrics: Metrics) -> AsyncIterator[Pool]:
    pool = Pool("qdrant", (vector_url,), Qdrant(url=vector_url), metrics)
    yield pool
    await pool.close()


@pytest.fixture
async def name(vector_url: str, collection_name: str) -> AsyncIterator[str]:
    """A collection that does not exist, and is gone after the test."""
    yield collection_name
    await drop_collection(vector_url, collection_name)


@pytest.fixture
def store(pool: Pool) -> Store:
    return Store(pool)


@pytest.fixture
def schema(store: Store) -> Schema:
    return store.schema()
