"""`/openapi.json` is OpenAPI 3.1, and the server does what it says: statuses, headers and bodies of real answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from jsonschema import Draft202012Validator, ValidationError
from openapi_spec_validator import OpenAPIV31SpecValidator

from hartonomous.app import OPERATIONS
from hartonomous.keys import STATE
from tests.service.application import ConfigMaker, RunningApp, running

DOWN = "http://127.0.0.1:9"
DOCUMENTS = {"documents": [{"id": "flask", "text": "The flask holds two litres.", "metadata": {"a": [1, None]}}]}
CHAT: dict[str, Any] = {"model": "any", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}


@pytest.fixture
async def document(api: RunningApp) -> dict[str, Any]:
    """The document that is served with the tests' configuration."""
    return await _served(api)


async def _served(app: RunningApp) -> dict[str, Any]:
    async with app.session.get(app.url + "/openapi.json") as response:
        parsed: dict[str, Any] = await response.json()
    return parsed


def _walk(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _walk(inner)


def _conforms(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    Draft202012Validator({**schema, "components": document["components"]}).validate(value)


def test_it_is_openapi_3_1(document: dict[str, Any]) -> None:
    errors = [
        f"{list(error.absolute_path)}: {error.message}" for error in OpenAPIV31SpecValidator(document).iter_errors()
    ]
    assert errors == []


def test_every_reference_resolves_and_every_component_is_used(document: dict[str, Any]) -> None:
    references = {node["$ref"] for node in _walk(document) if isinstance(node.get("$ref"), str)}
    names = {f"#/components/{kind}/{name}" for kind in ("schemas", "headers") for name in document["components"][kind]}
    assert references == names


def test_every_schema_is_json_schema(document: dict[str, Any]) -> None:
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_operation_ids_are_unique(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids)) == len(OPERATIONS)


def test_every_error_is_the_one_shape_and_a_503_says_when_to_come_again(document: dict[str, Any]) -> None:
    for path in document["paths"].values():
        for operation in path.values():
            assert {"400", "403", "405", "417", "429", "500"} <= set(operation["responses"])
            assert ("401" in operation["responses"]) == (operation.get("security") != [])
            for status, response in operation["responses"].items():
                assert "X-Request-ID" in response["headers"]
                if int(status) < 400:
                    continue
                schema = response["content"]["application/json"]["schema"]
                assert {"$ref": "#/components/schemas/ErrorAnswer"} in schema.get("anyOf", [schema])
                assert ("Retry-After" in response["headers"]) == (status in {"429", "503"})


async def test_limits_are_the_configured_ones(make_config: ConfigMaker) -> None:
    limits = {"max_body_bytes": 12_345, "max_line_bytes": 2_345, "max_file_bytes": 3_456, "max_files": 89}
    config = make_config(server={**limits, "request_timeout_s": 67.0})
    async with running(config) as app:
        description = (await _served(app))["info"]["description"]
    for limit in ("12345 bytes", "2345 bytes", "3456 bytes", "89 files", "67 s"):
        assert limit in description


def test_a_rag_request_refuses_unknown_fields_and_an_openai_one_does_not(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for operation in operations.values():
            schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            if "$ref" in schema:
                body = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
                assert (body.get("additionalProperties") is False) == path.startswith(("/rag/", "/admin/"))


def _calls(collection: str) -> list[tuple[str, str, str, Any]]:
    """Return requests that are answered well: method, path template, path, body."""
    base = f"/rag/collections/{collection}"
    question = {"query": "the flask", "collection": collection}
    return [
        ("POST", "/rag/ingest", "/rag/ingest", DOCUMENTS),
        ("POST", "/rag/search", "/rag/search", question),
        ("POST", "/rag/query", "/rag/query", question | {"max_tokens": 4}),
        ("POST", "/rag/batch-query", "/rag/batch-query", {"queries": [question | {"max_tokens": 2}, {"query": ""}]}),
        ("GET", "/rag/collections", "/rag/collections", None),
        ("POST", "/admin/sweep", "/admin/sweep", {"collection": collection}),
        ("POST", "/admin/sweep", "/admin/sweep", None),
        ("GET", "/rag/collections/{name}/documents", f"{base}/documents", None),
        ("GET", "/rag/collections/{name}/documents/{id}", f"{base}/documents/flask", None),
        ("POST", "/v1/chat/completions", "/v1/chat/completions", CHAT),
        ("POST", "/v1/embeddings", "/v1/embeddings", {"input": "x"}),
        ("POST", "/v1/rerank", "/v1/rerank", {"query": "x", "documents": ["a"]}),
        ("GET", "/v1/models", "/v1/models", None),
        ("GET", "/v1/models/{id}", "/v1/models/tiny-generative", None),
        ("GET", "/health", "/health", None),
        ("GET", "/openapi.json", "/openapi.json", None),
    ]


async def test_answers_conform_to_their_schemas(api: RunningApp, document: dict[str, Any]) -> None:
    for method, template, path, body in _calls(api.runtime.config.rag.default_collection):
        async with api.session.request(method, api.url + path, json=body) as response:
            value = await response.json()
        assert response.status == 200, (path, value)
        described = document["paths"][template][method.lower()]["responses"]["200"]["content"]
        _conforms(document, described[response.content_type]["schema"], value)


async def test_an_ingest_is_described_in_its_three_media_types(api: RunningApp, document: dict[str, Any]) -> None:
    operation = document["paths"]["/rag/ingest"]["post"]
    requests = operation["requestBody"]["content"]
    assert set(requests) == {"application/json", "application/x-ndjson", "multipart/form-data"}
    answers = operation["responses"]["200"]["content"]
    assert set(answers) == {"application/json", "application/x-ndjson"}
    assert {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "query"} == {
        "collection",
        "max_tokens",
        "overlap_tokens",
    }
    (line,) = DOCUMENTS["documents"]
    _conforms(document, requests["application/json"]["schema"], DOCUMENTS)
    _conforms(document, requests["application/x-ndjson"]["schema"], line)
    _conforms(
        document, requests["multipart/form-data"]["schema"], {"metadata": {"a": 1}, "max_tokens": 64, "file": "Limes"}
    )
    wrong: dict[str, Any]
    for wrong in ({"file": "x", "metadata": []}, {"file": "x", "max_tokens": 1}, {"file": 7}, {}):
        with pytest.raises(ValidationError):
            _conforms(document, requests["multipart/form-data"]["schema"], wrong)
    data = json.dumps(line).encode() + b"\n{}\n"
    kind = {"Content-Type": "application/x-ndjson"}
    async with api.session.post(api.url + "/rag/ingest", data=data, headers=kind) as response:
        assert (response.status, response.content_type) == (200, "application/x-ndjson")
        told = [json.loads(one) for one in (await response.text()).splitlines()]
    assert len(told) == 3
    for one in told:
        _conforms(document, answers["application/x-ndjson"]["schema"], one)
    form = aiohttp.FormData()
    form.add_field("file", b"Limes are sour.", filename="limes.txt")
    async with api.session.post(api.url + "/rag/ingest", data=form) as response:
        assert response.status == 200
        _conforms(document, answers["application/json"]["schema"], await response.json())


async def test_ready_and_metrics_conform(api: RunningApp, document: dict[str, Any]) -> None:
    for path in ("/ready", "/metrics"):
        async with api.session.get(api.url + path) as response:
            described = document["paths"][path]["get"]["responses"][str(response.status)]["content"]
            assert response.content_type in described


WRONG: list[tuple[dict[str, Any], Any]] = [
    ({"data": b"{"}, None),
    ({"data": b"x", "headers": {"Content-Type": "text/plain"}}, None),
    ({"json": {"query": 7, "documents": 7, "queries": 7}}, None),
    (
        {"json": {"query": "x", "queries": [{"query": "x"}], "documents": [{"text": "x"}]}},
        {"X-Request-Timeout-Ms": "no"},
    ),
    ({"json": {"query": "x", "collection": "absent-1"}}, None),
    ({"json": {"model": "rag:absent", "messages": [{"role": "user", "content": "x"}]}}, None),
    ({"data": b" " * 5000}, None),
    ({"json": {"documents": [{"text": "x"}]}}, None),
    ({"json": {"query": "x", "documents": ["x"]}}, None),
    ({"json": {"input": "x"}}, None),
    ({"json": {"query": "x"}}, {"X-Request-Timeout-Ms": "1"}),
    ({}, {"Host": "evil.example"}),
]


@pytest.mark.parametrize("down", [False, True])
async def test_every_error_that_is_answered_is_documented(make_config: ConfigMaker, down: bool) -> None:
    """Every operation is called in every wrong way there is, in front of live backends and of dead ones."""
    dead: dict[str, Any] = {name: {"urls": (DOWN,)} for name in ("embedding", "reranking", "generative")}
    backends = dead | {"qdrant": {"url": DOWN}} if down else {}
    config = make_config(server={"max_body_bytes": 4096}, backends=backends)
    async with running(config) as app:
        document = await _served(app)
        for operation in OPERATIONS:
            path = operation.path.replace("{name}", "absent-collection").replace("{id}", "absent")
            for options, extra in WRONG:
                headers = {"Content-Type": "application/json"} | options.get("headers", {}) | (extra or {})
                sent = {key: value for key, value in options.items() if key != "headers"}
                if operation.request is None:
                    sent = {}
                async with app.session.request(operation.method, app.url + path, headers=headers, **sent) as response:
                    described = document["paths"][operation.path][operation.method.lower()]["responses"]
                    assert str(response.status) in described, (operation.method, path, options, await response.text())
                    assert response.status != 500
                    if response.status >= 400 and operation.path != "/ready":
                        schema = described[str(response.status)]["content"]["application/json"]["schema"]
                        if operation.path.startswith("/rag") or response.status != 400:
                            _conforms(document, schema, await response.json())


async def test_what_is_answered_while_the_server_drains_is_documented(make_config: ConfigMaker) -> None:
    async with running(make_config()) as app:
        document = await _served(app)
        app.app[STATE].draining = True
        for operation in OPERATIONS:
            path = operation.path.replace("{name}", "absent-collection").replace("{id}", "absent")
            async with app.session.request(operation.method, app.url + path) as response:
                described = document["paths"][operation.path][operation.method.lower()]["responses"]
                assert str(response.status) in described, (operation.method, path)
