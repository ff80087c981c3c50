"""A backend's status and body to one of our errors, whose text is never the backend's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.clients.failures import (
    BackendBusyError,
    BackendFailedError,
    BackendRefusedError,
    CredentialsRefusedError,
)
from hartonomous.clients.status import raise_for_status
from hartonomous.errors import (
    ConflictError,
    HartonomousError,
    InsufficientStorageError,
    NotFoundError,
    ValidationFailedError,
)

TOO_LARGE = b'{"error":{"code":500,"message":"input is too large to process. increase the physical batch size"}}'
CONTEXT = b'{"error":{"code":400,"message":"the request exceeds the available context size","n_ctx":4096}}'
OPENAI_CONTEXT = b'{"object":"error","message":"This model\'s maximum context length is 4096 tokens.","code":400}'
NO_SPACE = b'{"status":{"error":"Service internal error: No space left on device (os error 28)"}}'


def _error(name: str, status: int, body: bytes = b"", **headers: str) -> HartonomousError:
    with pytest.raises(HartonomousError) as failure:
        raise_for_status(name, status, body, {name.replace("_", "-"): value for name, value in headers.items()})
    return failure.value


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_success_raises_nothing(status: int) -> None:
    raise_for_status("embedding", status, TOO_LARGE, {})


@pytest.mark.parametrize(
    ("name", "status", "body", "kind", "answered"),
    [
        ("embedding", 500, TOO_LARGE, ValidationFailedError, 422),
        ("generative", 400, CONTEXT, ValidationFailedError, 422),
        ("generative", 400, OPENAI_CONTEXT, ValidationFailedError, 422),
        ("embedding", 500, b"", BackendFailedError, 502),
        ("generative", 500, b'{"error":{"message":"Failed to parse messages: x"}}', ValidationFailedError, 422),
        ("embedding", 502, b"", BackendFailedError, 502),
        ("embedding", 401, b"", CredentialsRefusedError, 502),
        ("qdrant", 403, b"", CredentialsRefusedError, 502),
        ("embedding", 400, b"", BackendRefusedError, 502),
        ("embedding", 404, b"", BackendRefusedError, 502),
        ("embedding", 409, b"", BackendRefusedError, 502),
        ("embedding", 301, b"", BackendFailedError, 502),
        ("embedding", 101, b"", BackendFailedError, 502),
        ("embedding", 503, b'{"error":{"message":"Loading model"}}', BackendBusyError, 503),
        ("embedding", 429, b"", BackendBusyError, 503),
        ("embedding", 500, NO_SPACE, BackendFailedError, 502),
        ("qdrant", 404, b"", NotFoundError, 404),
        ("qdrant", 409, b"", ConflictError, 409),
        ("qdrant", 500, NO_SPACE, InsufficientStorageError, 507),
        ("qdrant", 507, b"", InsufficientStorageError, 507),
    ],
)
def test_the_status_and_what_the_body_says_decide(
    name: str, status: int, body: bytes, kind: type[HartonomousError], answered: int
) -> None:
    error = _error(name, status, body)
    assert (type(error), error.status) == (kind, answered)


@pytest.mark.parametrize(
    ("given_header", "seconds"),
    [("7", 7), ("0", 1), ("0.2", 1), ("-3", 1), ("soon", 1), ("9" * 70, 1), ("3000", 30), ("nan", 1), ("inf", 1)],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_passed_on_within_reason(status: int, given_header: str, seconds: int) -> None:
    assert _error("generative", status, b"", Retry_After=given_header).retry_after == seconds


def test_without_retry_after_it_is_a_second() -> None:
    assert _error("generative", 503).retry_after == 1


@given(st.integers(100, 999), st.binary(max_size=200), st.sampled_from(["embedding", "generative", "qdrant"]))
def test_every_status_but_success_is_an_error_of_ours_without_the_body(status: int, body: bytes, name: str) -> None:
    if 200 <= status < 300:
        return
    marked = b"sk-inside /opt/path " + body
    error = _error(name, status, marked)
    assert "sk-inside" not in error.message
    assert "/opt" not in error.message
    assert 400 <= error.status < 600
