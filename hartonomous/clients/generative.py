"""The generative service: chat completions, whole or as a stream of deltas, and how many tokens a prompt has.

A generation is never repeated. A stream that ends without `[DONE]`, or that carries an error, raises: what came
before it was given out, what is missing is never papered over. A stream that is left closes the connection, which frees
llama.cpp's slot.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, NamedTuple

from hartonomous import codec
from hartonomous.clients.models import ModelInfo, ModelInfoCache, count_of
from hartonomous.clients.opened import Opened
from hartonomous.clients.pool import NONSENSE, Answer, Pool
from hartonomous.clients.status import raise_for_status
from hartonomous.clients.tokenize import Tokenize
from hartonomous.core.call import Call
from hartonomous.core.sse import SSEParser
from hartonomous.core.trace import Value
from hartonomous.errors import BackendError
from hartonomous.metrics import Metrics
from hartonomous.ragmetrics import Pace
from hartonomous.services import Generative

_NOT_A_COMPLETION = "The generative service answered something that is no chat completion."
_PATH = "/v1/chat/completions"
_STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
_DONE = "[DONE]"
# A server that cannot render a prompt is asked again after so long.
_RENDER_AGAIN_S = 30.0


class Usage(NamedTuple):
    """Tokens of one generation, as the service counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def as_dict(self) -> dict[str, int]:
        """Return OpenAI's usage object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


class Delta(NamedTuple):
    """A piece of an answer; the last one carries `finish_reason`, one of them the usage."""

    text: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None
    model: str | None = None


class GenerativeClient:
    """Generates answers."""

    def __init__(self, pool: Pool, config: Generative, metrics: Metrics) -> None:
        self._pool = pool
        self._config = config
        self._model = {} if config.model is None else {"model": config.model}
        self._info = ModelInfoCache(pool, config.model)
        self._tokenize = Tokenize(pool)
        self._no_render_until = 0.0
        self._metrics = metrics.rag
        self._tokens_in = metrics.tokens.labels("generative", "in")
        self._tokens_out = metrics.tokens.labels("generative", "out")

    async def model(self, call: Call) -> ModelInfo:
        """Return the name and context size of the model that the service has loaded."""
        return await self._info.get(call)

    async def context_tokens(self, call: Call) -> int:
        """Return how many tokens prompt and answer may have together; 2,048 where the service does not say."""
        return self._config.context_tokens or (await self._info.get(call)).context or 2_048

    async def context_anew(self, call: Call) -> int:
        """Return the context as the service says it now, for it has refused what should have fitted.

        It may have been restarted with another one, and what is configured may be too much. Raises what `model` raises.
        """
        self._info.forget()
        told = (await self._info.get(call)).context or 2_048
        return min(told, self._config.context_tokens or told)

    async def render(self, request: Mapping[str, Any], call: Call) -> str | None:
        """Return the text that the model's chat template makes of a chat request (llama.cpp's `/apply-template`).

        None when the service cannot say; it is not asked again for 30 s then. Raises BackendUnavailableError and
        DeadlineExceededError.
        """
        if time.monotonic() < self._no_render_until:
            return None
        try:
            return await self._pool.request(
                "POST",
                "/apply-template",
                call,
                codec.dumps({**self._model, **request}),
                is_lookup=True,
                read=_read_prompt,
                nonsense="The generative service answered something that is no prompt.",
            )
        except BackendError:
            self._no_render_until = time.monotonic() + _RENDER_AGAIN_S
            return None

    async def count_tokens(self, texts: Sequence[str], call: Call) -> list[int] | None:
        """Return how many tokens each text has as a prompt of its own; None when the service cannot say.

        Raises BackendUnavailableError and DeadlineExceededError.
        """
        try:
            return await self._tokenize.count(texts, call)
        except BackendError:
            return None

    async def chat(self, request: Mapping[str, Any], call: Call) -> Delta:
        """Generate a whole answer: one delta with text, finish reason, usage and model.

        It is asked for as a stream: llama.cpp notices at the next token that nobody wants the rest of a stream, of a
        whole answer it may not notice before the end. Raises what `stream` raises.
        """
        async with self._asked(request, call) as opened:
            if opened.status != 200:
                await _check_status(opened, self._pool.name)
            if opened.content_type != codec.SSE:
                return await self._whole(opened)
            reading = _Reading(Pace(self._metrics, call.exemplar))
            deltas: list[Delta] = []
            while not reading.is_over:
                deltas += self._heard(opened, reading, await opened.piece())
        return _put_together(deltas)

    async def stream(self, request: Mapping[str, Any], call: Call) -> AsyncGenerator[Delta]:
        """Generate an answer as it comes. Use within `contextlib.aclosing`.

        Raises what `Pool.open` raises before the first delta; afterwards BackendError or DeadlineExceededError.
        """
        async with self._asked(request, call) as opened:
            if opened.status != 200:
                await _check_status(opened, self._pool.name)
            if opened.content_type != codec.SSE:
                yield await self._whole(opened)
                return
            reading = _Reading(Pace(self._metrics, call.exemplar))
            while not reading.is_over:
                for delta in self._heard(opened, reading, await opened.piece()):
                    yield delta

    def _asked(self, request: Mapping[str, Any], call: Call) -> AbstractAsyncContextManager[Opened]:
        body = codec.dumps({**self._model, **request, **_STREAMED})
        return self._pool.open("POST", _PATH, call, body)

    def _heard(self, opened: Opened, reading: _Reading, data: bytes) -> Iterator[Delta]:
        """Yield what the next bytes of a stream say. Raises BackendError when there are none, or no deltas."""
        if not data:
            raise opened.broken()
        for delta in reading.feed(data):
            if delta.usage is not None:
                self._count(delta.usage)
            if delta.usage is not None or delta.finish_reason is not None:
                opened.tells(_said, delta)
            yield delta

    async def _whole(self, opened: Opened) -> Delta:
        """Return the answer of a server that does not stream."""
        body = await opened.read()
        try:
            delta = _read_completion(body)
        except NONSENSE as error:
            raise BackendError(_NOT_A_COMPLETION) from error
        if delta.usage is not None:
            self._count(delta.usage)
        opened.tells(_said, delta)
        return delta

    def _count(self, usage: Usage) -> None:
        self._tokens_in.value += usage.prompt_tokens
        self._tokens_out.value += usage.completion_tokens


async def _check_status(opened: Opened, name: str) -> None:
    raise_for_status(name, opened.status, await opened.read(), opened.headers)


class _Reading:
    """The deltas of a stream of events, whose `[DONE]` makes it over."""

    __slots__ = ("_pace", "_parser", "is_over")

    def __init__(self, pace: Pace) -> None:
        self._parser, self._pace = SSEParser(), pace
        self.is_over = False

    def feed(self, data: bytes) -> Iterator[Delta]:
        """Yield what the next bytes say. Raises BackendError where that is no delta."""
        for parsed in self._parsed([event.data for event in self._parser.feed(data)]):
            delta = _delta(parsed)
            if delta.text:
                self._pace.token()
            if delta.usage is not None:
                self._pace.counted(delta.usage.completion_tokens)
            yield delta

    def _parsed(self, texts: list[str]) -> Iterator[Any]:
        """Yield the objects that events hold, up to `[DONE]`: of several that came at once they are read in one."""
        if _DONE in texts:
            del texts[texts.index(_DONE) :]
            self.is_over = True
        if len(texts) > 1:
            with suppress(codec.NotJsonError):
                parsed = codec.loads(f"[{','.join(texts)}]")
                if len(parsed) == len(texts):
                    yield from parsed
                    return
        for text in texts:
            yield _loads(text)


def _loads(text: str) -> Any:
    try:
        return codec.loads(text)
    except codec.NotJsonError as error:
        raise BackendError(_NOT_A_COMPLETION) from error


def _delta(parsed: Any) -> Delta:
    try:
        if "error" in parsed:
            raise BackendError("The generative service failed within its stream.")
        choices = parsed["choices"]
        choice = choices[0] if choices else {}
        text = (choice.get("delta") or {}).get("content") or ""
        return Delta(str(text), _name(choice, "finish_reason"), _usage(parsed), _name(parsed, "model"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BackendError(_NOT_A_COMPLETION) from error


def _put_together(deltas: Sequence[Delta]) -> Delta:
    """Return what several deltas say as one: all text, and the last of what else they tell."""
    finish_reason = usage = model = None
    for delta in deltas:
        finish_reason, usage = delta.finish_reason or finish_reason, delta.usage or usage
        model = delta.model or model
    return Delta("".join([delta.text for delta in deltas]), finish_reason, usage, model)


def _said(delta: Delta) -> dict[str, Value]:
    """Return what a span says of a delta: what it cost and how it ended, nothing of its text."""
    said: dict[str, Value] = {}
    if delta.usage is not None:
        said["gen_ai.usage.input_tokens"] = delta.usage.prompt_tokens
        said["gen_ai.usage.output_tokens"] = delta.usage.completion_tokens
    if delta.finish_reason is not None:
        said["gen_ai.response.finish_reasons"] = [delta.finish_reason]
        if delta.model is not None:
            said["gen_ai.response.model"] = delta.model
    return said


def _read_prompt(answer: Answer) -> str:
    prompt = codec.loads(answer.body)["prompt"]
    if not isinstance(prompt, str):
        raise TypeError("no text")
    return prompt


def _read_completion(body: bytes) -> Delta:
    parsed = codec.loads(body)
    choice = parsed["choices"][0]
    text = choice["message"].get("content") or ""
    return Delta(str(text), _name(choice, "finish_reason"), _usage(parsed), _name(parsed, "model"))


def _name(parsed: Mapping[str, Any], key: str) -> str | None:
    value = parsed.get(key)
    return value if isinstance(value, str) else None


def _usage(parsed: Mapping[str, Any]) -> Usage | None:
    usage = parsed.get("usage")
    if not usage:
        return None
    return Usage(count_of(usage.get("prompt_tokens")), count_of(usage.get("completion_tokens")))
