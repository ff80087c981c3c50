"""A backend's status code to one of our errors.

llama.cpp and Qdrant say more in the body than in the status: an input that is too long is llama.cpp's 500, a
missing collection is Qdrant's 404, a full disk its 500 or 507. The texts are matched, never relayed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from hartonomous.clients.failures import (
    BackendBusyError,
    BackendFailedError,
    BackendRefusedError,
    CredentialsRefusedError,
)
from hartonomous.core.retry import parse_retry_after
from hartonomous.errors import (
    ConflictError,
    HartonomousError,
    InsufficientStorageError,
    NotFoundError,
    ValidationFailedError,
)

_TOO_LONG = (
    b"too large",
    b"exceeds the available context",
    b"exceed_context_size",
    b"larger than the max context",
    # other servers with OpenAI's API
    b"context_length_exceeded",
    b"maximum context length",
)
# llama.cpp's 500 to what it does not take: images without a projector, messages and tools of a shape that is none.
_NOT_TAKEN = (b"input is not supported", b"Failed to parse messages", b"Failed to parse tools")
_NO_SPACE = (b"No space left", b"no space left", b"out of disk")


def raise_for_status(name: str, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    """Raise the error that stands for `status`; return when it is 2xx."""
    if not 200 <= status < 300:
        raise _error(name, status, body, headers)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds after which a service asks to be asked again; None where it does not say."""
    return parse_retry_after(headers.get("Retry-After"), now=time.time())


def is_too_long(body: bytes) -> bool:
    """Whether a model service says that the input does not fit its context."""
    return any(text in body for text in _TOO_LONG)


def _error(name: str, status: int, body: bytes, headers: Mapping[str, str]) -> HartonomousError:
    if is_too_long(body):
        return ValidationFailedError(f"The input is too long for the {name} service.", code="input_too_long")
    if name != "qdrant" and any(text in body for text in _NOT_TAKEN):
        return ValidationFailedError(f"The {name} service does not take this request.", code="not_supported")
    if name == "qdrant" and (status == 507 or any(text in body for text in _NO_SPACE)):
        return InsufficientStorageError("The vector store has no space left.")
    if status in {429, 503}:
        wait_s = retry_after_s(headers)
        return BackendBusyError(f"The {name} service is not available.", wait_s=wait_s, is_overload=status == 429)
    if status in {401, 403}:
        return CredentialsRefusedError(f"The {name} service refused our credentials.")
    if name == "qdrant" and status == 404:
        return NotFoundError("There is no such collection.", code="collection_not_found")
    if name == "qdrant" and status == 409:
        return ConflictError("The collection exists already.", code="collection_exists")
    if 400 <= status < 500 or status == 501:
        return BackendRefusedError(f"The {name} service refused the request (status {status}).", answered=status)
    return BackendFailedError(f"The {name} service failed (status {status}).")
