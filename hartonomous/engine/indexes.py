"""Payload indexes: the field schema of a request to the engine's parameters, and back."""

from __future__ import annotations

from typing import Any

import qdrant_edge as edge

from hartonomous.engine.refusal import array, count, fields, flag, invalid, join, malformed, obj, text, unsupported

_TYPES = {
    "keyword": edge.PayloadSchemaType.Keyword,
    "integer": edge.PayloadSchemaType.Integer,
    "float": edge.PayloadSchemaType.Float,
    "bool": edge.PayloadSchemaType.Bool,
    "datetime": edge.PayloadSchemaType.Datetime,
    "text": edge.PayloadSchemaType.Text,
    "uuid": edge.PayloadSchemaType.Uuid,
}
_PARAMS: dict[str, tuple[Any, frozenset[str]]] = {
    "keyword": (edge.KeywordIndexParams, frozenset({"is_tenant", "on_disk", "enable_hnsw"})),
    "integer": (
        edge.IntegerIndexParams,
        frozenset({"lookup", "range", "is_principal", "on_disk", "enable_hnsw"}),
    ),
    "float": (edge.FloatIndexParams, frozenset({"is_principal", "on_disk", "enable_hnsw"})),
    "bool": (edge.BoolIndexParams, frozenset({"on_disk", "enable_hnsw"})),
    "datetime": (edge.DatetimeIndexParams, frozenset({"is_principal", "on_disk", "enable_hnsw"})),
    "uuid": (edge.UuidIndexParams, frozenset({"is_tenant", "on_disk", "enable_hnsw"})),
    "text": (
        edge.TextIndexParams,
        frozenset(
            {
                "tokenizer",
                "min_token_len",
                "max_token_len",
                "lowercase",
                "ascii_folding",
                "phrase_matching",
                "stopwords",
                "on_disk",
                "stemmer",
                "enable_hnsw",
            }
        ),
    ),
}
_TOKENIZERS = {
    "prefix": edge.TokenizerType.Prefix,
    "whitespace": edge.TokenizerType.Whitespace,
    "word": edge.TokenizerType.Word,
    "multilingual": edge.TokenizerType.Multilingual,
}


def field_schema(value: Any) -> tuple[str, Any]:
    """Convert the body of `PUT index`: the field's path and its type or parameters."""
    body = fields(value, frozenset({"field_name", "field_schema", "field_type"}))
    name = text(body.get("field_name"), "field_name")
    key = "field_schema" if body.get("field_schema") is not None else "field_type"
    schema = body.get(key)
    if schema is None:
        raise unsupported("an index without `field_schema`")
    if type(schema) is str:
        return name, _type(schema, key)
    kind = text(obj(schema, key).get("type"), join(key, "type"))
    _type(kind, join(key, "type"))
    make, known = _PARAMS[kind]
    given = fields(schema, known | {"type"}, key)
    if given.get("lookup") is False and given.get("range") is False:
        raise invalid(f"[{key}: the 'lookup' and 'range' capabilities can't be both disabled]")
    return name, make(**{n: _part(n, v, join(key, n)) for n, v in given.items() if n != "type" and v is not None})


def _type(name: str, where: str) -> edge.PayloadSchemaType:
    if name == "geo":
        raise unsupported(f"geo indexes (`{where}`)")
    if name not in _TYPES:
        raise malformed(f"{where}: expected one of {', '.join(_TYPES)}")
    return _TYPES[name]


def _part(name: str, value: Any, where: str) -> Any:
    if name == "tokenizer":
        if text(value, where) not in _TOKENIZERS:
            raise malformed(f"{where}: expected one of {', '.join(_TOKENIZERS)}")
        return _TOKENIZERS[value]
    if name == "stopwords":
        return _stopwords(value, where)
    if name == "stemmer":
        return _stemmer(value, where)
    return count(value, where) if name.endswith("_len") else flag(value, where)


def _language(enum: Any, value: Any, where: str) -> Any:
    language = getattr(enum, text(value, where).capitalize(), None)
    if not isinstance(language, enum):
        raise malformed(f"{where}: unknown language")
    return language


def _stopwords(value: Any, where: str) -> edge.StopwordsSet:
    if type(value) is str:
        return edge.StopwordsSet(languages={_language(edge.Language, value, where)})
    body = fields(value, frozenset({"languages", "custom"}), where)
    languages = array(body.get("languages") or [], join(where, "languages"))
    custom = array(body.get("custom") or [], join(where, "custom"))
    return edge.StopwordsSet(
        languages={_language(edge.Language, item, join(where, "languages")) for item in languages},
        custom={text(item, join(where, "custom")) for item in custom},
    )


def _stemmer(value: Any, where: str) -> Any:
    body = fields(value, frozenset({"type", "language"}), where)
    if body.get("type") == "none":
        return edge.DisabledStemmer()
    if body.get("type") != "snowball":
        raise malformed(f"{join(where, 'type')}: expected `snowball` or `none`")
    return edge.SnowballParams(_language(edge.SnowballLanguage, body.get("language"), join(where, "language")))


def shown(schema: dict[str, edge.PayloadIndexInfo]) -> dict[str, Any]:
    """Return `result.payload_schema` of a collection."""
    return {name: _info(info) for name, info in schema.items()}


def _info(info: edge.PayloadIndexInfo) -> dict[str, Any]:
    kind = _enum_name(info.data_type)
    result: dict[str, Any] = {"data_type": kind}
    if info.params is not None and kind in _PARAMS:
        result["params"] = {"type": kind, **_attributes(info.params, _PARAMS[kind][1])}
    result["points"] = info.points
    return result


def _enum_name(value: Any) -> str:
    return repr(value).rpartition(".")[2].lower()


def _attributes(params: Any, names: frozenset[str]) -> dict[str, Any]:
    result = {}
    for name in sorted(names):
        value = getattr(params, name)
        if value is not None:
            result[name] = value if type(value) in (bool, int) else _shown_part(value)
    return result


def _shown_part(value: Any) -> Any:
    if isinstance(value, edge.StopwordsSet):
        return {
            "languages": sorted(map(_enum_name, value.languages or ())),
            "custom": sorted(value.custom or ()),
        }
    if isinstance(value, edge.SnowballParams):
        return {"type": "snowball", "language": _enum_name(value.language)}
    if isinstance(value, edge.DisabledStemmer):
        return {"type": "none"}
    return _enum_name(value)
