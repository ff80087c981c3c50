"""Our exceptions, each with its HTTP status, OpenAI error type and machine-readable code.

Every layer raises these and nothing else across its boundary: a client turns a foreign exception into one of ours,
the error middleware turns ours into a response. `message` goes to the caller, so it never holds the text of a
library's error, a path, a key or a document; what an operator needs goes to the log through `__cause__`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self


class HartonomousError(Exception):
    """Base of all our errors.

    `param` is the path of the offending request field (`documents.0.text`), `retry_after` whole seconds.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "internal_error"
    code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.headers = headers or {}
        self.error_code = code or self.code

    def __copy__(self) -> Self:
        """Return the same error for another caller; by default an exception is copied by calling its class with `args`,
        which are not what our classes are made of."""
        copied = self.__class__.__new__(self.__class__, *self.args)
        copied.__dict__.update(self.__dict__)
        copied.__cause__ = self.__cause__
        return copied

    def as_dict(self) -> dict[str, Any]:
        """Return the inner error object, OpenAI's shape: message, type, param, code."""
        return {"message": self.message, "type": self.type, "param": self.param, "code": self.error_code}


class InvalidRequestError(HartonomousError):
    """The body is not JSON, or the framing is wrong."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_json"


class AuthenticationError(HartonomousError):
    """No key, or none that is known."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class PermissionDeniedError(HartonomousError):
    """The caller may not do this. `collection` is the one that was asked for, for the audit trail alone."""

    collection: str | None = None
    status = 403
    type = "permission_error"
    code = "permission_denied"


class NotFoundError(HartonomousError):
    """No such path, model, document or collection."""

    status = 404
    type = "not_found_error"
    code = "not_found"


class MethodNotAllowedError(HartonomousError):
    """The path exists, the method does not."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class RequestTimedOutError(HartonomousError):
    """The client was too slow in sending its request."""

    status = 408
    type = "timeout_error"
    code = "request_timeout"


class ConflictError(HartonomousError):
    """The collection was made by another embedding model."""

    status = 409
    type = "conflict_error"
    code = "embedding_model_mismatch"


class PayloadTooLargeError(HartonomousError):
    """The body is larger than the limit."""

    status = 413
    type = "invalid_request_error"
    code = "payload_too_large"


class UnsupportedMediaTypeError(HartonomousError):
    """The content type or content encoding is not one that we read."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_media_type"


class ExpectationFailedError(HartonomousError):
    """The header `Expect` says something else than `100-continue`."""

    status = 417
    type = "invalid_request_error"
    code = "expectation_failed"


class ValidationFailedError(HartonomousError):
    """Well-formed JSON that breaks the schema; `param` names the first bad field."""

    status = 422
    type = "invalid_request_error"
    code = "validation_error"


class BackendError(HartonomousError):
    """A backend answered nonsense: bad JSON, wrong dimension, wrong count, its own 401."""

    status = 502
    type = "backend_error"
    code = "bad_backend_answer"


class BackendUnavailableError(HartonomousError):
    """A backend refuses connections, is loading, or we are draining."""

    status = 503
    type = "backend_unavailable"
    code = "backend_unavailable"


class NotAskedError(BackendUnavailableError):
    """A backend was not even asked: its circuits are open, or the call's turn would come too late."""


class QueueFullError(NotAskedError):
    """So many wait for a backend already that another one is better told at once."""

    status = 429
    type = "rate_limit_error"
    code = "queue_full"


class RateLimitedError(HartonomousError):
    """The caller's own limit is reached; `headers` say which."""

    status = 429
    type = "rate_limit_error"
    code = "too_many_requests"


class DeadlineExceededError(HartonomousError):
    """The request's deadline, or a backend's own timeout, passed."""

    status = 504
    type = "timeout_error"
    code = "deadline_exceeded"


class InsufficientStorageError(HartonomousError):
    """The vector store has no room: nothing was acknowledged."""

    status = 507
    type = "backend_error"
    code = "insufficient_storage"


class ConfigError(HartonomousError):
    """The configuration file is wrong; the message names the key path and the line."""

    code = "bad_configuration"
