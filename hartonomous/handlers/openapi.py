"""The OpenAPI 3.1 document, made from the table of operations and the models that validate."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from hartonomous import __version__, codec
from hartonomous.config import Config
from hartonomous.handlers import shapes
from hartonomous.handlers.operations import Operation

_REF = "#/components/schemas/{model}"
_REASONS = {
    400: "Not JSON, or a malformed header",
    403: "Not allowed",
    404: "No such path, model, document or collection",
    405: "The path does not take this method",
    408: "The body did not come in time",
    409: "The collection was made by another embedding model",
    413: "The body is larger than the limit",
    415: "The body is not of a type that is taken",
    422: "Well-formed JSON that breaks the schema; `param` names the first bad field",
    429: "Too many wait for a backend already; `Retry-After` in whole seconds",
    500: "A bug of the server",
    502: "A backend answered nonsense",
    503: "A backend is not available; `Retry-After` in whole seconds",
    504: "The deadline passed",
    507: "The vector store is full; nothing was acknowledged",
}
_RETRY_AFTER = {"Retry-After": {"description": "Whole seconds", "schema": {"type": "integer", "minimum": 0}}}
_HEADERS = (
    {
        "name": "X-Request-ID",
        "in": "header",
        "description": "Kept and sent back where it is well formed, else replaced.",
        "schema": {"type": "string"},
    },
    {
        "name": "X-Request-Timeout-Ms",
        "in": "header",
        "description": "Lowers the server's own limit for this request.",
        "schema": {"type": "integer", "minimum": 1},
    },
)


class _Schemas:
    """Collects the components that operations refer to."""

    def __init__(self) -> None:
        self.components: dict[str, Any] = {}

    def of(self, kind: Any, mode: JsonSchemaMode) -> dict[str, Any]:
        schema, parts = _schema(kind, mode)
        self.components |= parts
        if isinstance(kind, type) and (issubclass(kind, BaseModel) or hasattr(kind, "__total__")):
            self.components[kind.__name__] = schema
            return {"$ref": _REF.format(model=kind.__name__)}
        return schema


@functools.cache
def _schema(kind: Any, mode: JsonSchemaMode) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the schema of a type and its parts; both are shared by all documents, so nobody changes them."""
    schema = TypeAdapter(kind).json_schema(ref_template=_REF, mode=mode)
    parts = schema.pop("$defs", {})
    return schema, parts


def document(operations: Sequence[Operation], config: Config) -> bytes:
    """Return the document of these operations as JSON."""
    schemas = _Schemas()
    error = schemas.of(shapes.ErrorAnswer, "serialization")
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas, error)
    return codec.dumps(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Hartonomous",
                "version": __version__,
                "summary": "One dependable RAG API in front of llama.cpp and Qdrant",
                "description": limits(config),
            },
            "paths": paths,
            "components": {"schemas": dict(sorted(schemas.components.items()))},
        }
    )


def _operation(operation: Operation, schemas: _Schemas, error: dict[str, Any]) -> dict[str, Any]:
    view: dict[str, Any] = {
        "operationId": _operation_id(operation),
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": _parameters(operation),
        "responses": {str(operation.status): _answer(operation, schemas)},
    }
    statuses = {400, 403, 405, 500, *operation.errors}
    if operation.tag != "operations":
        statuses.add(503)  # the server may be shutting down
    if operation.request is not None:
        view["requestBody"] = {
            "required": operation.body_required,
            "content": _request_content(operation, schemas),
        }
        statuses |= {408, 413, 415}
    for status in sorted(statuses - {operation.status}):
        view["responses"][str(status)] = _failure(status, error)
    return view


def _request_content(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    kinds = {codec.JSON: operation.request, **operation.requests}
    return {media: {"schema": schemas.of(kind, "validation")} for media, kind in kinds.items()}


def _answer(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": "No content" if operation.status == 204 else "Success"}
    if operation.answer is not None:
        schema = schemas.of(operation.answer, "serialization")
        # Most streams are described by their type alone: their parts are the contract's, not one JSON value.
        streams = {media: {"schema": {"type": "string"}} for media in operation.media[1:]}
        lines = {media: {"schema": schemas.of(kind, "serialization")} for media, kind in operation.answers.items()}
        answer["content"] = {operation.media[0]: {"schema": schema}, **streams, **lines}
    return answer


def _failure(status: int, error: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": _REASONS[status], "content": {codec.JSON: {"schema": error}}}
    if status in {429, 503}:
        answer["headers"] = _RETRY_AFTER
    return answer


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)", operation.path)
    ]
    query = [{"name": name, "in": "query", "schema": schema} for name, schema in operation.query.items()]
    return [*path, *query, *_HEADERS, *map(dict, operation.headers)]


def _operation_id(operation: Operation) -> str:
    words = re.findall(r"\w+", operation.path)
    return "_".join((operation.method.lower(), *words))


def limits(config: Config) -> str:
    """Return what the document says of the configuration."""
    server = config.server
    return (
        f"Limits of this server: a JSON body has at most {server.max_body_bytes} bytes, a line of a stream "
        f"{server.max_line_bytes} bytes, a file {server.max_file_bytes} bytes, an upload {server.max_files} files; a "
        f"request takes at most {server.request_timeout_s:g} s, of a stream each document. `GET /ready` needs: "
        f"{', '.join(config.health.ready)}. A left out collection is `{config.rag.default_collection}`."
    )
