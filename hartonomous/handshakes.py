"""TLS handshakes that failed: each is counted, and who came with nothing that speaks for them is told of.

A line of the log, and where a client's certificate was missing or wrong one of the audit trail, are told of so many in
a second at most; the next line says how many were left out.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable

from hartonomous.audit import Trail
from hartonomous.log import logger
from hartonomous.metrics import Metrics

NO_CERTIFICATE, BAD_CERTIFICATE = "no_certificate", "bad_certificate"

_MOST_TOLD = 10
_WINDOW_S = 1.0
# OpenSSL's words for what came instead of a handshake.
_NOT_TLS = frozenset(("HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"))


def reason_of(error: OSError) -> str:
    """Return the word for why a handshake failed, as the metric has it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return BAD_CERTIFICATE
    if not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLEOFError):
        return "unfinished"  # the client left, or took too long
    if error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return NO_CERTIFICATE
    return "not_tls" if error.reason in _NOT_TLS else "refused"


class Handshakes:
    """Tells of handshakes that failed; `now` is a clock in seconds that never goes back."""

    def __init__(self, metrics: Metrics, trail: Trail, now: Callable[[], float]) -> None:
        self._metrics, self._trail, self._now = metrics, trail, now
        self._began = now() - _WINDOW_S
        self._told = self._left_out = 0

    def failed(self, error: OSError, remote: str) -> None:
        """Count one, and tell of it, unless it is like the probe of a balancer, which leaves before it says a word."""
        reason = reason_of(error)
        self._metrics.tls_failed.labels(reason).inc()
        if reason == "unfinished":
            return
        if not self._has_room():
            self._left_out += 1
            return
        facts = {"remote": remote, "left_out": self._left_out}
        logger.bind(reason=reason, **facts).info("a TLS handshake failed")
        if reason in {NO_CERTIFICATE, BAD_CERTIFICATE}:
            self._trail.write(
                "authentication_failed", key=None, outcome="denied", request_id=None, code=reason, **facts
            )
        self._left_out = 0

    def _has_room(self) -> bool:
        now = self._now()
        if now - self._began >= _WINDOW_S:
            self._began, self._told = now, 0
        self._told += 1
        return self._told <= _MOST_TOLD
