"""`/rag/ingest`: documents as JSON, as a stream of lines, or as files."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import hdrs, web

from hartonomous import codec
from hartonomous.core.call import Priority
from hartonomous.core.fingerprint import document_id
from hartonomous.errors import UnsupportedMediaTypeError
from hartonomous.handlers import shapes, views
from hartonomous.handlers.answers import json_response, retry_headers, runtime_of
from hartonomous.handlers.body import media_type_of, read_json, validate
from hartonomous.handlers.ingest_request import chunking_of, document_of, parameters_of_query
from hartonomous.handlers.ingest_stream import ingest_stream
from hartonomous.handlers.metering import spent
from hartonomous.handlers.operations import Operation
from hartonomous.handlers.reach import reached
from hartonomous.handlers.schemas import FILE_ENCODING, DocumentBody, IngestBody, IngestParameters, UploadFields
from hartonomous.handlers.uploads import MULTIPART, Upload, received
from hartonomous.middleware.audit import note
from hartonomous.middleware.request_id import call_of
from hartonomous.pipelines.documents import Document, DocumentResult
from hartonomous.pipelines.ingest import IngestResult

_LINES = frozenset((codec.NDJSON, "application/ndjson", "application/jsonl"))


async def ingest(request: web.Request) -> web.StreamResponse:
    """Take documents into a collection."""
    if media_type_of(request) in _LINES:
        return await ingest_stream(request)
    if hdrs.CONTENT_TYPE in request.headers and media_type_of(request) not in {codec.JSON, MULTIPART}:
        raise UnsupportedMediaTypeError(f"The body must be {codec.JSON}, {codec.NDJSON} or {MULTIPART}.")
    call = call_of(request)  # whose header is refused before anything is read
    parameters = parameters_of_query(request)
    if parameters.collection is not None:
        reached(parameters.collection, runtime_of(request), call)
    take = _ingest_files if media_type_of(request) == MULTIPART else _ingest_json
    return await take(request, parameters)


async def _ingest_json(request: web.Request, parameters: IngestParameters) -> web.Response:
    runtime, call = runtime_of(request), call_of(request).of_priority(Priority.INGEST)
    body = validate(IngestBody, await read_json(request))
    collection = reached(body.collection or parameters.collection, runtime, call)
    chunking = body.chunking or chunking_of(parameters, runtime.config.rag.chunking)
    documents = [document_of(document, index, f"documents.{index}") for index, document in enumerate(body.documents)]
    note(request, collection=collection, sent=len(documents))
    result = await runtime.ingestor.ingest(collection, documents, chunking.max_tokens, chunking.overlap_tokens, call)
    return _answer(request, collection, result, call.request_id)


async def _ingest_files(request: web.Request, parameters: IngestParameters) -> web.Response:
    runtime, call = runtime_of(request), call_of(request).of_priority(Priority.INGEST)
    async with received(request, call.grant) as upload:
        collection = reached(upload.fields.collection or parameters.collection, runtime, call)
        chunking = chunking_of(upload.fields, chunking_of(parameters, runtime.config.rag.chunking))
        documents, refused = _documents_of(upload)
        note(request, collection=collection, sent=len(upload.files))
        result = IngestResult([], 0)
        if documents:
            result = await runtime.ingestor.ingest(
                collection, documents, chunking.max_tokens, chunking.overlap_tokens, call
            )
    results = sorted([*result.documents, *refused], key=lambda one: one.index)
    return _answer(request, collection, IngestResult(results, result.embedding_tokens), call.request_id)


def _documents_of(upload: Upload) -> tuple[list[Document], list[DocumentResult]]:
    """Return the files that can be taken, and the results of the others."""
    documents, refused = [], []
    for index, file in enumerate(upload.files):
        name = upload.fields.id or document_id(file.name, "")
        if file.format is None or file.error is not None:
            refused.append(DocumentResult(index, name, "failed", error=file.error))
            continue
        documents.append(
            Document(
                index=index,
                text="",
                id=name,
                format=file.format,
                source=file.name,
                metadata=upload.fields.metadata,
                raw=file.path,
                path=f"files.{index}",
            )
        )
    return documents, refused


def _answer(request: web.Request, collection: str, result: IngestResult, request_id: str) -> web.Response:
    answer, failure = views.ingest_answer(collection, result, request_id), result.failure
    note(request, documents=answer["counts"])
    spent(request, result.embedding_tokens)
    if failure is None:
        return json_response(answer)
    return json_response(answer, status=failure.status, headers=retry_headers(failure))


OPERATIONS: Sequence[Operation] = (
    Operation(
        "POST",
        "/rag/ingest",
        ingest,
        "Take documents into a collection",
        "rag",
        IngestBody,
        shapes.IngestAnswer,
        requests={codec.NDJSON: DocumentBody, MULTIPART: UploadFields},
        answers={codec.NDJSON: shapes.IngestLine | shapes.IngestSummary | shapes.IngestBrokenOff},
        query={
            name: {**schema, "description": "Where the body does not say it."}
            for name, schema in IngestParameters.model_json_schema()["properties"].items()
        },
        encoding={MULTIPART: FILE_ENCODING},
        errors=(409, 422, 429, 502, 503, 504, 507),
        scope="ingest",
        event="ingest",
    ),
)
