"""Making collections and indexes with qdrant-client, which is imported only here and only then (0.6 s, 54 MB).

A client lives for one collection's making. What it raises, and httpx below it, leaves as one of our errors. What the
settings of collections mean for writes and searches stands here as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hartonomous.clients.status import raise_for_status
from hartonomous.config import Collections, Qdrant
from hartonomous.core.call import Call
from hartonomous.errors import BackendError, BackendUnavailableError, DeadlineExceededError, HartonomousError

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient
    from qdrant_client.models import BinaryQuantization, ScalarQuantization

RESCORED: Mapping[str, Any] = MappingProxyType({"quantization": {"rescore": True, "oversampling": 3.0}})
"""The `params` of a search: of quantised vectors three times as many are looked at, and scored by the vectors as they
were written (by default Qdrant scores scalar ones as they are). It changes nothing where nothing is quantised."""


def write_options(settings: Collections) -> str:
    """Return the query of every write: answered when it is durable, and with replicas in the same order on all of them.

    Otherwise of two ingests of one document each might win on another replica. How many replicas a store makes of its
    own accord is not known here: a cluster's default of more than one has to be named in the configuration.
    """
    return "wait=true" if settings.replicas in (None, 1) else "wait=true&ordering=strong"


@asynccontextmanager
async def open_client(config: Qdrant, call: Call) -> AsyncIterator[AsyncQdrantClient]:
    """Open qdrant-client for a few calls within the deadline.

    Raises BackendError, BackendUnavailableError, DeadlineExceededError and what `clients.status` makes of a status.
    """
    try:
        async with asyncio.timeout(call.deadline.bound(config.timeout_s)):
            client = await asyncio.to_thread(_client, config, call)
            try:
                yield client
            finally:
                await client.close()
    except HartonomousError:
        raise
    except TimeoutError as error:
        raise DeadlineExceededError("The qdrant service did not answer in time.") from error
    except Exception as error:
        raise _ours(error) from error


async def create_collection(
    client: AsyncQdrantClient, collection: str, dimension: int, metadata: Mapping[str, Any], settings: Collections
) -> bool:
    """Create a collection of `dense` and `sparse` vectors; return False when somebody else has created it meanwhile."""
    from qdrant_client import models
    from qdrant_client.http.exceptions import UnexpectedResponse

    on_disk = True if settings.on_disk else None
    distance = models.Distance.DOT if settings.distance == "dot" else models.Distance.COSINE
    index = models.SparseIndexParams(on_disk=True) if on_disk else None
    try:
        await client.create_collection(
            collection,
            vectors_config={"dense": models.VectorParams(size=dimension, distance=distance, on_disk=on_disk)},
            sparse_vectors_config={"sparse": models.SparseVectorParams(modifier=models.Modifier.IDF, index=index)},
            quantization_config=_quantization(settings.quantization),
            shard_number=settings.shards,
            replication_factor=settings.replicas,
            write_consistency_factor=settings.write_consistency,
            metadata=dict(metadata),
        )
    except UnexpectedResponse as error:
        if error.status_code != 409:
            raise
        return False
    return True


def _quantization(kind: str) -> ScalarQuantization | BinaryQuantization | None:
    """Return Qdrant's settings: the small vectors in memory, the range of int8 without the hundredth of outliers."""
    from qdrant_client import models

    if kind == "scalar":
        scalar = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
        return models.ScalarQuantization(scalar=scalar)
    if kind == "binary":
        return models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
    return None


async def create_index(client: AsyncQdrantClient, collection: str, field: str, kind: str) -> bool:
    """Create the index of a payload field; `kind` as Qdrant calls it. One that is there stays as it is.

    Returns False when the store does not take a field of this name.
    """
    from qdrant_client import models
    from qdrant_client.http.exceptions import UnexpectedResponse

    try:
        await client.create_payload_index(collection, field, models.PayloadSchemaType(kind), wait=True)
    except UnexpectedResponse as error:
        if error.status_code != 400:
            raise
        return False
    return True


def _client(config: Qdrant, call: Call) -> AsyncQdrantClient:
    """Import qdrant-client and make its client; blocking."""
    import httpx
    from qdrant_client import AsyncQdrantClient

    # As a header, the key brings no warning about plain HTTP, which is right on a loopback address.
    key = {} if config.api_key is None else {"api-key": config.api_key.get_secret_value()}
    # Without limits of ours the client keeps no connection to a loopback address alive. No proxy from the environment.
    options: dict[str, Any] = {"limits": httpx.Limits(max_connections=2), "trust_env": False}
    url = config.url
    if url.startswith("unix:"):
        options["transport"] = httpx.AsyncHTTPTransport(uds=url.removeprefix("unix:"))
        url = "http://localhost"
    return AsyncQdrantClient(
        url=url,
        port=None,
        prefer_grpc=False,
        check_compatibility=False,
        timeout=max(1, round(config.timeout_s)),
        headers={**call.headers, **key},
        **options,
    )


def _ours(error: Exception) -> HartonomousError:
    """Return the error of ours for one that qdrant-client raised."""
    import httpx
    from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    if isinstance(error, UnexpectedResponse):
        try:
            raise_for_status("qdrant", error.status_code or 500, error.content, error.headers)
        except HartonomousError as ours:
            return ours
    if isinstance(error, ResourceExhaustedResponse):
        return BackendUnavailableError("The qdrant service is not available.", retry_after=1)
    source = error.source if isinstance(error, ResponseHandlingException) else error
    if isinstance(source, httpx.ConnectError | httpx.ConnectTimeout):
        return BackendUnavailableError("The qdrant service cannot be reached.", retry_after=1)
    if isinstance(source, httpx.TimeoutException):
        return DeadlineExceededError("The qdrant service did not answer in time.")
    if isinstance(source, httpx.TransportError):
        return BackendError("The qdrant service broke the connection off.")
    return BackendError("The qdrant service gave an answer that is not Qdrant's.")
