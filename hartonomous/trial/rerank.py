"""llama.cpp's `/v1/rerank` out of an embedding service: `python -m hartonomous.trial.rerank --embedding URL --port …`.

A stand-in for the trial, where no cross-encoder is at hand: the score of a document is the cosine similarity of its
embedding to the query's, below zero cut to zero. Requests, answers and errors have llama.cpp's shapes. A text that is
longer than the embedding model can take counts with its beginning. The same chunks come again with every question that
they are candidates for: their vectors are kept, and `usage` counts what was embedded.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import operator
import time
from array import array
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from hashlib import blake2b
from typing import Any

import aiohttp
from aiohttp import web

from hartonomous.codec import NotJsonError, dumps, loads

ALIAS = "all-MiniLM-L6-v2-similarity"

_PATHS = ("/v1/rerank", "/rerank", "/v1/reranking", "/reranking")
_MAX_BODY_BYTES = 64 * 1024 * 1024
# What is tokenised of an endless text: far more than any embedding model takes.
_MOST_CHARACTERS = 16_384
# Vectors that are kept: of 384 numbers they take 8 MB.
_KEPT = 4_096
# llama.cpp closes idle connections after five seconds.
_IDLE_SECONDS = 3.0
_TIMEOUT = aiohttp.ClientTimeout(total=120, sock_connect=2)


class RefusedError(Exception):
    """An answer that is an error, in llama.cpp's shape."""

    def __init__(self, code: int, message: str, kind: str) -> None:
        super().__init__(message)
        self.code = code
        self.body = dumps({"error": {"code": code, "message": message, "type": kind}})


class Embedder:
    """The embedding service, asked for normalised vectors, of which the last `_KEPT` are known."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url
        self._known: OrderedDict[bytes, array[float]] = OrderedDict()

    async def get(self, path: str) -> Any:
        """Return what the service answers on `path`; raise 503 "Loading model" while it is not up."""
        return await self._ask("GET", path, None)

    async def embed(self, texts: Sequence[str]) -> tuple[list[array[float]], int]:
        """Return a vector of length one for each text, and the number of tokens that had to be embedded."""
        names = [blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest() for text in texts]
        found = {name: self._known[name] for name in names if name in self._known}
        missing = {name: text for name, text in zip(names, texts, strict=True) if name not in found}
        made, tokens = await self._made(list(missing.values())) if missing else ([], 0)
        found.update(zip(missing, made, strict=True))
        for name, vector in found.items():
            self._known[name] = vector
            self._known.move_to_end(name)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return [found[name] for name in names], tokens

    async def _made(self, texts: Sequence[str]) -> tuple[list[array[float]], int]:
        """Embed the texts, cut to the model's context if they must be."""
        try:
            return await self._embed(texts)
        except RefusedError as refusal:
            if "larger than" not in str(refusal) and "too large" not in str(refusal):
                raise
        props = await self.get("/props")
        context = int(props["default_generation_settings"]["n_ctx"])
        return await self._embed(await asyncio.gather(*(self._cut(text, context) for text in texts)))

    async def _embed(self, inputs: Sequence[str | list[int]]) -> tuple[list[array[float]], int]:
        answer = await self._ask("POST", "/v1/embeddings", {"input": inputs, "encoding_format": "base64"})
        rows = sorted(answer["data"], key=operator.itemgetter("index"))
        vectors = [array("f", base64.b64decode(row["embedding"])) for row in rows]
        return vectors, int(answer["usage"]["prompt_tokens"])

    async def _cut(self, text: str, context: int) -> str | list[int]:
        """Return the tokens that fit when a text is too long; the last one closes the sequence."""
        if len(text) < context - 1:  # a token is a character or more; two are the model's own
            return text
        body = {"content": text[:_MOST_CHARACTERS], "add_special": True}
        tokens: list[int] = (await self._ask("POST", "/tokenize", body))["tokens"]
        return tokens if len(tokens) <= context else [*tokens[: context - 1], tokens[-1]]

    async def _ask(self, method: str, path: str, body: Any) -> Any:
        data = None if body is None else dumps(body)
        headers = {"Content-Type": "application/json"}
        try:
            async with self._session.request(method, self._url + path, data=data, headers=headers) as response:
                answer = loads(await response.read())
        except (aiohttp.ClientError, TimeoutError, NotJsonError) as error:
            raise RefusedError(503, "Loading model", "unavailable_error") from error
        if response.status != 200:
            refusal = answer["error"]
            raise RefusedError(response.status, refusal["message"], refusal["type"])
        return answer


_EMBEDDER = web.AppKey("embedder", Embedder)
_ALIAS = web.AppKey("alias", str)
_STARTED = web.AppKey("started", int)


def create_app(embedding_url: str, alias: str = ALIAS) -> web.Application:
    """Return the service over the embedding service at `embedding_url`."""
    app = web.Application(middlewares=[_errors], client_max_size=_MAX_BODY_BYTES)
    app[_ALIAS] = alias
    app[_STARTED] = int(time.time())

    async def session(app: web.Application) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=8, keepalive_timeout=_IDLE_SECONDS)
        async with aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT) as client:
            app[_EMBEDDER] = Embedder(client, embedding_url.rstrip("/"))
            yield

    app.cleanup_ctx.append(session)
    app.router.add_get("/health", _health)
    app.router.add_get("/props", _props)
    app.router.add_get("/v1/models", _models)
    for path in _PATHS:
        app.router.add_post(path, _rerank)
    return app


@web.middleware
async def _errors(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        response: web.StreamResponse = await handler(request)
    except RefusedError as refusal:
        return _refuse(refusal)
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
        return _refuse(RefusedError(404, "File Not Found", "not_found_error"))
    return response


def _refuse(refusal: RefusedError) -> web.Response:
    return web.Response(body=refusal.body, status=refusal.code, content_type="application/json")


async def _health(request: web.Request) -> web.Response:
    await request.app[_EMBEDDER].get("/health")
    return _answer({"status": "ok"})


async def _props(request: web.Request) -> web.Response:
    props = await request.app[_EMBEDDER].get("/props")
    return _answer({**props, "model_alias": request.app[_ALIAS]})


async def _models(request: web.Request) -> web.Response:
    alias = request.app[_ALIAS]
    models = await request.app[_EMBEDDER].get("/v1/models")
    model = {"id": alias, "aliases": [alias], "object": "model", "created": request.app[_STARTED]}
    return _answer({"object": "list", "data": [{**models["data"][0], **model}]})


async def _rerank(request: web.Request) -> web.Response:
    body = await _body(request)
    documents = body["documents"]
    (query, *vectors), tokens = await request.app[_EMBEDDER].embed([body["query"], *documents])
    scores = [max(0.0, sum(map(operator.mul, query, vector))) for vector in vectors]
    results = [{"index": index, "relevance_score": score} for index, score in enumerate(scores)]
    results.sort(key=operator.itemgetter("relevance_score"), reverse=True)
    return _answer(
        {
            "model": body.get("model") or request.app[_ALIAS],
            "object": "list",
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "results": results[: body["top_n"]],
        }
    )


async def _body(request: web.Request) -> dict[str, Any]:
    """Return the checked request; `top_n` is always there."""
    try:
        body = loads(await request.read())
    except NotJsonError as error:
        raise _invalid("The body is not valid JSON") from error
    if not isinstance(body, dict) or "query" not in body:
        raise _invalid('"query" must be provided')
    if not isinstance(body["query"], str):
        raise _invalid('"query" must be a string')
    documents = body.get("documents")
    if not isinstance(documents, list) or not documents or not all(isinstance(text, str) for text in documents):
        raise _invalid('"documents" must be a non-empty string array')
    top_n = body.get("top_n")
    count = top_n if isinstance(top_n, int) and top_n >= 0 else len(documents)
    return {**body, "top_n": count}


def _invalid(message: str) -> RefusedError:
    return RefusedError(400, message, "invalid_request_error")


def _answer(value: Any) -> web.Response:
    return web.Response(body=dumps(value), content_type="application/json")


def main(argv: list[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="hartonomous.trial.rerank", description="Rerank by embedding similarity.")
    parser.add_argument("--embedding", required=True, metavar="URL", help="the embedding service")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--alias", default=ALIAS, help="the model's name to clients")
    options = parser.parse_args(argv)
    app = create_app(options.embedding, options.alias)
    web.run_app(app, host="127.0.0.1", port=options.port, print=None, access_log=None, shutdown_timeout=1.0)


if __name__ == "__main__":
    main()
