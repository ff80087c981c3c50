"""`/rag/collections` and the documents in them."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from aiohttp import web
from pydantic import TypeAdapter

from hartonomous.clients.qdrant import CURSOR_PATTERN
from hartonomous.clients.schema import CollectionInfo
from hartonomous.config import COLLECTION_PATTERN
from hartonomous.core.call import Call
from hartonomous.errors import NotFoundError, ValidationFailedError
from hartonomous.handlers import shapes, views
from hartonomous.handlers.answers import json_response, runtime_of
from hartonomous.handlers.operations import Operation
from hartonomous.handlers.reach import reached
from hartonomous.handlers.schemas import DocumentId
from hartonomous.keys import Runtime
from hartonomous.middleware.audit import note
from hartonomous.middleware.request_id import call_of

_COLLECTION = re.compile(COLLECTION_PATTERN.replace("$", r"\Z"))
_MAX_PAGE = 1_000


async def list_collections(request: web.Request) -> web.Response:
    """List the collections that the key may see."""
    runtime, call = runtime_of(request), call_of(request)
    infos = await runtime.schema.list(call)
    counted = await asyncio.gather(*(_counted(info, runtime, call) for info in infos))
    collections = [view for view in counted if view is not None]
    return json_response({"collections": collections, "request_id": call.request_id})


async def _counted(info: CollectionInfo, runtime: Runtime, call: Call) -> dict[str, Any] | None:
    """Return the view of a collection; None when it was deleted after it was listed."""
    try:
        documents, chunks = await runtime.vectors.counts(info.name, call)
    except NotFoundError:
        return None
    return {
        "name": info.name,
        "documents": documents,
        "chunks": chunks,
        "dimension": info.dimension,
        "embedding": info.fingerprint.as_dict(),
    }


async def delete_collection(request: web.Request) -> web.Response:
    """Delete a collection with everything in it."""
    runtime, call = runtime_of(request), call_of(request)
    collection = _collection(request, call)
    note(request, collection=collection)
    if not await runtime.schema.drop(collection, call):
        raise _no_collection()
    return web.Response(status=204)


async def list_documents(request: web.Request) -> web.Response:
    """List the documents of a collection, a page at a time."""
    runtime, call = runtime_of(request), call_of(request)
    collection = await _existing(request, runtime, call)
    states, cursor = await runtime.vectors.documents(collection, _limit(request), request.query.get("cursor"), call)
    documents = [views.document(state) for state in states]
    return json_response({"documents": documents, "next_cursor": cursor, "request_id": call.request_id})


async def get_document(request: web.Request) -> web.Response:
    """Return a document: its text and its chunks."""
    runtime, call = runtime_of(request), call_of(request)
    collection = await _existing(request, runtime, call)
    chunks = await runtime.vectors.chunks(collection, _document_id(request), call)
    if not chunks:
        raise NotFoundError("There is no such document.", code="document_not_found")
    return json_response(views.whole_document(chunks, call.request_id))


async def delete_document(request: web.Request) -> web.Response:
    """Delete a document; one that is gone already is no error."""
    runtime, call = runtime_of(request), call_of(request)
    collection, name = _collection(request, call), _document_id(request)
    note(request, collection=collection, document=name)
    await _existing(request, runtime, call)
    await runtime.vectors.delete_document(collection, name, call)
    return web.Response(status=204)


def _collection(request: web.Request, call: Call) -> str:
    name = request.match_info["name"]
    if not _COLLECTION.match(name):
        raise ValidationFailedError("The collection's name has the wrong form.", param="collection")
    return reached(name, runtime_of(request), call)


def _document_id(request: web.Request) -> str:
    name = request.match_info["id"]
    if not 1 <= len(name) <= 256 or any(ord(char) < 0x20 or 0x7F <= ord(char) <= 0x9F for char in name):
        raise ValidationFailedError("The document's id has the wrong form.", param="id")
    return name


async def _existing(request: web.Request, runtime: Runtime, call: Call) -> str:
    name = _collection(request, call)
    if await runtime.schema.describe(name, call) is None:
        raise _no_collection()
    return name


def _no_collection() -> NotFoundError:
    return NotFoundError("There is no such collection.", param="collection", code="collection_not_found")


def _limit(request: web.Request) -> int:
    text = request.query.get("limit", "100")
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= _MAX_PAGE):
        raise ValidationFailedError(f"limit must be a whole number from 1 to {_MAX_PAGE}.", param="limit")
    return int(text)


_COLLECTION_PATH = {"name": {"type": "string", "pattern": COLLECTION_PATTERN, "examples": ["docs"]}}
_DOCUMENT_PATH = _COLLECTION_PATH | {"id": TypeAdapter(DocumentId).json_schema()}
_ERRORS = (404, 409, 422, 429, 502, 503, 504)
_PAGE_QUERY = {
    "limit": {"type": "integer", "minimum": 1, "maximum": _MAX_PAGE, "default": 100},
    "cursor": {"type": "string", "pattern": CURSOR_PATTERN},
}

OPERATIONS = (
    Operation(
        "GET",
        "/rag/collections",
        list_collections,
        "List the collections",
        "collections",
        answer=shapes.CollectionsAnswer,
        errors=(429, 502, 503, 504),
    ),
    Operation(
        "DELETE",
        "/rag/collections/{name}",
        delete_collection,
        "Delete a collection",
        "collections",
        status=204,
        path_parameters=_COLLECTION_PATH,
        errors=_ERRORS,
        scope="admin",
        event="delete",
    ),
    Operation(
        "GET",
        "/rag/collections/{name}/documents",
        list_documents,
        "List the documents of a collection",
        "collections",
        answer=shapes.DocumentsAnswer,
        query=_PAGE_QUERY,
        path_parameters=_COLLECTION_PATH,
        errors=_ERRORS,
    ),
    Operation(
        "GET",
        "/rag/collections/{name}/documents/{id}",
        get_document,
        "Read a document: its text and its chunks",
        "collections",
        answer=shapes.DocumentAnswer,
        path_parameters=_DOCUMENT_PATH,
        errors=_ERRORS,
    ),
    Operation(
        "DELETE",
        "/rag/collections/{name}/documents/{id}",
        delete_document,
        "Delete a document",
        "collections",
        status=204,
        path_parameters=_DOCUMENT_PATH,
        errors=_ERRORS,
        scope="ingest",
        event="delete",
    ),
)
