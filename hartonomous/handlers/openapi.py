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
from hartonomous.handlers import described, filterschema
from hartonomous.handlers.operations import Operation
from hartonomous.keys import Documents

_REF = "#/components/schemas/{model}"


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
    schema = filterschema.resolved(TypeAdapter(kind).json_schema(ref_template=_REF, mode=mode))
    parts = schema.pop("$defs", {})
    return schema, parts


def documents(operations: Sequence[Operation], config: Config) -> Documents:
    """Return the document of each listener: of what is found there."""
    return Documents(functools.partial(_both, operations, config))


def _both(operations: Sequence[Operation], config: Config) -> tuple[bytes, bytes]:
    if config.server.admin is None:
        whole = document(operations, config)
        return whole, whole
    main, operators = (
        document([each for each in operations if each.is_found(by_operators=by_operators)], config)
        for by_operators in (False, True)
    )
    return main, operators


def document(operations: Sequence[Operation], config: Config) -> bytes:
    """Return the document of these operations as JSON."""
    schemas = _Schemas()
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas)
    return codec.dumps(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Hartonomous",
                "version": __version__,
                "summary": "One dependable RAG API in front of llama.cpp and Qdrant",
                "description": limits(config),
            },
            "security": described.security(has_keys=bool(config.auth.keys)),
            "paths": paths,
            "components": {
                "schemas": dict(sorted((schemas.components | filterschema.COMPONENTS).items())),
                "securitySchemes": described.SECURITY_SCHEMES,
                "parameters": described.PARAMETERS,
                "headers": described.HEADERS,
            },
        }
    )


def _operation(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    view: dict[str, Any] = {
        "operationId": _operation_id(operation),
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": _parameters(operation),
        "responses": {str(operation.status): _answer(operation, schemas)},
    }
    if operation.scope is None:
        view["security"] = []
    if operation.request is not None:
        view["requestBody"] = {
            "required": operation.body_required,
            "content": _request_content(operation, schemas),
        }
    for status in described.failures(operation):
        view["responses"][str(status)] = _failure(status, schemas.of(operation.failure, "serialization"))
    return view


def _request_content(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    kinds = {codec.JSON: operation.request, **operation.requests}
    content: dict[str, Any] = {media: {"schema": schemas.of(kind, "validation")} for media, kind in kinds.items()}
    for media, encoding in operation.encoding.items():
        content[media]["encoding"] = encoding
    return content


def _answer(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": "No content" if operation.status == 204 else "Success",
        "headers": described.references("X-Request-ID", *operation.tells),
    }
    if operation.answer is not None:
        schema = schemas.of(operation.answer, "serialization")
        # Most streams are described by their type alone: their parts are the contract's, not one JSON value.
        streams: dict[str, Any] = {media: {} for media in operation.media[1:]}
        lines = {media: {"schema": schemas.of(kind, "serialization")} for media, kind in operation.answers.items()}
        answer["content"] = {operation.media[0]: {"schema": schema}, **streams, **lines}
    return answer


def _failure(status: int, error: dict[str, Any]) -> dict[str, Any]:
    return {
        "description": described.REASONS[status],
        "headers": described.references("X-Request-ID", *described.FAILURES_TELL.get(status, ())),
        "content": {codec.JSON: {"schema": error}},
    }


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    path = [
        {"name": name, "in": "path", "required": True, "schema": operation.path_parameters[name]}
        for name in re.findall(r"\{(\w+)", operation.path)
    ]
    query = [{"name": name, "in": "query", "schema": schema} for name, schema in operation.query.items()]
    return [*path, *query, described.REQUEST_ID, *map(dict, operation.headers)]


def _operation_id(operation: Operation) -> str:
    words = re.findall(r"\w+", operation.path)
    return "_".join((operation.method.lower(), *words))


def limits(config: Config) -> str:
    """Return what the document says of the configuration."""
    server = config.server
    return (
        f"Limits of this server: a JSON body has at most {server.max_body_bytes} bytes, a line of a stream "
        f"{server.max_line_bytes} bytes, a file {server.max_file_bytes} bytes, an upload {server.max_files} files; a "
        f"request takes at most {server.request_timeout_s:g} s, of a stream each document, and less where its header "
        f"X-Request-Timeout-Ms says so. `GET /ready` needs: {', '.join(config.health.ready)}. A left out collection is "
        f"`{config.rag.default_collection}`. "
        + ("Every request but those of the public operations carries a key." if config.auth.keys else _KEYLESS)
    )


_KEYLESS = "No keys are configured: only local requests are served, and need none."
