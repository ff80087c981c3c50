"""The bodies of requests: pydantic models that validate them and that `/openapi.json` is made from.

They are strict (`"5"` is no number, `true` no integer) and refuse unknown fields.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)
from typing_extensions import TypedDict, override

from hartonomous import codec
from hartonomous.config import COLLECTION_PATTERN, Chunking
from hartonomous.fields import WHOLE
from hartonomous.handlers import filterschema

_METADATA_LEVELS = 16
_METADATA_BYTES = 65_536


class Body(BaseModel):
    """Base of all request bodies under `/rag`."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    _count: ClassVar[int] = 0  # of its fields: to ask pydantic takes 0.5 us

    @classmethod
    @override
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        cls._count = len(cls.model_fields)

    @model_validator(mode="before")
    @classmethod
    def _one_unknown_field(cls, value: Any) -> Any:
        """Keep one unknown field of many: each would cost an error, and a large body has room for a million."""
        if not isinstance(value, dict) or len(value) <= cls._count:
            return value
        unknown = next((name for name in value if name not in cls.model_fields), None)
        known = {name: value[name] for name in cls.model_fields if name in value}
        return known if unknown is None else known | {unknown: value[unknown]}


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


def _no_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not hold a NUL character")
    return text


def _no_control(text: str) -> str:
    if any(ord(char) < 0x20 or 0x7F <= ord(char) <= 0x9F for char in text):
        raise ValueError("must not hold control characters")
    return text


def _bounded(metadata: dict[str, Any]) -> dict[str, Any]:
    """Refuse what is too deep to be filtered on, or too large to be repeated in every chunk. Not recursive."""
    level: list[Any] = [metadata]
    for _ in range(_METADATA_LEVELS):
        children = [item for value in level for item in (value.values() if isinstance(value, dict) else value)]
        level = [child for child in children if isinstance(child, dict | list)]
        if not level:
            break
    else:
        raise ValueError(f"must not be nested deeper than {_METADATA_LEVELS} levels")
    if len(codec.dumps(metadata)) > _METADATA_BYTES:
        raise ValueError(f"must not be larger than {_METADATA_BYTES} bytes")
    return metadata


# A text without NUL, one that is not blank either (what is blank is Python's `str.strip`), and one without controls.
_BLANKS = r"\u0009-\u000d\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_TEXT = {"pattern": r"^[^\u0000]*$"}
_QUESTION = {"pattern": rf"^[^\u0000]*[^\u0000{_BLANKS}][^\u0000]*$"}
_ID = {"pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$"}

Collection = Annotated[str, Field(pattern=COLLECTION_PATTERN, examples=["docs"])]
DocumentId = Annotated[str, Field(min_length=1, max_length=256, json_schema_extra=_ID), AfterValidator(_no_control)]
Question = Annotated[
    str,
    Field(min_length=1, max_length=8_192, json_schema_extra=_QUESTION),
    AfterValidator(_no_nul),
    AfterValidator(_not_blank),
]
Text = Annotated[str, Field(json_schema_extra=_TEXT), AfterValidator(_no_nul)]
TopK = Annotated[int, Field(ge=1, le=100), WHOLE]
MaxTokens = Annotated[int, Field(ge=1, le=32_768), WHOLE]
Temperature = Annotated[float, Field(ge=0, le=2)]
Metadata = Annotated[
    dict[str, Any],
    AfterValidator(_bounded),
    Field(description=f"At most {_METADATA_BYTES} bytes of JSON, {_METADATA_LEVELS} levels deep."),
]


# Beside the fields any part with a file name is a file; the document has one by name, for those who make clients of it.
_CONTROLS = r"\u0000-\u0008\u000e-\u001f\u007f-\u009f"
_FILE: dict[str, Any] = {
    "type": "string",
    "contentMediaType": "application/octet-stream",
    "pattern": rf"^[^{_CONTROLS}]*[A-Za-z0-9][^{_CONTROLS}]*$",
    "description": "A .txt, .text, .md, .markdown, .html, .htm, .pdf or .docx file; the pattern is that of a text.",
}
FILE_ENCODING: dict[str, Any] = {
    "file": {
        "headers": {
            "Content-Disposition": {
                "description": "The ending of the file name says what it is.",
                "schema": {"type": "string"},
                "example": 'form-data; name="file"; filename="notes.txt"',
            }
        }
    }
}
"""What `/openapi.json` says of the part of a form that is a file."""


class AskedChunking(Chunking):
    """How long a chunk may be, in tokens; an overlap of more than half of `max_tokens` counts as half."""

    @model_validator(mode="after")
    def _overlap_is_smaller(self) -> Self:
        return self.model_copy(update={"overlap_tokens": min(self.overlap_tokens, self.max_tokens // 2)})


def _with_file(schema: dict[str, Any]) -> None:
    """Add the file to the schema of a form."""
    schema["properties"]["file"] = _FILE
    schema["required"] = ["file"]


class DocumentBody(Body):
    """One document. Without `id` it is known by a hash of `source`, or else of its text as it was sent."""

    text: Annotated[str, Field(json_schema_extra=_QUESTION), AfterValidator(_no_nul)]
    id: DocumentId | None = None
    format: Literal["text", "markdown", "html"] = "text"
    title: Annotated[Text, Field(max_length=1_024)] | None = None
    source: Annotated[Text, Field(max_length=4_096)] | None = None
    metadata: Metadata | None = None


class IngestBody(Body):
    """Documents for a collection, which is made when there is none."""

    documents: Annotated[list[DocumentBody], Field(min_length=1, max_length=1_000)]
    collection: Collection | None = None
    chunking: AskedChunking | None = None


class IngestParameters(AskedChunking):
    """What is said once for all documents of a stream or of an upload: where they go and how they are cut."""

    collection: Collection | None = None


class UploadFields(IngestParameters):
    """The fields of an upload beside its files. An `id` is for a single file alone."""

    model_config = ConfigDict(title="Upload", json_schema_extra=_with_file)

    id: DocumentId | None = None
    metadata: Metadata | None = None


class SweepBody(Body):
    """What is swept: one collection, or all. `older_than_s` is at least the configured time, which is the default."""

    collection: Collection | None = None
    older_than_s: Annotated[float, Field(gt=0, le=3_153_600_000)] | None = None


class SearchBody(Body):
    """A question for retrieval alone."""

    query: Question
    collection: Collection | None = None
    top_k: TopK | None = None
    mode: Literal["hybrid", "dense", "sparse"] = "hybrid"
    filter: Annotated[dict[str, Any], WithJsonSchema(filterschema.PLACEHOLDER)] | None = None
    rerank: bool = True
    feedback: Annotated[bool, Field(description="Pseudo-relevance feedback: one more search.")] = False
    score_threshold: Annotated[float, Field(ge=0, le=1)] | None = None


class MessageBody(Body):
    """An earlier turn of the conversation."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[Text, Field(max_length=65_536)]


class QueryBody(SearchBody):
    """A question to be answered from the collection."""

    # With `= []` each body would have a deep copy of it, in 1.4 us.
    messages: Annotated[list[MessageBody], Field(max_length=256, json_schema_extra={"default": []})] = Field(
        default_factory=list
    )
    stream: bool = False
    max_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    model: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    system: Annotated[Text, Field(min_length=1, max_length=16_384)] | None = None
    on_failure: Literal["error", "sources"] = "error"
    require_grounding: bool = False


_AnyQuery = Annotated[
    Any, WithJsonSchema({"description": "A `QueryBody`. Whatever is wrong with it is told in its own result."})
]


class BatchQueryBody(Body):
    """Many questions; each is validated by itself, so that a bad one does not fail the others."""

    queries: Annotated[list[_AnyQuery], Field(min_length=1, max_length=256)]
    stream: bool = False


def _text_of(value: Any) -> Any:
    """Take a document in Jina's and Cohere's form, `{"text": …}`, as well as a plain string."""
    return value.get("text") if isinstance(value, dict) else value


RerankDocument = Annotated[
    str,
    BeforeValidator(
        _text_of,
        json_schema_input_type=str | TypedDict("RerankText", {"text": str}),
    ),
]


class RerankBody(BaseModel):
    """llama.cpp's, Jina's and Cohere v2's request in one; unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)

    query: Question
    documents: Annotated[list[RerankDocument], Field(min_length=1, max_length=10_000)]
    top_n: Annotated[int, Field(ge=1), WHOLE] | None = None
    return_documents: bool = False
    model: str | None = None
    normalize: bool = False
