"""nginx with static answers: the fastest backend that there is, on a port for each of its faces.

A chat is answered whole, whatever its body asks; on a port of its own as a stream. A search finds one ranking or
another, on a port of its own one of many (see `tests.bench.rankings`). What is not static goes to the vector engine.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.machine import program
from tests.bench.rankings import FEW, MANY

_CONFIG = """
daemon off;
{user}
worker_processes 1;
worker_rlimit_nofile 16384;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    types {{ application/json json; text/event-stream sse; }}
    default_type application/json;
    keepalive_requests 100000000;
    client_max_body_size 64m;
    client_body_buffer_size 1m;
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
    root {folder}/static;
    open_file_cache max=4000 inactive=1h;
    open_file_cache_valid 1h;
    split_clients $request_id $few {{
{few}
    }}
    split_clients $request_id $many {{
{many}
    }}
    map $server_port $ranking {{ {wide_port} $many; default $few; }}
    map $server_port $said {{ {stream_port} sse; default json; }}
    upstream engine {{ server {engine}; keepalive 32; }}
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    server {{
        listen 127.0.0.1:{port} backlog=8192;
        listen 127.0.0.1:{stream_port} backlog=8192;
        listen 127.0.0.1:{wide_port} backlog=8192;
        error_page 405 =200 $uri;
        location = /v1/chat/completions {{ rewrite ^ /chat.$said; }}
        location = /v1/rerank {{ rewrite ^ /rerank.json; }}
        location = /v1/models {{ rewrite ^ /models.json; }}
        location = /props {{ rewrite ^ /props.json; }}
        location = /health {{ rewrite ^ /health.json; }}
        location = /collections/docs/points/query {{ rewrite ^ /query-$ranking.json; }}
        location = /collections/docs/points/query/batch {{ rewrite ^ /batch-$ranking.json; }}
        location ~ \\.(json|sse)$ {{ }}
        location / {{ proxy_pass http://engine; }}
    }}
    # As the proxy that shows what the machine can do.
    server {{
        listen 127.0.0.1:{proxy_port} backlog=8192;
        location / {{ proxy_pass http://127.0.0.1:{port}; }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Static:
    """Where nginx listens: with the answers, with chats as streams, with many rankings, and as a proxy."""

    port: int
    stream_port: int
    wide_port: int
    proxy_port: int


def write_config(folder: Path, answers: Iterable[tuple[str, bytes]], engine: str, static: Static) -> Path:
    """Write the answers by their file names, and the configuration; return its path."""
    (folder / "static").mkdir()
    for name, body in answers:
        (folder / "static" / name).write_bytes(body)
    path = folder / "nginx.conf"
    user = f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""
    address = engine.removeprefix("http://")
    config = _CONFIG.format(
        folder=folder, user=user, engine=address, few=_evenly(FEW), many=_evenly(MANY), **asdict(static)
    )
    path.write_text(config, encoding="utf-8")
    return path


def command(config: Path) -> list[str]:
    """Return what starts it."""
    return [program("nginx"), "-p", str(config.parent), "-e", str(config.parent / "nginx-error.log"), "-c", str(config)]


def _evenly(count: int) -> str:
    """Return that each of so many rankings comes equally often."""
    return "\n".join([*(f"{100 / count:.2f}% {number};" for number in range(1, count)), "* 0;"])
