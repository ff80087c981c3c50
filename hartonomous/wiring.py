"""What the server and the commands that work on the backends themselves are made of: pools, clients, the ingestor.

Everything made here is closed by the caller's exit stack, in reverse order. What is shared through Redis is imported
where there is one: its client is 0.1 s and 9 MB.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hartonomous.cache.answers import OwnAnswers, SharedAnswers
from hartonomous.cache.generations import Changes, Generations, OwnGenerations
from hartonomous.cache.vectors import QuestionVectors
from hartonomous.clients.creation import write_options
from hartonomous.clients.embedding import EmbeddingClient
from hartonomous.clients.generative import GenerativeClient
from hartonomous.clients.pool import Pool
from hartonomous.clients.reranking import RerankingClient
from hartonomous.clients.schema import Schema
from hartonomous.clients.sparse import Bm25Encoder
from hartonomous.clients.tokenizing import TokenCounter
from hartonomous.clients.vectors import VectorClient
from hartonomous.clienttls import Trust, Trusts
from hartonomous.config import AnswerCache, Config, Parsing
from hartonomous.core.template import Template
from hartonomous.limiting.limiter import Limiter
from hartonomous.limiting.memory import MemoryStore
from hartonomous.metrics import Metrics
from hartonomous.parsing.parser import Parser
from hartonomous.parts import Parts
from hartonomous.pipelines.answering import CachedAnswerer
from hartonomous.pipelines.ingest import Ingestor
from hartonomous.pipelines.jobs import Jobs
from hartonomous.pipelines.keying import AnswerKeys
from hartonomous.pipelines.query import Answerer
from hartonomous.pipelines.search import Searcher
from hartonomous.pipelines.traffic import Traffic
from hartonomous.services import ModelService, Qdrant, Service
from hartonomous.tracing import Tracer, is_on, open_tracer

if TYPE_CHECKING:
    from hartonomous.cache.shared import SharedCache
    from hartonomous.limiting.shared import SharedStore


@dataclass(slots=True, frozen=True)
class Storage:
    """The embedding service and the vector store, and what takes documents from the one to the other."""

    pools: dict[str, Pool]
    embedding: EmbeddingClient
    tokens: TokenCounter
    vectors: VectorClient
    schema: Schema
    ingestor: Ingestor
    traffic: Traffic
    generations: Generations
    changes: Changes
    shared: SharedCache | None
    parts: Parts
    trusts: Trusts


@dataclass(slots=True, frozen=True)
class Search:
    """The reranking service, if there is one, and what answers questions with hits."""

    pools: dict[str, Pool]
    reranking: RerankingClient | None
    searcher: Searcher


def open_pool(
    name: str,
    service: ModelService | Qdrant,
    metrics: Metrics,
    parts: Parts,
    stack: AsyncExitStack,
    trust: Trust | None = None,
) -> Pool:
    """Return the connections of a service; nothing is connected yet. `trust` is for its addresses over TLS.

    Where a pool with other addresses is there already they are proposed to it, and withdrawn with the stack.
    """

    def make(own: AsyncExitStack) -> Pool:
        urls = (service.url,) if isinstance(service, Qdrant) else service.urls
        pool = Pool(name, urls, service, metrics, None if trust is None else trust.context)
        own.push_async_callback(pool.close)
        return pool

    pool = parts.take(f"{name} pool", (_apart(service), trust), make, stack)
    if isinstance(service, ModelService):
        stack.callback(pool.addresses.withdraw, pool.propose(service.urls))
    return pool


def _apart(service: ModelService | Qdrant) -> Service:
    """Return a service's settings without the addresses that a reload may change while its connections stay."""
    return service.model_copy(update={"urls": ()}) if isinstance(service, ModelService) else service


def client_settings(pool: Pool, service: ModelService) -> object:
    """Return what a client of a service depends on: with addresses that are all others it is another service."""
    return pool, _apart(service), pool.addresses.lineage


def open_storage(
    config: Config,
    metrics: Metrics,
    stack: AsyncExitStack,
    parts: Parts | None = None,
    tokenizer: bytes | None = None,
    trusts: Trusts | None = None,
) -> Storage:
    """Return what ingests are made with. What is being written when the stack is closed is finished first.

    `parts` are those that another runtime may share; `tokenizer` is a digest of the tokenizer's file, and
    `trusts` are what the services over TLS are connected with.

    Raises:
        ConfigError: the language is not known.
    """
    parts, trusts = Parts() if parts is None else parts, trusts or {}
    backends, rag = config.backends, config.rag
    Bm25Encoder.for_language(rag.retrieval.language)  # an unknown one fails the start, not a request
    pools = {
        name: open_pool(name, of, metrics, parts, stack, trusts.get(name))
        for name, of in (("embedding", backends.embedding), ("qdrant", backends.qdrant))
    }
    service, pool = backends.embedding, pools["embedding"]
    of = client_settings(pool, service)
    embedding = parts.take("embedding client", of, lambda _: EmbeddingClient(pool, service, metrics), stack)
    tokens = parts.take("tokens", (of, tokenizer), lambda _: TokenCounter(pool, service), stack)
    changes = parts.take("changes", None, lambda _: Changes(), stack)
    vectors, schema = _open_vectors(pools["qdrant"], backends.qdrant, changes, parts, stack)
    shared = open_shared(config, metrics, changes, parts, stack, trusts.get("redis"))
    generations = shared or _open_generations(changes, parts, stack)
    traffic = parts.take("traffic", None, lambda _: Traffic(), stack)
    parser = _open_parser(rag.parsing, parts, stack)

    def make_ingestor(own: AsyncExitStack) -> Ingestor:
        jobs = Jobs()
        ingestor = Ingestor(embedding, tokens, vectors, schema, parser, jobs, traffic, rag, metrics)
        own.push_async_callback(ingestor.close)
        own.push_async_callback(jobs.drain)
        return ingestor

    made_of = (embedding, tokens, vectors, schema, parser, traffic, rag)
    ingestor = parts.take("ingestor", made_of, make_ingestor, stack)
    return Storage(
        pools, embedding, tokens, vectors, schema, ingestor, traffic, generations, changes, shared, parts, trusts
    )


def _open_vectors(
    pool: Pool, config: Qdrant, changes: Changes, parts: Parts, stack: AsyncExitStack
) -> tuple[VectorClient, Schema]:
    def make(_: AsyncExitStack) -> tuple[VectorClient, Schema]:
        vectors, schema = VectorClient(pool, write_options(config)), Schema(pool, config)
        vectors.on_change = schema.on_change = changes.advance
        return vectors, schema

    return parts.take("vectors", (pool, config, changes), make, stack)


def _open_generations(changes: Changes, parts: Parts, stack: AsyncExitStack) -> OwnGenerations:
    """Return the stamps of this process: the same ones as long as it lives, whatever is reloaded."""

    def make(own: AsyncExitStack) -> OwnGenerations:
        generations = OwnGenerations(lambda: changes.are_missed)
        changes.add(generations)
        own.callback(changes.remove, generations)
        return generations

    return parts.take("generations", changes, make, stack)


def _open_parser(config: Parsing, parts: Parts, stack: AsyncExitStack) -> Parser:
    def make(own: AsyncExitStack) -> Parser:
        parser = Parser(config)
        own.push_async_callback(parser.close)
        return parser

    return parts.take("parser", config, make, stack)


def open_shared(
    config: Config,
    metrics: Metrics,
    changes: Changes,
    parts: Parts,
    stack: AsyncExitStack,
    trust: Trust | None = None,
) -> SharedCache | None:
    """Return what processes share in Redis, if answers are kept there; nothing is connected yet."""
    if not config.rag.cache.answers.enabled or config.redis.url is None:
        return None
    from hartonomous.cache.shared import SharedCache

    def make(own: AsyncExitStack) -> SharedCache:
        shared = SharedCache(config.redis, metrics, trust=trust, is_late=changes.have_been)
        own.push_async_callback(shared.close)
        changes.add(shared)
        own.callback(changes.remove, shared)
        return shared

    return parts.take("redis", (config.redis, changes, trust), make, stack)


def open_traces(
    config: Config, metrics: Metrics, parts: Parts, stack: AsyncExitStack, trust: Trust | None = None
) -> Tracer | None:
    """Return what records spans, None where none are; what has ended is sent when the last that uses it has gone."""
    if not is_on(config.tracing):
        return None

    def make(own: AsyncExitStack) -> Tracer:
        tracer = open_tracer(config.tracing, metrics)
        own.push_async_callback(tracer.close)
        return tracer

    return parts.take("tracing", (config.tracing, trust), make, stack)


def open_limiter(
    config: Config, metrics: Metrics, parts: Parts, stack: AsyncExitStack, trust: Trust | None = None
) -> Limiter:
    """Return the limits, counted in Redis if there is one; what was used stays, whatever is reloaded."""

    def make_shared(own: AsyncExitStack) -> SharedStore:
        from hartonomous.limiting.shared import SharedStore

        store = SharedStore(config.redis, config.server.processes, metrics, trust)
        own.push_async_callback(store.close)
        return store

    if config.redis.url is None:
        alone = parts.take("limits", None, lambda _: MemoryStore(), stack)
        return Limiter(config, alone, metrics)
    settings = (config.redis, config.server.processes, trust)
    return Limiter(config, parts.take("shared limits", settings, make_shared, stack), metrics)


def open_answers(
    config: Config,
    storage: Storage,
    search: Search,
    generative: GenerativeClient,
    template: Template,
    answerer: Answerer,
    metrics: Metrics,
    stack: AsyncExitStack,
) -> CachedAnswerer | None:
    """Return the answerer behind the cache, None where answers are not kept."""
    rag, backends = config.rag, config.backends
    answers = rag.cache.answers
    if not answers.enabled:
        return None
    settings = {
        "retrieval": rag.retrieval.model_dump(mode="json"),
        "generation": rag.generation.model_dump(mode="json", exclude={"template"}),
        "template": template,
        "context": backends.generative.context_tokens,
        "scores": None if backends.reranking is None else backends.reranking.scores,
        "store": _moved_to(backends.qdrant.url, storage.parts, stack),
    }
    keys = AnswerKeys(
        storage.schema,
        storage.embedding,
        generative,
        search.reranking,
        storage.generations,
        settings,
        is_alone=storage.shared is None,
    )
    counts = metrics.cache("answers")
    shared = storage.shared
    made_of = (storage.embedding, search.reranking, generative, backends.qdrant)
    store = (
        _open_own_answers(answers, made_of, metrics, storage.parts, stack)
        if shared is None
        else SharedAnswers(answers, shared)
    )
    cached = CachedAnswerer(answerer, keys, store, config.server.request_timeout_s, counts)
    stack.push_async_callback(cached.close)
    return cached


def _moved_to(url: str, parts: Parts, stack: AsyncExitStack) -> str | None:
    """Return the vector store's address where a reload has changed it, else None.

    Processes that share their answers may name one store by several addresses; but answers from the store of before a
    reload are not those of the store after it.
    """
    first = parts.take("first store", None, lambda _: url, stack)
    return None if url == first else url


def _open_own_answers(
    answers: AnswerCache, made_of: object, metrics: Metrics, parts: Parts, stack: AsyncExitStack
) -> OwnAnswers:
    """Return the answers in memory; whoever asks other backends begins with none."""

    def make(own: AsyncExitStack) -> OwnAnswers:
        store = OwnAnswers(answers, metrics.cache("answers"))
        own.push_async_callback(store.close)
        return store

    return parts.take("answers", (answers, made_of), make, stack)


def open_search(config: Config, storage: Storage, metrics: Metrics, stack: AsyncExitStack) -> Search:
    """Return what searches are made with, over the same services as `storage`."""
    service, settings, parts = config.backends.reranking, config.rag.retrieval, storage.parts
    pools, reranking = {}, None
    if service is not None:
        trust = storage.trusts.get("reranking")
        pool = pools["reranking"] = open_pool("reranking", service, metrics, parts, stack, trust)
        of = client_settings(pool, service)
        reranking = parts.take("reranker", of, lambda _: RerankingClient(pool, service, metrics), stack)
    kept, limit_s = config.rag.cache.embeddings, config.server.request_timeout_s
    # With another embedding service its vectors are others, even under the same name.
    questions = parts.take(
        "questions", (storage.embedding, kept, limit_s), lambda _: QuestionVectors(kept, limit_s, metrics), stack
    )
    searcher = Searcher(
        storage.embedding, reranking, storage.vectors, storage.schema, settings, metrics, storage.traffic, questions
    )
    return Search(pools, reranking, searcher)
