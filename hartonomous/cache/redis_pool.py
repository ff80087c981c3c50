"""The connections to Redis, made one way for all that is shared through it: TLS, name and password, bounded waiting."""

from __future__ import annotations

import ssl
from typing import Any

from redis.asyncio import BlockingConnectionPool, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from hartonomous.clienttls import Trust
from hartonomous.config import Redis

CONNECTIONS = 32


class _Secure(SSLConnection):
    """A connection with a context of our own: redis-py's would believe the system's authorities beside ours."""

    def __init__(self, *, tls: ssl.SSLContext, **options: Any) -> None:
        super().__init__(**options)
        self.ssl_context.context = tls


def redis_pool(config: Redis, trust: Trust | None = None, connections: int = CONNECTIONS) -> BlockingConnectionPool:
    """Return a pool for `redis.asyncio.Redis(connection_pool=…)`; nothing is connected yet.

    Connecting, each answer and the wait for one of the `connections` take at most `timeout_s`; nothing is tried again,
    as that would hide that Redis was started anew. `trust` is what the configuration says of TLS.
    """
    assert config.url is not None
    pool = BlockingConnectionPool.from_url(
        config.url,
        max_connections=connections,
        timeout=config.timeout_s,
        username=config.username,
        password=None if config.password is None else config.password.get_secret_value(),
        socket_timeout=config.timeout_s,
        socket_connect_timeout=config.timeout_s,
        retry=Retry(NoBackoff(), 0),
    )
    if trust is not None:
        pool.connection_class = _Secure
        pool.connection_kwargs["tls"] = trust.context
    return pool
