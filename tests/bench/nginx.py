"""nginx with static answers: the fastest backend that there is, on a port for each of its faces.

A chat is answered whole or as a stream, as its body asks. What is not static is passed to the vector engine.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from tests.bench.machine import program

_CONFIG = """
daemon off;
{user}
worker_processes 1;
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
    open_file_cache max=100;
    map $request_body $chat {{ "~\\"stream\\": ?true" chat.sse; default chat.json; }}
    upstream engine {{ server {engine}; keepalive 32; }}
    upstream self {{ server unix:{folder}/nginx.sock; keepalive 64; }}
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    server {{
        listen unix:{folder}/nginx.sock;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=8192;
        error_page 405 =200 $uri;
        location = /v1/chat/completions {{
            proxy_method GET;
            proxy_pass_request_body off;
            proxy_pass_request_headers off;
            proxy_set_header Content-Length "";
            proxy_pass http://self/$chat;
        }}
        location = /v1/rerank {{ rewrite ^ /rerank.json; }}
        location = /v1/models {{ rewrite ^ /models.json; }}
        location = /props {{ rewrite ^ /props.json; }}
        location = /health {{ rewrite ^ /health.json; }}
        location = /collections/docs/points/query {{ rewrite ^ /query.json; }}
        location = /collections/docs/points/query/batch {{ rewrite ^ /batch.json; }}
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
    """Where nginx listens: with the answers, and as a proxy before them."""

    port: int
    proxy_port: int


def write_config(folder: Path, answers: dict[str, bytes], engine: str, static: Static) -> Path:
    """Write the answers by their file names, and the configuration; return its path."""
    (folder / "static").mkdir()
    for name, body in answers.items():
        (folder / "static" / name).write_bytes(body)
    path = folder / "nginx.conf"
    user = f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""
    address = engine.removeprefix("http://")
    config = _CONFIG.format(folder=folder, user=user, engine=address, port=static.port, proxy_port=static.proxy_port)
    path.write_text(config, encoding="utf-8")
    return path


def command(config: Path) -> list[str]:
    """Return what starts it."""
    return [program("nginx"), "-p", str(config.parent), "-e", str(config.parent / "nginx-error.log"), "-c", str(config)]
