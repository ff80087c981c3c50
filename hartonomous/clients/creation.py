"""Making collections and indexes with qdrant-client, which is imported only here and only then (0.6 s, 54 MB).

A client lives for one collection's making. What it raises, and httpx below it, leaves as one of our errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from hartonomous.clients.status import raise_for_status
from hartonomous.config import Qdrant
from hartonomous.core.call import Call
from hartonomous.errors import BackendError, BackendUnavailableError, DeadlineExceededError, HartonomousError

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient


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
    client: AsyncQdrantClient, collection: str, dimension: int, metadata: Mapping[str, Any]
) -> None:
    """Create a collection of `dense` and `sparse` vectors; that somebody else has created it meanwhile is fine."""
    from qdrant_client import models
    from qdrant_client.http.exceptions import UnexpectedResponse

    dense = models.VectorParams(size=dimension, distance=models.Distance.COSINE)
    sparse = models.SparseVectorParams(modifier=models.Modifier.IDF)
    try:
        await client.create_collection(
            collection,
            vectors_config={"dense": dense},
            sparse_vectors_config={"sparse": sparse},
            metadata=dict(metadata),
        )
    except UnexpectedResponse as error:
        if error.status_code != 409:
            raise


async def create_index(client: AsyncQdrantClient, collection: str, field: str, kind: str) -> None:
    """Create the index of a payload field; `kind` as Qdrant calls it. One that is there stays as it is."""
    from qdrant_client import models

    await client.create_payload_index(collection, field, models.PayloadSchemaType(kind), wait=True)


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
