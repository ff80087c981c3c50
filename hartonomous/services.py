"""The configuration of the services behind us: addresses, keys, timeouts, bounds, and how collections are made."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from hartonomous.fields import WHOLE, FilePath, Seconds, Secret, Section, StoreUrl, Url, check_url
from hartonomous.security import ClientTls

# What a service that does not say how many slots it has takes at once.
_SLOTS = 8
_PORTS = {"http": 80, "https": 443}

IndexedField = Annotated[str, Field(pattern=r"^metadata\.[^\s\[\]]{1,128}$")]
IndexKind = Literal["keyword", "integer", "float", "bool", "datetime", "uuid"]


class Address(Section):
    """One address of a model service, and how much it can take, compared with the others; with 0 it gets no calls."""

    url: Url
    weight: Annotated[int, Field(ge=0, le=1_000), WHOLE] = 1


def _read_address(value: object) -> object:
    """Return an address that stands there by itself, without a weight."""
    return Address(url=check_url(value)) if isinstance(value, str) else value


def _check_addresses(addresses: tuple[Address, ...]) -> tuple[Address, ...]:
    known = set()
    for address in addresses:
        parts = urlsplit(address.url)
        same = parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme], parts.path
        if same in known:
            raise ValueError(f"{address.url} stands here twice")
        known.add(same)
    if addresses and not any(address.weight for address in addresses):
        raise ValueError("expected at least one address with a weight above 0")
    return addresses


Addresses = Annotated[
    tuple[Annotated[Address, BeforeValidator(_read_address)], ...],
    Field(min_length=1),
    AfterValidator(_check_addresses),
]


class Breaker(Section):
    """When an address that fails is left alone: after so many failures in a row, for `open_s` seconds.

    That time doubles with each failure after it, up to `max_open_s`.
    """

    failures: Annotated[int, Field(ge=1, le=1_000)] = 5
    open_s: Seconds = 1.0
    max_open_s: Seconds = 10.0


class Service(Section):
    """What every backend has: addresses, a key, timeouts, bounds.

    Each address takes `concurrency` calls at once; `queue` more wait for their turn.
    """

    api_key: Secret | None = None
    tls: ClientTls = ClientTls()
    concurrency: Annotated[int, Field(ge=1, le=4_096)] | None = 8
    adaptive_concurrency: bool = False
    queue: Annotated[int, Field(ge=0, le=65_536)] = 256
    connect_timeout_s: Seconds = 2.0
    first_byte_timeout_s: Seconds = 30.0
    idle_timeout_s: Seconds = 60.0
    timeout_s: Seconds = 60.0
    breaker: Breaker = Breaker()
    max_answer_bytes: Annotated[int, Field(ge=1_024)] = 64 * 1024 * 1024

    @property
    def slots(self) -> int:
        """How many calls an address takes at once, as far as the configuration says."""
        return self.concurrency or _SLOTS


class ModelService(Service):
    """A model service: one or more addresses that serve the same model."""

    urls: Addresses
    model: Annotated[str, Field(min_length=1)] | None = None


class Embedding(ModelService):
    """The embedding service."""

    hedging: bool = True
    batch_size: Annotated[int, Field(ge=1, le=2_048)] = 64
    tokenizer: FilePath | None = None
    query_prefix: str = ""
    document_prefix: str = ""


class Reranking(ModelService):
    """The reranking service; `scores` says what it answers: raw logits, or similarities in 0..1."""

    hedging: bool = True
    scores: Literal["logits", "unit"] = "logits"


class Generative(ModelService):
    """The generative service; its context size is asked from it unless it is given here."""

    concurrency: Annotated[int, Field(ge=1, le=4_096)] | None = None
    first_byte_timeout_s: Seconds = 300.0
    timeout_s: Seconds = 300.0
    context_tokens: Annotated[int, Field(ge=128)] | None = None


class Collections(Section):
    """How new collections are made; those that are there stay as they are until they are reindexed.

    `None` leaves it to the vector store. `indexes` are payload fields that filters use, e.g. `metadata.team`, with
    Qdrant's name for their kind.
    """

    distance: Literal["cosine", "dot"] = "cosine"
    quantization: Literal["none", "scalar", "binary"] = "none"
    on_disk: bool = False
    shards: Annotated[int, Field(ge=1, le=1_024)] | None = None
    replicas: Annotated[int, Field(ge=1, le=64)] | None = None
    write_consistency: Annotated[int, Field(ge=1, le=64)] | None = None
    indexes: dict[IndexedField, IndexKind] = Field(default_factory=dict)


class Qdrant(Service):
    """The vector store: Qdrant, or `hartonomous engine`, which speaks Qdrant's REST.

    In a cluster writes are ordered, so that all replicas do them in the same order: by one node of each shard, whatever
    happens (`strong`, the default where `collections.replicas` is more than 1), or by another one while that is away
    (`medium`).
    """

    url: StoreUrl = "http://127.0.0.1:6333"
    concurrency: Annotated[int, Field(ge=1, le=4_096)] | None = 32
    first_byte_timeout_s: Seconds = 15.0
    timeout_s: Seconds = 30.0
    write_ordering: Literal["medium", "strong"] | None = None
    collections: Collections = Collections()


class Backends(Section):
    """The services behind us. Without `reranking` the order of the search stays."""

    embedding: Embedding
    generative: Generative
    reranking: Reranking | None = None
    qdrant: Qdrant = Qdrant()
