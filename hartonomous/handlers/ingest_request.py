"""What a request of `/rag/ingest` says, as the pipeline takes it: documents, and parameters that come as text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from aiohttp import web

from hartonomous.config import Chunking
from hartonomous.core.fingerprint import document_id
from hartonomous.errors import ValidationFailedError
from hartonomous.handlers.body import validate
from hartonomous.handlers.schemas import DocumentBody, IngestParameters
from hartonomous.pipelines.documents import Document

Parameters = TypeVar("Parameters", bound=IngestParameters)

_NUMBER = re.compile(r"[0-9]{1,9}\Z")


def document_of(body: DocumentBody, index: int, path: str) -> Document:
    """Return a document of JSON; `path` is where its fields stand in the request. HTML is parsed by the pipeline."""
    is_html = body.format == "html"
    return Document(
        index=index,
        text="" if is_html else body.text,
        id=body.id or document_id(body.source, body.text),
        format=body.format,
        title=body.title,
        source=body.source,
        metadata=body.metadata,
        raw=body.text if is_html else None,
        path=path,
    )


def parameters_of_query(request: web.Request) -> IngestParameters:
    """Return the parameters of a query string. Raises ValidationFailedError when one is wrong."""
    return validated(IngestParameters, dict(request.query), "The query")


def validated(model: type[Parameters], values: Mapping[str, object], what: str) -> Parameters:
    """Return texts (and what has been parsed already) as `model`. Raises ValidationFailedError."""
    try:
        return validate(model, {name: _parsed(model, name, value) for name, value in values.items()}, what)
    except ValidationFailedError as error:
        error.param = error.param or "overlap_tokens"  # all that can be wrong with two of them together
        raise


def chunking_of(parameters: IngestParameters, otherwise: Chunking) -> Chunking:
    """Return the sizes that were asked for, or else the other ones."""
    asked = parameters.model_fields_set & Chunking.model_fields.keys()
    return parameters if asked else otherwise


def _parsed(model: type[IngestParameters], name: str, value: object) -> object:
    """Return a number for a field that is one; what has another form is the validation's to refuse."""
    described = model.model_fields.get(name)
    numeric = described is not None and described.annotation is int
    return int(value) if numeric and isinstance(value, str) and _NUMBER.match(value) else value
