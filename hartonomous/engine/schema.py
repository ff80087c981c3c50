"""Collection parameters: Qdrant's create request to the engine's configuration, and back as `result.config`.

What the engine cannot do (multivectors, its own journal's size) is refused by name. Shards, replicas and write
consistency are kept and reported, as a single Qdrant does: all of them are this one process (`quantization` tells why
quantisation is as well).
Vectors are searched by full scan, which is exact, unless the collection asks for an HNSW index with
`optimizers_config.indexing_threshold` (kilobytes, above 0): building one holds the whole process (see `optimizing`).
"""

from __future__ import annotations

from typing import Any

import qdrant_edge as edge

from hartonomous.engine import quantization
from hartonomous.engine.refusal import (
    count,
    fields,
    flag,
    invalid,
    join,
    malformed,
    number,
    obj,
    text,
    unsupported,
)
from hartonomous.engine.values import VectorSchema

_CREATE = frozenset(
    {
        "vectors",
        "sparse_vectors",
        "shard_number",
        "replication_factor",
        "write_consistency_factor",
        "on_disk_payload",
        "hnsw_config",
        "optimizers_config",
        "quantization_config",
        "metadata",
    }
)
_CLUSTER = ("shard_number", "replication_factor", "write_consistency_factor")
_VECTOR = frozenset({"size", "distance", "on_disk", "datatype", "hnsw_config", "quantization_config"})
_SPARSE = frozenset({"index", "modifier"})
_SPARSE_INDEX = frozenset({"full_scan_threshold", "on_disk", "datatype"})
_HNSW: dict[str, Any] = {
    "m": 16,
    "ef_construct": 100,
    "full_scan_threshold": 10000,
    "max_indexing_threads": 0,
    "on_disk": False,
    "payload_m": None,
}
_OPTIMIZERS = frozenset(
    {
        "deleted_threshold",
        "vacuum_min_vector_number",
        "default_segment_number",
        "max_segment_size",
        "indexing_threshold",
    }
)
_DISTANCES = {
    "Cosine": edge.Distance.Cosine,
    "Euclid": edge.Distance.Euclid,
    "Dot": edge.Distance.Dot,
    "Manhattan": edge.Distance.Manhattan,
}
_DATATYPES = {
    "float32": edge.VectorStorageDatatype.Float32,
    "float16": edge.VectorStorageDatatype.Float16,
    "uint8": edge.VectorStorageDatatype.Uint8,
}
MAX_SIZE = 65536
# A threshold that no segment reaches, in kilobytes.
_NEVER = 2**40


def validate(value: Any) -> dict[str, Any]:
    """Check a create request and return what of it is kept, `quantization` only where it was asked for."""
    body = _set(fields(value, _CREATE))
    kept = {
        "params": _params(body),
        "hnsw": _hnsw(body.get("hnsw_config"), "hnsw_config"),
        "optimizers": _optimizers(body.get("optimizers_config"), "optimizers_config"),
        "metadata": obj(body["metadata"], "metadata") if "metadata" in body else None,
    }
    if "quantization_config" in body:
        kept["quantization"] = quantization.config(body["quantization_config"], "quantization_config")
    return kept


def _params(body: dict[str, Any]) -> dict[str, Any]:
    params: dict[str, Any] = {"vectors": _vectors(body.get("vectors"))}
    if "sparse_vectors" in body:
        sparse = obj(body["sparse_vectors"], "sparse_vectors")
        params["sparse_vectors"] = {name: _sparse(item, join("sparse_vectors", name)) for name, item in sparse.items()}
    if not params["vectors"] and not params.get("sparse_vectors"):
        raise unsupported("a collection without `vectors` and `sparse_vectors`")
    if "on_disk_payload" in body:
        params["on_disk_payload"] = flag(body["on_disk_payload"], "on_disk_payload")
    return params | {name: count(body[name], name, minimum=1) for name in _CLUSTER if name in body}


def _set(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}


def _vectors(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    body = obj(value, "vectors")
    if "size" in body and type(body["size"]) is not dict:
        return _vector(body, "vectors")
    return {name: _vector(item, join("vectors", name)) for name, item in body.items()}


def _vector(value: Any, where: str) -> dict[str, Any]:
    body = _set(fields(value, _VECTOR, where))
    size = count(body.get("size"), join(where, "size"))
    if size == 0:
        raise malformed(f"{join(where, 'size')}: expected a positive integer")
    if size > MAX_SIZE:
        raise invalid(f"[{join(where, 'size')}: value {size} invalid, must be from 1 to {MAX_SIZE}]")
    _one_of(body.get("distance"), _DISTANCES, join(where, "distance"))
    if "datatype" in body:
        _one_of(body["datatype"], _DATATYPES, join(where, "datatype"))
    if "on_disk" in body:
        flag(body["on_disk"], join(where, "on_disk"))
    if "hnsw_config" in body:
        body["hnsw_config"] = _hnsw(body["hnsw_config"], join(where, "hnsw_config"))
    if "quantization_config" in body:
        at = join(where, "quantization_config")
        body["quantization_config"] = quantization.config(body["quantization_config"], at)
    return body


def _sparse(value: Any, where: str) -> dict[str, Any]:
    body = _set(fields(value, _SPARSE, where))
    if "modifier" in body and text(body["modifier"], join(where, "modifier")) not in ("none", "idf"):
        raise malformed(f"{join(where, 'modifier')}: expected `none` or `idf`")
    if "index" in body:
        at = join(where, "index")
        index = body["index"] = _set(fields(body["index"], _SPARSE_INDEX, at))
        if "full_scan_threshold" in index:
            count(index["full_scan_threshold"], join(at, "full_scan_threshold"))
        if "on_disk" in index:
            flag(index["on_disk"], join(at, "on_disk"))
        if "datatype" in index:
            _one_of(index["datatype"], _DATATYPES, join(at, "datatype"))
    return body


def _one_of(value: Any, choices: dict[str, Any], where: str) -> None:
    if text(value, where) not in choices:
        raise malformed(f"{where}: expected one of {', '.join(choices)}")


def _hnsw(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    body = _set(fields(value, frozenset(_HNSW), where))
    for name, item in body.items():
        if name == "on_disk":
            flag(item, join(where, name))
        else:
            count(item, join(where, name), minimum=4 if name == "ef_construct" else 0)
    return body


def _optimizers(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    body = _set(fields(value, _OPTIMIZERS, where))
    for name, item in body.items():
        if name == "deleted_threshold":
            number(item, join(where, name))
        else:
            count(item, join(where, name))
    return body


def vector_schema(kept: dict[str, Any]) -> VectorSchema:
    """Return the vectors of a collection by name."""
    return VectorSchema(
        {name: item["size"] for name, item in _by_name(kept).items()},
        frozenset(kept["params"].get("sparse_vectors", {})),
    )


def _by_name(kept: dict[str, Any]) -> dict[str, Any]:
    vectors: dict[str, Any] = kept["params"]["vectors"]
    return {"": vectors} if type(vectors.get("size")) is int else vectors


def edge_config(kept: dict[str, Any]) -> edge.EdgeConfig:
    """Return the engine's configuration of a collection."""
    return edge.EdgeConfig(
        vectors={name: _edge_vector(item) for name, item in _by_name(kept).items()} or None,
        sparse_vectors={name: _edge_sparse(item) for name, item in kept["params"].get("sparse_vectors", {}).items()}
        or None,
        on_disk_payload=kept["params"].get("on_disk_payload", True),
        hnsw_config=_edge_hnsw(kept["hnsw"]),
        optimizers=edge.EdgeOptimizersConfig(
            **{**kept["optimizers"], "indexing_threshold": kept["optimizers"].get("indexing_threshold") or _NEVER}
        ),
    )


def _edge_hnsw(body: dict[str, Any]) -> edge.HnswIndexConfig:
    return edge.HnswIndexConfig(**{**_HNSW, **body})


def _edge_vector(body: dict[str, Any]) -> edge.EdgeVectorParams:
    return edge.EdgeVectorParams(
        body["size"],
        _DISTANCES[body["distance"]],
        on_disk=body.get("on_disk"),
        datatype=_DATATYPES.get(body.get("datatype", "")),
        hnsw_config=_edge_hnsw(body["hnsw_config"]) if "hnsw_config" in body else None,
    )


def _edge_sparse(body: dict[str, Any]) -> edge.EdgeSparseVectorParams:
    index = body.get("index", {})
    return edge.EdgeSparseVectorParams(
        full_scan_threshold=index.get("full_scan_threshold"),
        on_disk=index.get("on_disk"),
        modifier=edge.Modifier.Idf if body.get("modifier") == "idf" else None,
        datatype=_DATATYPES.get(index.get("datatype", "")),
    )


def shown(kept: dict[str, Any]) -> dict[str, Any]:
    """Return `result.config` of a collection."""
    hnsw = {**_HNSW, **kept["hnsw"]}
    config: dict[str, Any] = {
        "params": {
            **dict.fromkeys(_CLUSTER, 1),
            "on_disk_payload": True,
            **kept["params"],
        },
        "hnsw_config": _set(hnsw),
        "optimizer_config": {
            "deleted_threshold": 0.2,
            "vacuum_min_vector_number": 1000,
            "default_segment_number": 0,
            "max_segment_size": None,
            "memmap_threshold": None,
            "indexing_threshold": 0,
            "flush_interval_sec": 5,
            "max_optimization_threads": None,
            "prevent_unoptimized": None,
            **kept["optimizers"],
        },
        "wal_config": {"wal_capacity_mb": 32, "wal_segments_ahead": 0, "wal_retain_closed": 1},
        "quantization_config": kept.get("quantization"),
    }
    if kept["metadata"] is not None:
        config["metadata"] = kept["metadata"]
    return config
