"""Read requests to the engine's own: query, scroll, count, facet, retrieve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qdrant_edge as edge

from hartonomous.engine import quantization
from hartonomous.engine.filters import to_filter
from hartonomous.engine.refusal import (
    array,
    bounded,
    count,
    fields,
    flag,
    floats,
    join,
    malformed,
    number,
    obj,
    text,
    unsupported,
)
from hartonomous.engine.values import PointId, point_id, point_ids, refuse_inference, sparse_vector

# Gives the vector called `name` of a point, for a query by the id of a point that is stored already.
Lookup = Callable[[PointId, str], Any]

_PREFETCH = frozenset({"prefetch", "query", "using", "filter", "params", "score_threshold", "limit"})
_QUERY = _PREFETCH | {"offset", "with_payload", "with_vector", "with_vectors"}
_SCROLL = frozenset({"offset", "limit", "filter", "with_payload", "with_vector", "with_vectors", "order_by"})
_RETRIEVE = frozenset({"ids", "with_payload", "with_vector", "with_vectors"})
_FACET = frozenset({"key", "limit", "filter", "exact"})
_PARAMS = frozenset({"hnsw_ef", "exact", "indexed_only", "quantization"})
_QUERIES = frozenset({"nearest", "fusion", "rrf", "order_by", "sample"})
_ORDER = frozenset({"key", "direction", "start_from"})

DEFAULT_LIMIT = 10
# Qdrant's own default of reciprocal rank fusion.
_RRF_K = 2


def query(value: Any, lookup: Lookup, where: str = "") -> edge.QueryRequest:
    """Convert the body of `points/query`; `lookup` resolves a query by point id."""
    bounded(value, where or "query")
    body = fields(value, _QUERY, where)
    scoring, condition = _scoring(body, lookup, where)
    return edge.QueryRequest(
        limit=_limit(body, where),
        offset=_optional(body, "offset", count, where),
        query=scoring,
        prefetches=_prefetches(body.get("prefetch"), lookup, join(where, "prefetch")),
        with_vector=_with_vector(body, where),
        with_payload=_with_payload(body.get("with_payload"), join(where, "with_payload")),
        filter=condition,
        score_threshold=_optional(body, "score_threshold", number, where),
        params=_params(body.get("params"), join(where, "params")),
    )


def query_batch(value: Any, lookup: Lookup) -> edge.QueryBatchRequest:
    """Convert the body of `points/query/batch`."""
    searches = array(fields(value, frozenset({"searches"})).get("searches"), "searches")
    return edge.QueryBatchRequest([query(item, lookup, f"searches[{i}]") for i, item in enumerate(searches)])


def _prefetches(value: Any, lookup: Lookup, where: str) -> list[edge.Prefetch]:
    if value is None:
        return []
    items = [value] if type(value) is dict else array(value, where)
    return [_prefetch(item, lookup, f"{where}[{i}]") for i, item in enumerate(items)]


def _prefetch(value: Any, lookup: Lookup, where: str) -> edge.Prefetch:
    body = fields(value, _PREFETCH, where)
    scoring, condition = _scoring(body, lookup, where)
    return edge.Prefetch(
        limit=_limit(body, where),
        query=scoring,
        prefetches=_prefetches(body.get("prefetch"), lookup, join(where, "prefetch")),
        params=_params(body.get("params"), join(where, "params")),
        filter=condition,
        score_threshold=_optional(body, "score_threshold", number, where),
    )


def _limit(body: dict[str, Any], where: str) -> int:
    limit = body.get("limit")
    return DEFAULT_LIMIT if limit is None else count(limit, join(where, "limit"), minimum=1)


def _optional(body: dict[str, Any], name: str, convert: Callable[[Any, str], Any], where: str) -> Any:
    value = body.get(name)
    return None if value is None else convert(value, join(where, name))


def _scoring(body: dict[str, Any], lookup: Lookup, where: str) -> tuple[Any, edge.Filter | None]:
    """Return the scoring query and the filter; a query by id leaves that point itself out, as Qdrant does."""
    condition = to_filter(body.get("filter"), join(where, "filter"))
    value = body.get("query")
    using = body.get("using")
    using = "" if using is None else text(using, join(where, "using"))
    at = join(where, "query")
    if type(value) is dict and "indices" not in value:
        refuse_inference(value, at)
        if value.get("nearest") is None:
            return _other_query(value, at), condition
        fields(value, frozenset({"nearest"}), at)
        value, at = value["nearest"], join(at, "nearest")
    if value is None:
        return None, condition
    if type(value) is int or type(value) is str:
        identifier = point_id(value, at)
        vector = lookup(identifier, using)
        others = edge.HasIdCondition({identifier})
        condition = edge.Filter(must=None if condition is None else [condition], must_not=[others])
    else:
        vector = _vector(value, at)
    return edge.Query.Nearest(vector, using), condition


def _vector(value: Any, where: str) -> Any:
    if type(value) is list:
        if value and type(value[0]) is list:
            raise unsupported(f"multivectors (`{where}`)")
        return floats(value, where)
    refuse_inference(obj(value, where), where)
    return sparse_vector(value, where)


def _other_query(value: dict[str, Any], where: str) -> Any:
    body = fields(value, _QUERIES, where)
    given = [name for name in body if body[name] is not None]
    if len(given) != 1:
        raise malformed(f"{where}: expected some form of vector, id, or a type of query")
    return _OTHERS[given[0]](body[given[0]], join(where, given[0]))


def _fusion(value: Any, where: str) -> Any:
    if value == "rrf":
        return edge.Fusion.Rrf(_RRF_K)
    if value == "dbsf":
        return edge.Fusion.Dbsf()
    raise malformed(f"{where}: expected `rrf` or `dbsf`")


def _rrf(value: Any, where: str) -> Any:
    body = fields(value, frozenset({"k", "weights"}), where)
    k = body.get("k")
    weights = body.get("weights")
    return edge.Fusion.Rrf(
        _RRF_K if k is None else count(k, join(where, "k"), minimum=1),
        None if weights is None else floats(array(weights, join(where, "weights")), join(where, "weights")),
    )


def order_by(value: Any, where: str) -> edge.OrderBy:
    """Convert a payload key, or `{"key", "direction", "start_from"}`."""
    if type(value) is str:
        return edge.OrderBy(value)
    body = fields(value, _ORDER, where)
    direction = body.get("direction")
    if direction not in (None, "asc", "desc"):
        raise malformed(f"{join(where, 'direction')}: expected `asc` or `desc`")
    start = body.get("start_from")
    if start is not None and type(start) not in (int, float, str):
        raise malformed(f"{join(where, 'start_from')}: expected a number or a date-time")
    return edge.OrderBy(
        text(body.get("key"), join(where, "key")),
        edge.Direction.Desc if direction == "desc" else edge.Direction.Asc,
        start,
    )


def _sample(value: Any, where: str) -> Any:
    if value != "random":
        raise malformed(f"{where}: expected `random`")
    return edge.Sample.Random


_OTHERS: dict[str, Callable[[Any, str], Any]] = {
    "fusion": _fusion,
    "rrf": _rrf,
    "order_by": order_by,
    "sample": _sample,
}


def _params(value: Any, where: str) -> edge.SearchParams | None:
    if value is None:
        return None
    body = fields(value, _PARAMS, where)
    _optional(body, "quantization", quantization.check_search, where)
    return edge.SearchParams(
        hnsw_ef=_optional(body, "hnsw_ef", count, where),
        exact=_optional(body, "exact", flag, where) or False,
        indexed_only=_optional(body, "indexed_only", flag, where) or False,
    )


def _names(value: Any, where: str) -> list[str]:
    return [text(item, f"{where}[{i}]") for i, item in enumerate(array(value, where))]


def _with_payload(value: Any, where: str) -> Any:
    if value is None or type(value) is bool:
        return bool(value)
    if type(value) is list:
        return _names(value, where)
    body = fields(value, frozenset({"include", "exclude"}), where)
    if body.get("include") is not None:
        return edge.PayloadSelector.Include(_names(body["include"], join(where, "include")))
    return edge.PayloadSelector.Exclude(_names(body.get("exclude"), join(where, "exclude")))


def _with_vector(body: dict[str, Any], where: str) -> Any:
    name = "with_vector" if body.get("with_vector") is not None else "with_vectors"
    value = body.get(name)
    if value is None or type(value) is bool:
        return bool(value)
    return _names(value, join(where, name))


def scroll(value: Any) -> edge.ScrollRequest:
    """Convert the body of `points/scroll`."""
    body = fields(value, _SCROLL)
    payload = body.get("with_payload")
    return edge.ScrollRequest(
        offset=_optional(body, "offset", point_id, ""),
        limit=_limit(body, ""),
        filter=to_filter(body.get("filter")),
        with_payload=_with_payload(True if payload is None else payload, "with_payload"),
        with_vector=_with_vector(body, ""),
        order_by=_optional(body, "order_by", order_by, ""),
    )


def retrieve(value: Any) -> tuple[list[PointId], Any, Any]:
    """Convert the body of `POST points`: ids, with_payload (default false, as in Qdrant), with_vector."""
    body = fields(value, _RETRIEVE)
    payload = _with_payload(body.get("with_payload"), "with_payload")
    return point_ids(body.get("ids"), "ids"), payload, _with_vector(body, "")


def counting(value: Any) -> edge.CountRequest:
    """Convert the body of `points/count`."""
    body = fields(value, frozenset({"filter", "exact"}))
    exact = _optional(body, "exact", flag, "")
    return edge.CountRequest(exact=True if exact is None else exact, filter=to_filter(body.get("filter")))


def facet(value: Any) -> edge.FacetRequest:
    """Convert the body of `facet`."""
    body = fields(value, _FACET)
    return edge.FacetRequest(
        text(body.get("key"), "key"),
        limit=_limit(body, ""),
        exact=_optional(body, "exact", flag, "") or False,
        filter=to_filter(body.get("filter")),
    )
