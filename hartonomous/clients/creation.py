"""Making collections and indexes as configured, and what their settings mean for writes.

Plain REST over the pool like everything else: qdrant-client would do the same calls, but importing it costs the process
54 MB that it never gives back.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from hartonomous import codec
from hartonomous.clients.failures import BackendRefusedError
from hartonomous.clients.pool import Pool
from hartonomous.clients.qdrant import ask
from hartonomous.clients.reach import path_to
from hartonomous.core.call import Call
from hartonomous.errors import ConflictError
from hartonomous.services import Collections, Qdrant

# The small vectors in memory; the range of int8 without the hundredth of outliers.
_QUANTIZATION: Mapping[str, Any] = MappingProxyType(
    {
        "none": None,
        "scalar": {"scalar": {"type": "int8", "quantile": 0.99, "always_ram": True}},
        "binary": {"binary": {"always_ram": True}},
    }
)


def write_options(config: Qdrant) -> str:
    """Return the query of every write: answered when it is durable, and where there are replicas in the same order on
    all of them, without which a replacement of a document could be half undone on one."""
    ordering = config.write_ordering or (None if config.collections.replicas in (None, 1) else "strong")
    return "wait=true" if ordering is None else f"wait=true&ordering={ordering}"


async def create_collection(
    pool: Pool, collection: str, dimension: int, metadata: Mapping[str, Any], settings: Collections, call: Call
) -> bool:
    """Create a collection of `dense` and `sparse` vectors; return False when somebody else has created it meanwhile.

    Raises what `Pool.request` raises.
    """
    body = codec.dumps(_description(dimension, metadata, settings))
    try:
        return bool(await ask(pool, "PUT", path_to(collection, call), call, body))
    except ConflictError:
        return False


def _description(dimension: int, metadata: Mapping[str, Any], settings: Collections) -> dict[str, Any]:
    dense: dict[str, Any] = {"size": dimension, "distance": "Dot" if settings.distance == "dot" else "Cosine"}
    sparse: dict[str, Any] = {"modifier": "idf"}
    if settings.on_disk:
        dense["on_disk"] = True
        sparse["index"] = {"on_disk": True}
    optional = {
        "quantization_config": _QUANTIZATION[settings.quantization],
        "shard_number": settings.shards,
        "replication_factor": settings.replicas,
        "write_consistency_factor": settings.write_consistency,
    }
    return {
        "vectors": {"dense": dense},
        "sparse_vectors": {"sparse": sparse},
        "metadata": dict(metadata),
        **{name: value for name, value in optional.items() if value is not None},
    }


async def create_index(pool: Pool, collection: str, field: str, kind: str, call: Call) -> bool:
    """Create the index of a payload field; `kind` as Qdrant calls it. One that is there stays as it is.

    Returns False when the store does not take a field of this name. Raises what `Pool.request` raises.
    """
    body = codec.dumps({"field_name": field, "field_schema": kind})
    try:
        await ask(pool, "PUT", path_to(collection, call, "/index?wait=true"), call, body)
    except BackendRefusedError:
        return False
    return True
