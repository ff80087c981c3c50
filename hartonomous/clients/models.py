"""What llama.cpp says of the model it has loaded: its name, dimension, context size and slots.

`/v1/models` and `/props` are cheap and never wake a sleeping model. What they say is kept for a while and forgotten at
the first nonsensical answer, so that a service restarted with another model is noticed, and as soon as all addresses
are others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from hartonomous import codec
from hartonomous.clients.failures import BackendRefusedError
from hartonomous.clients.pool import NONSENSE, Answer, Pool
from hartonomous.clients.replica import Replica
from hartonomous.core.call import Call
from hartonomous.core.served import Served
from hartonomous.errors import BackendError

_TTL_S = 2.0
# What a server answers that has no list of models, as text-embeddings-inference.
_NO_SUCH_PATH = frozenset({404, 405, 501})
# What is more nobody has counted, and a sum of such may be no number of JSON.
_MOST = 2**53


@dataclass(slots=True, frozen=True)
class ModelInfo:
    """A loaded model. `dimension` is the embedding width, `context` the tokens that one slot can hold."""

    name: str
    dimension: int | None
    context: int | None
    slots: int | None


class ModelInfoCache:
    """The model of one service, asked again when what is known is older than 2 s."""

    def __init__(self, pool: Pool, name: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._name = name
        self._clock = clock
        self._known: ModelInfo | None = None
        self._answers: str | None = None
        self._until = 0.0
        self._serving = pool.addresses.serving

    async def get(self, call: Call) -> ModelInfo:
        """Return the model; raises what `Pool.request` raises, and BackendError on a nonsensical answer."""
        fresh = self.fresh
        if fresh is not None:
            return fresh
        known, serving = self._known, self._serving
        # Others go on with what is known while this one asks.
        self._until = self._clock() + _TTL_S
        found = await self._ask(call)
        if known is not None and known.name == found.name and found.dimension is None:
            found = replace(found, dimension=known.dimension)  # as it was found out
        if serving is self._pool.addresses.serving:
            self._known = found
        if known is not None and known.name != found.name:
            self._answers = None
        return found

    @property
    def fresh(self) -> ModelInfo | None:
        """What `get` returns at once; None where it asks."""
        serving = self._pool.addresses.serving
        if serving is not self._serving:
            self._serving = serving
            self.forget()
        return self._known if self._clock() < self._until else None

    @property
    def known_dimension(self) -> int | None:
        """The dimension as far as it is known, without asking."""
        return None if self._known is None else self._known.dimension

    def forget(self) -> None:
        """Ask again at the next call."""
        self._known = None
        self._answers = None

    def is_another(self, name: object) -> bool:
        """Whether an answer names another model than the ones before it, since the service was asked."""
        if not isinstance(name, str) or self._name is not None:
            return False  # a service that is told which model is wanted repeats it
        known, self._answers = self._answers, self._answers or name
        return known is not None and known != name

    def learn(self, dimension: int) -> None:
        """Complete what the service did not say."""
        if self._known is not None:
            self._known = replace(self._known, dimension=dimension)

    async def _ask(self, call: Call) -> ModelInfo:
        name, meta = await self._listed(call)
        props = await self._props(call)
        settings = _mapping(props.get("default_generation_settings"))
        context = settings.get("n_ctx") or meta.get("n_ctx") or meta.get("n_ctx_train")
        return ModelInfo(name, _positive(meta.get("n_embd")), _positive(context), _positive(props.get("total_slots")))

    async def _listed(self, call: Call) -> tuple[str, dict[str, Any]]:
        """Return the model's name and what is told of it: nothing by a service without a list, whose name is given."""
        try:
            return await self._pool.request(
                "GET",
                "/v1/models",
                call,
                is_lookup=True,
                read=self._read,
                nonsense=f"The {self._pool.name} service answered no list of models.",
            )
        except BackendRefusedError as error:
            if self._name is None or error.answered not in _NO_SUCH_PATH:
                raise
            return self._name, {}

    async def _props(self, call: Call) -> dict[str, Any]:
        """Return llama.cpp's `/props`; servers that have none are no less useful."""
        try:
            return await self._pool.request("GET", "/props", call, is_lookup=True, read=_props, nonsense="no /props")
        except BackendError:
            return {}

    def _read(self, answer: Answer) -> tuple[str, dict[str, Any]]:
        first = codec.loads(answer.body)["data"][0]
        return self._name or str(first["id"]).rsplit("/", 1)[-1], _mapping(first.get("meta"))


async def served(pool: Pool, replica: Replica, call: Call, name: str | None) -> Served | None:
    """Ask one address, past the guard, which model it serves; None where it does not say. `name` is the one we want.

    A server of many models is looked at for that one alone. Raises BackendUnavailableError and DeadlineExceededError.
    """
    try:
        models = codec.loads((await pool.poll("/v1/models", replica, call)).body)["data"]
        named = [(str(model["id"]).rsplit("/", 1)[-1], _mapping(model.get("meta")).get("n_embd")) for model in models]
    except (BackendError, *NONSENSE):
        return None
    wanted = name if name is None else name.rsplit("/", 1)[-1]
    return next((Served(of, _positive(width)) for of, width in named if wanted in {None, of}), None)


def count_of(value: object) -> int:
    """Return a number of tokens that a service counted; 0 where it is none."""
    return value if type(value) is int and 0 < value <= _MOST else 0


def prompt_tokens(usage: object) -> int:
    """Return the tokens of what was sent, by an answer's `usage`; 0 where it says nothing of use."""
    return count_of(usage.get("prompt_tokens")) if isinstance(usage, dict) else 0


def _props(answer: Answer) -> dict[str, Any]:
    return _mapping(codec.loads(answer.body))


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _positive(value: object) -> int | None:
    return count_of(value) or None
