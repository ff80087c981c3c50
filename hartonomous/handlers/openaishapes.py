"""What of OpenAI's requests and answers `/openapi.json` describes: what every llama.cpp server takes and gives.

The relayed routes pass bodies on as they are, so what is not described is passed on as well.
"""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import BaseModel, ConfigDict, WithJsonSchema
from typing_extensions import TypedDict

from hartonomous.handlers.shapes import ErrorAnswer

_TEXT_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
_Content = Annotated[
    Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}, {"type": "array", "items": _TEXT_PART}]})
]
_Input = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "minItems": 1, "items": {"type": "string"}},
                {
                    "type": "array",
                    "minItems": 1,
                    "items": {"enum": list(range(128))},
                    "description": "Tokens of the model: these every vocabulary has, and more as it has them.",
                },
            ]
        }
    ),
]


class ChatMessage(BaseModel):
    """A turn of the conversation."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: _Content


class ChatRequest(BaseModel):
    """A chat completion. Whatever else llama.cpp takes is passed on; a `rag:` model ignores it."""

    model_config = ConfigDict(extra="allow")

    messages: list[ChatMessage]
    model: Annotated[Any, WithJsonSchema({"description": "`rag:COLLECTION`, or what the backend has."})] = None
    stream: Annotated[Any, WithJsonSchema({"type": ["boolean", "null"]})] = None


class EmbeddingsRequest(BaseModel):
    """Texts to be embedded."""

    model_config = ConfigDict(extra="allow")

    input: _Input


class RelayedErrorObject(TypedDict):
    """A backend's own error."""

    message: str
    type: NotRequired[str]
    code: NotRequired[int | str | None]


class RelayedError(TypedDict):
    """A backend's own refusal, as it came."""

    error: RelayedErrorObject


AnyError = ErrorAnswer | RelayedError
