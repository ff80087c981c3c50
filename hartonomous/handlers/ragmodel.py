"""`rag:COLLECTION` as a chat model: the whole query pipeline behind OpenAI's chat completion, streamed or not.

The last user message is the question, the ones before it are the history; system messages are added to the
instruction. `citations` and `grounding` stand beside `choices`, in a stream in the last chunk before the usage chunk.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Any

from aiohttp import web
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from hartonomous import tracing
from hartonomous.config import COLLECTION_PATTERN
from hartonomous.core.access import Grant
from hartonomous.core.call import Call
from hartonomous.errors import HartonomousError, NotFoundError, ValidationFailedError
from hartonomous.handlers import views
from hartonomous.handlers.answers import Timer, cost_headers, json_response, runtime_of
from hartonomous.handlers.body import validate
from hartonomous.handlers.caching import cache_headers, with_wishes
from hartonomous.handlers.metering import answer_of, answered
from hartonomous.handlers.schemas import MaxTokens, Question, Temperature
from hartonomous.handlers.stream import ClientGoneError, EventStream
from hartonomous.keys import Runtime
from hartonomous.log import logger
from hartonomous.pipelines.query import QueryRequest, QueryResult, TextDelta
from hartonomous.pipelines.questions import SearchRequest

PREFIX = "rag:"

_MAX_SYSTEM = 65_536
_COLLECTION = re.compile(COLLECTION_PATTERN.replace("$", r"\Z"))


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _text_or_parts(value: Any) -> Any:
    if value is not None and not isinstance(value, (str, list)):
        raise ValueError("must be a string or a list of parts")
    return value


class _StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    include_usage: bool = False


class _Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    role: str
    content: Annotated[Any, AfterValidator(_text_or_parts)] = None


class ChatBody(BaseModel):
    """What of OpenAI's chat request is honoured; anything else is ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)

    model: str
    messages: list[_Message] = Field(min_length=1, max_length=1_000)
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: float | None = Field(default=None, ge=0, le=1)
    seed: int | None = None
    stop: Annotated[list[str], BeforeValidator(_listed)] | None = None
    n: int | None = None
    tools: list[Any] | None = None


class _QuestionOnly(BaseModel):
    messages: Question


async def chat(request: web.Request, parsed: Mapping[str, Any], call: Call) -> web.StreamResponse:
    """Answer a chat completion from a collection.

    Raises:
        ValidationFailedError: tools, several choices, images, or no user message at the end.
        PermissionDeniedError: a collection that the caller may not see.
        NotFoundError: no such collection.
    """
    runtime, timer = runtime_of(request), Timer()
    call = with_wishes(request, runtime, call)
    body = validate(ChatBody, parsed)
    question = _query_request(body, runtime, call)
    completion = _Completion(body, call)
    try:
        if body.stream:
            return await _stream(request, runtime, question, completion, call)
        result = await answer_of(request, runtime.answerer, question, call)
    except NotFoundError as error:
        raise _no_model() from error
    timings = {**result.timings, "total": timer.ms}
    headers = cost_headers(timings, result.degraded) | cache_headers(runtime, result)
    return json_response(completion.whole(result), headers=headers)


class _Completion:
    """Makes OpenAI's objects for one request."""

    def __init__(self, body: ChatBody, call: Call) -> None:
        self._head = {"id": f"chatcmpl-{os.urandom(12).hex()}", "created": int(time.time()), "model": body.model}
        self._request_id = call.request_id
        self.include_usage = body.stream_options is not None and body.stream_options.include_usage

    def whole(self, result: QueryResult) -> dict[str, Any]:
        message = {"role": "assistant", "content": result.answer}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(result)}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": result.usage.as_dict(),
            **self._beside(result),
        }

    def chunk(self, delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def last(self, result: QueryResult) -> dict[str, Any]:
        return {**self.chunk({}, _finish(result)), **self._beside(result)}

    def usage(self, result: QueryResult) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": result.usage.as_dict()}

    def _beside(self, result: QueryResult) -> dict[str, Any]:
        return {
            "citations": views.citations(result),
            "grounding": views.grounding(result.grounding),
            "degraded": result.degraded,
            "search_query": result.search_query,
            "request_id": self._request_id,
        }


async def _stream(
    request: web.Request, runtime: Runtime, question: QueryRequest, completion: _Completion, call: Call
) -> web.StreamResponse:
    async with aclosing(runtime.answerer.stream(question, call)) as events:
        # Retrieval is done when the first event is there: what fails before has a status code of its own.
        first = await anext(events)
        stream = EventStream(request, cache_headers(runtime, first))
        answered(request, first)
        try:
            async with stream:
                await stream.data(completion.chunk({"role": "assistant", "content": ""}))
                try:
                    async for event in events:
                        answered(request, event)
                        if isinstance(event, TextDelta):
                            await stream.data(completion.chunk({"content": event.text}))
                        elif isinstance(event, QueryResult):
                            await _end(stream, completion, event)
                except HartonomousError as error:
                    tracing.broken_off(call, error)
                    logger.bind(request_id=call.request_id, code=error.error_code).warning("a stream broke off")
                    await stream.data({"error": error.as_dict(), "request_id": call.request_id})
        except ClientGoneError:
            logger.bind(request_id=call.request_id).debug("the client left a stream")
        return stream.response


async def _end(stream: EventStream, completion: _Completion, result: QueryResult) -> None:
    await stream.data(completion.last(result))
    if completion.include_usage:
        await stream.data(completion.usage(result))
    await stream.done()


def collection_of(model: str, grant: Grant) -> str | None:
    """Return the collection that a model's name stands for, None when it stands for none.

    Raises PermissionDeniedError when it is outside of the grant.
    """
    collection = model.removeprefix(PREFIX)
    if collection == model or not _COLLECTION.match(collection):
        return None
    grant.check(collection, param="model")
    return collection


def _query_request(body: ChatBody, runtime: Runtime, call: Call) -> QueryRequest:
    collection = collection_of(body.model, call.grant)
    if collection is None:
        raise _no_model()
    if body.tools:
        raise ValidationFailedError("tools are not taken by a rag: model.", param="tools")
    if body.n is not None and body.n != 1:
        raise ValidationFailedError("n must be 1 for a rag: model.", param="n")
    turns = [{"role": turn.role, "content": _text(index, turn)} for index, turn in enumerate(body.messages)]
    place = max((index for index, turn in enumerate(turns) if turn["role"] == "user"), default=None)
    if place is None:
        raise ValidationFailedError("messages must hold a message of the user.", param="messages")
    query = validate(_QuestionOnly, {"messages": turns[place]["content"]}).messages
    return QueryRequest(
        search=SearchRequest(query=query, collection=collection, top_k=runtime.config.rag.retrieval.top_k),
        history=[turn for turn in turns[:place] if turn["role"] in {"user", "assistant"}],
        added_system=_system(turns),
        max_tokens=body.max_completion_tokens or body.max_tokens,
        options=_options(body),
    )


def _no_model() -> NotFoundError:
    return NotFoundError("There is no such model.", param="model", code="model_not_found")


def _text(index: int, turn: _Message) -> str:
    """Return the text of a message; of content parts only text is taken."""
    if not isinstance(turn.content, list):
        return turn.content or ""
    texts = []
    for place, part in enumerate(turn.content):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValidationFailedError(
                "Only text is taken by a rag: model.", param=f"messages.{index}.content.{place}"
            )
        texts.append(part["text"])
    return "\n".join(texts)


def _system(turns: Sequence[Mapping[str, str]]) -> str | None:
    """Return the caller's system messages, to stand behind the instruction; None when there are none."""
    own = [turn["content"] for turn in turns if turn["role"] in {"system", "developer"} and turn["content"].strip()]
    text = "\n\n".join(own)
    if len(text) > _MAX_SYSTEM:
        raise ValidationFailedError(
            f"The system messages must not have more than {_MAX_SYSTEM} characters.", param="messages"
        )
    return text or None


def _options(body: ChatBody) -> dict[str, Any]:
    options = {"temperature": body.temperature, "top_p": body.top_p, "seed": body.seed, "stop": body.stop}
    return {name: value for name, value in options.items() if value is not None}


def _finish(result: QueryResult) -> str:
    return result.finish_reason if result.finish_reason in {"stop", "length", "content_filter"} else "stop"
