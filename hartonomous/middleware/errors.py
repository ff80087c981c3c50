"""The third floor: every error that leaves the application has the one shape of `codec.error_body`.

Ours carry their status. What aiohttp raises for an unmatched path, a wrong method or a large body is translated.
Anything else is a bug: logged with its traceback, answered 500 without a word about its inside. Once a response has
begun nothing can be said any more, so the error goes up and the connection is cut.
"""

from __future__ import annotations

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from hartonomous import codec
from hartonomous.errors import (
    HartonomousError,
    InvalidRequestError,
    MethodNotAllowedError,
    NotAskedError,
    NotFoundError,
    PayloadTooLargeError,
)
from hartonomous.keys import REQUEST_ID
from hartonomous.log import logger
from hartonomous.middleware.audit import note_error


def answer_to(request: web.Request, error: Exception) -> web.Response:
    """Turn an exception into an error response."""
    return _answer(request, _ours(request, error))


def _ours(request: web.Request, error: Exception) -> HartonomousError:
    """Return the error of ours that stands for `error`, and log what an operator should know of it."""
    if isinstance(error, HartonomousError):
        _log_fault(request, error)
        return error
    if isinstance(error, web.HTTPException):
        return _translate(error)
    if isinstance(error, web.RequestPayloadError | HttpProcessingError):
        return InvalidRequestError("The body is cut off, or its framing is broken.", code="bad_framing")
    logger.bind(request_id=request[REQUEST_ID]).opt(exception=error).error("unhandled error")
    return HartonomousError("An internal error occurred.")


def _answer(request: web.Request, error: HartonomousError) -> web.Response:
    note_error(request, error)
    headers = dict(error.headers)
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return web.Response(
        status=error.status,
        body=codec.error_body(error, request[REQUEST_ID]),
        content_type=codec.JSON,
        headers=headers,
    )


def _log_fault(request: web.Request, error: HartonomousError) -> None:
    """A backend's fault is worth a line with its cause; a caller's fault stands in the access record.

    So does that a backend was not asked: its circuit has had its line, and there may be many such callers.
    """
    if error.status >= 500 and not isinstance(error, NotAskedError):
        cause = error.__cause__
        logger.bind(
            request_id=request[REQUEST_ID],
            code=error.error_code,
            status=error.status,
            cause=type(cause).__name__ if cause else None,
        ).warning("{}", error.message)


def _translate(error: web.HTTPException) -> HartonomousError:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return MethodNotAllowedError(f"This path takes {allowed}.", headers={"Allow": allowed})
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return PayloadTooLargeError("The body is larger than the limit.")
    if isinstance(error, web.HTTPNotFound):
        return NotFoundError("There is no such path.", code="path_not_found")
    return InvalidRequestError("The request is malformed.", code="bad_request")
