"""The configuration: frozen models of every setting, with its default, its unit and its bounds.

`hartonomous.configfile` reads the YAML; this file says what may stand in it. Durations end in `_s` and are seconds,
sizes end in `_bytes`. Models are strict (the text "8700" is no port) and refuse unknown keys.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from hartonomous.core import template as prompt
from hartonomous.core.addresses import is_loopback
from hartonomous.fields import (
    WHOLE,
    FilePath,
    Fraction,
    HeaderName,
    Listener,
    Network,
    RedisUrl,
    Seconds,
    Secret,
    Section,
    Url,
    host_of,
)
from hartonomous.security import Audit, Auth, ClientTls, Cors, Limits, Tls
from hartonomous.services import Backends

COLLECTION_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"

ServiceName = Literal["embedding", "reranking", "generative", "qdrant"]


def _no_own_options(value: dict[str, Any]) -> dict[str, Any]:
    own = sorted(
        {"messages", "model", "stream", "stream_options", "max_tokens", "temperature", "n", "tools"} & set(value)
    )
    if own:
        raise ValueError(f"{own[0]} is set by the server itself")
    return value


class Server(Section):
    """The listening socket and what holds for every request. Without `tls` it speaks plain HTTP.

    `processes` says how many processes serve the same collections, on this host and on others; those of this host that
    read the same file tell each other of reloads in `runtime_directory`. A stop begins with `notice_s` in which work is
    still taken although `/ready` says no. The address of a caller is what a proxy of `trusted_proxies` says it is.
    `/admin` and `/metrics` are served at `admin` instead, if there is one. With `reuse_port` several processes of this
    host listen on the same port, among which the kernel shares out those who connect. The `event_loop` is uvloop where
    that is installed (`auto`), or the one that is named.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8700
    reuse_port: bool = False
    mode: Literal["production", "development"] = "production"
    event_loop: Literal["auto", "uvloop", "asyncio"] = "auto"
    tls: Tls | None = None
    admin: Listener | None = None
    cors: Cors = Cors()
    trusted_proxies: tuple[Network, ...] = ()
    processes: Annotated[int, Field(ge=1, le=65_536)] = 1
    runtime_directory: FilePath | None = None
    request_timeout_s: Seconds = 300.0
    notice_s: Annotated[float, Field(ge=0, le=3_600)] = 0.0
    drain_s: Seconds = 30.0
    keepalive_s: Seconds = 75.0
    header_timeout_s: Seconds = 10.0
    body_timeout_s: Seconds = 30.0
    write_timeout_s: Seconds = 60.0
    max_connections: Annotated[int, Field(ge=16, le=1_000_000)] = 4_096
    max_connections_per_address: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    max_body_bytes: Annotated[int, Field(ge=1_024)] = 16 * 1024 * 1024
    max_line_bytes: Annotated[int, Field(ge=1_024)] = 4 * 1024 * 1024
    max_file_bytes: Annotated[int, Field(ge=1_024)] = 32 * 1024 * 1024
    max_files: Annotated[int, Field(ge=1, le=10_000)] = 100
    max_spool_bytes: Annotated[int, Field(ge=0)] = 64 * 1024 * 1024

    @property
    def is_loopback(self) -> bool:
        """Whether only this host can connect, to either address."""
        admin = self.admin
        return is_loopback(self.host) and (admin is None or admin.startswith("unix:") or is_loopback(host_of(admin)))


class Log(Section):
    """The log of the process: JSON lines on standard error. So many of the newest are kept for `/admin/logs`."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    kept_records: Annotated[int, Field(ge=1, le=1_000_000)] = 2_000


class Tracing(Section):
    """Where spans are sent, by OTLP over HTTP; without an `endpoint` nothing is recorded; a caller's trace goes on.

    Of requests that come without a trace `sample_ratio` are recorded, of others those whose caller says so. `headers`
    are for the collector, such as its API key. At most `max_queue` spans wait; every `interval_s` they are sent, or
    dropped where that takes longer than `timeout_s`.
    """

    endpoint: Url | None = None
    sample_ratio: Fraction = 1.0
    service_name: Annotated[str, Field(min_length=1, max_length=255)] = "hartonomous"
    headers: dict[HeaderName, Secret] = Field(default_factory=dict)
    tls: ClientTls = ClientTls()
    timeout_s: Seconds = 5.0
    interval_s: Seconds = 5.0
    max_queue: Annotated[int, Field(ge=16, le=1_000_000)] = 2_048


class Chunking(Section):
    """How long a chunk may be, in tokens of the embedding model, and how much of it the next one repeats."""

    max_tokens: Annotated[int, Field(ge=16, le=8_192), WHOLE] = 256
    overlap_tokens: Annotated[int, Field(ge=0, le=4_096), WHOLE] = 32

    @model_validator(mode="after")
    def _overlap_is_smaller(self) -> Self:
        if self.overlap_tokens * 2 > self.max_tokens:
            raise ValueError("overlap_tokens must be at most half of max_tokens")
        return self


class Ingest(Section):
    """How documents are taken in.

    While queries are under way the embedding service works at most `share_beside_queries` of the time for ingests.
    Chunks that an ingest left behind unseen are swept `sweep_after_s` seconds after it began.
    """

    share_beside_queries: Annotated[float, Field(gt=0, le=1)] = 0.25
    sweep_after_s: Annotated[float, Field(ge=60, le=31_536_000)] = 3_600.0


class Parsing(Section):
    """The processes that turn files into text, and what one file may cost there.

    `memory_bytes` is of address space; `max_text_bytes` of the text that comes out, in UTF-8.
    """

    workers: Annotated[int, Field(ge=1, le=64)] = 2
    timeout_s: Seconds = 60.0
    memory_bytes: Annotated[int, Field(ge=256 * 1024 * 1024)] = 1024 * 1024 * 1024
    max_text_bytes: Annotated[int, Field(ge=1_024)] = 16 * 1024 * 1024


class Fusion(Section):
    """How the rankings by meaning and by words become one.

    `rrf` is reciprocal rank with the constant `k`; `relative` and `dbsf` add scores, scaled by their range or by their
    distribution. The weights hold for every rule.
    """

    rule: Literal["rrf", "relative", "dbsf"] = "rrf"
    k: Annotated[int, Field(ge=1, le=1_000)] = 60
    dense_weight: Annotated[float, Field(ge=0, le=1_000)] = 1.0
    sparse_weight: Annotated[float, Field(ge=0, le=1_000)] = 1.0

    @model_validator(mode="after")
    def _one_counts(self) -> Self:
        if not self.dense_weight and not self.sparse_weight:
            raise ValueError("dense_weight and sparse_weight cannot both be 0")
        return self


class Retrieval(Section):
    """What a search takes into account.

    `candidates` hits of each kind are fused, the best `rerank_candidates` of them are reranked; `rerank_weight` is the
    reranker's share of the final score, the rest is the search's own. A hit counts as relevant for an answer when its
    cosine similarity reaches `min_similarity`, or it has that share of the question's words, `min_words`, or a code
    that the question names (`core.relevance`).
    """

    top_k: Annotated[int, Field(ge=1, le=100)] = 5
    candidates: Annotated[int, Field(ge=1, le=1_000)] = 50
    fusion: Fusion = Fusion()
    rerank_candidates: Annotated[int, Field(ge=1, le=200)] = 20
    rerank_weight: Fraction = 1.0
    language: str = "english"
    min_similarity: Fraction = 0.3
    min_words: Fraction = 0.67


class Generation(Section):
    """How an answer is made. `template` is a file with the texts of the prompt; `system` replaces its instruction.

    `max_sources` bounds the sources in the prompt where the model's context alone would take more. `options` go to the
    generative service as they are. `rewrite` makes a follow-up a question that stands alone. `grounding` by `embedding`
    also gives support to sentences that say a source's content in other words, for one more embedding call.
    """

    max_tokens: Annotated[int, Field(ge=1, le=32_768)] = 512
    max_sources: Annotated[int, Field(ge=1, le=100)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.1
    options: Annotated[dict[str, Any], AfterValidator(_no_own_options)] = Field(default_factory=dict)
    system: Annotated[str, Field(min_length=1)] | None = None
    template: FilePath | None = None
    rewrite: bool = True
    grounding: Literal["words", "embedding"] = "words"


class PromptTexts(Section):
    """The file that `rag.generation.template` names: the texts of the prompt, with their placeholders."""

    system: str = prompt.DEFAULT_TEMPLATE.system
    user: str = prompt.DEFAULT_TEMPLATE.user
    rewrite: str = prompt.DEFAULT_TEMPLATE.rewrite
    nothing_found: str = prompt.DEFAULT_TEMPLATE.nothing_found

    @field_validator("*")
    @classmethod
    def _has_its_placeholders(cls, value: str, info: ValidationInfo) -> str:
        prompt.check(value, prompt.PLACEHOLDERS[str(info.field_name)])
        return value


class CacheLimits(Section):
    """How much a cache may hold, and how long an entry stays in it."""

    max_entries: Annotated[int, Field(ge=1, le=10_000_000)]
    max_bytes: Annotated[int, Field(ge=1_024)]
    ttl_s: Seconds


class EmbeddingCache(CacheLimits):
    """The vectors of questions, in the memory of each process."""

    max_entries: Annotated[int, Field(ge=1, le=10_000_000)] = 10_000
    max_bytes: Annotated[int, Field(ge=1_024)] = 32 * 1024 * 1024
    ttl_s: Seconds = 3_600.0


class AnswerCache(CacheLimits):
    """Whole answers. In Redis, `max_entries` and `max_bytes` are Redis' own affair."""

    enabled: bool = False
    max_entries: Annotated[int, Field(ge=1, le=10_000_000)] = 1_000
    max_bytes: Annotated[int, Field(ge=1_024)] = 64 * 1024 * 1024
    ttl_s: Seconds = 300.0


class Cache(Section):
    """What is kept so that it need not be asked again."""

    embeddings: EmbeddingCache = EmbeddingCache()
    answers: AnswerCache = AnswerCache()


class Rag(Section):
    """Ingest, search and query."""

    default_collection: Annotated[str, Field(pattern=COLLECTION_PATTERN)] = "docs"
    chunking: Chunking = Chunking()
    ingest: Ingest = Ingest()
    parsing: Parsing = Parsing()
    retrieval: Retrieval = Retrieval()
    generation: Generation = Generation()
    cache: Cache = Cache()


class Redis(Section):
    """What several processes share; without a `url` there is none."""

    url: RedisUrl | None = None
    username: Annotated[str, Field(min_length=1)] | None = None
    password: Secret | None = None
    tls: ClientTls = ClientTls()
    timeout_s: Seconds = 0.5


class Health(Section):
    """How often each backend is polled, and which of them must be up for `/ready`."""

    interval_s: Seconds = 5.0
    timeout_s: Seconds = 2.0
    canary_interval_s: Seconds = 60.0
    ready: tuple[ServiceName, ...] = ("embedding", "qdrant", "generative")


class Config(Section):
    """The whole file."""

    auth: Auth = Auth()
    server: Server = Server()
    limits: Limits = Limits()
    audit: Audit = Audit()
    log: Log = Log()
    tracing: Tracing = Tracing()
    backends: Backends
    rag: Rag = Rag()
    redis: Redis = Redis()
    health: Health = Health()

    @field_validator("server")
    @classmethod
    def _only_loopback_without_keys(cls, value: Server, info: ValidationInfo) -> Server:
        auth = info.data.get("auth")
        if auth is not None and not auth.keys and not value.is_loopback:
            raise ValueError(
                "without keys only loopback addresses can be served: host and admin must be 127.0.0.1 or ::1"
            )
        return value

    @model_validator(mode="after")
    def _processes_share_their_answers(self) -> Self:
        if self.rag.cache.answers.enabled and self.server.processes > 1 and self.redis.url is None:
            raise ValueError("rag.cache.answers over several processes (server.processes) needs redis.url")
        return self

    @model_validator(mode="after")
    def _processes_count_together(self) -> Self:
        limits = [self.limits.address, self.limits.key, *(key.limits for key in self.auth.keys if key.limits)]
        if self.server.processes > 1 and self.redis.url is None and any(limit.is_set for limit in limits):
            raise ValueError("limits over several processes (server.processes) need redis.url")
        return self

    @model_validator(mode="after")
    def _ready_names_configured_services(self) -> Self:
        if "reranking" in self.health.ready and self.backends.reranking is None:
            raise ValueError("health.ready names reranking, which is not configured")
        return self
