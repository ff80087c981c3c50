"""What the server and the commands that work on the backends themselves are made of: pools, clients, the ingestor.

Everything made here is closed by the caller's exit stack, in reverse order.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from hartonomous.cache.answers import OwnAnswers, SharedAnswers
from hartonomous.cache.generations import Generations, OwnGenerations
from hartonomous.cache.shared import SharedCache
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
from hartonomous.config import Config, Service
from hartonomous.core.template import Template
from hartonomous.metrics import Metrics
from hartonomous.parsing.parser import Parser
from hartonomous.pipelines.answering import CachedAnswerer
from hartonomous.pipelines.ingest import Ingestor
from hartonomous.pipelines.jobs import Jobs
from hartonomous.pipelines.keying import AnswerKeys
from hartonomous.pipelines.query import Answerer
from hartonomous.pipelines.search import Searcher
from hartonomous.pipelines.traffic import Traffic


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
    shared: SharedCache | None


@dataclass(slots=True, frozen=True)
class Search:
    """The reranking service, if there is one, and what answers questions with hits."""

    pools: dict[str, Pool]
    reranking: RerankingClient | None
    searcher: Searcher


def open_pool(name: str, urls: tuple[str, ...], service: Service, metrics: Metrics, stack: AsyncExitStack) -> Pool:
    """Return the connections of a service; nothing is connected yet."""
    pool = Pool(name, urls, service, metrics)
    stack.push_async_callback(pool.close)
    return pool


def open_storage(config: Config, metrics: Metrics, stack: AsyncExitStack) -> Storage:
    """Return what ingests are made with. What is being written when the stack is closed is finished first.

    Raises:
        ConfigError: the language is not known.
    """
    backends, rag = config.backends, config.rag
    Bm25Encoder.for_language(rag.retrieval.language)  # an unknown one fails the start, not a request
    pools = {
        "embedding": open_pool("embedding", backends.embedding.urls, backends.embedding, metrics, stack),
        "qdrant": open_pool("qdrant", (backends.qdrant.url,), backends.qdrant, metrics, stack),
    }
    embedding = EmbeddingClient(pools["embedding"], backends.embedding, metrics)
    tokens = TokenCounter(pools["embedding"], backends.embedding)
    vectors = VectorClient(pools["qdrant"], write_options(backends.qdrant.collections))
    schema = Schema(pools["qdrant"], backends.qdrant)
    shared = open_shared(config, metrics, stack)
    generations = shared or OwnGenerations()
    if rag.cache.answers.enabled:
        vectors.on_change = schema.on_change = generations.advance
    jobs, traffic = Jobs(), Traffic()
    parser = Parser(rag.parsing)
    stack.push_async_callback(parser.close)
    ingestor = Ingestor(embedding, tokens, vectors, schema, parser, jobs, traffic, rag, metrics)
    stack.push_async_callback(ingestor.close)
    stack.push_async_callback(jobs.drain)
    return Storage(pools, embedding, tokens, vectors, schema, ingestor, traffic, generations, shared)


def open_shared(config: Config, metrics: Metrics, stack: AsyncExitStack) -> SharedCache | None:
    """Return what processes share in Redis, if answers are kept there; nothing is connected yet."""
    if not config.rag.cache.answers.enabled or config.redis.url is None:
        return None
    shared = SharedCache(config.redis, metrics)
    stack.push_async_callback(shared.close)
    return shared


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
    store = OwnAnswers(answers, counts) if storage.shared is None else SharedAnswers(answers, storage.shared)
    cached = CachedAnswerer(answerer, keys, store, config.server.request_timeout_s, counts)
    stack.push_async_callback(cached.close)
    return cached


def open_search(config: Config, storage: Storage, metrics: Metrics, stack: AsyncExitStack) -> Search:
    """Return what searches are made with, over the same services as `storage`."""
    service, settings = config.backends.reranking, config.rag.retrieval
    pools, reranking = {}, None
    if service is not None:
        pools["reranking"] = open_pool("reranking", service.urls, service, metrics, stack)
        reranking = RerankingClient(pools["reranking"], service, metrics)
    questions = QuestionVectors(config.rag.cache.embeddings, config.server.request_timeout_s, metrics)
    searcher = Searcher(
        storage.embedding, reranking, storage.vectors, storage.schema, settings, metrics, storage.traffic, questions
    )
    return Search(pools, reranking, searcher)
