"""Hartonomous on a machine of its own, as an administrator sets it up: its keys and configuration, and calls to it."""

from __future__ import annotations

import json
import re
import secrets
import ssl
import urllib.error
import urllib.request
from typing import Any

from hartonomous.core import apikey
from tests.systemd.machine import Machine, until

API = "http://127.0.0.1:8700"
CONFIG = "/etc/hartonomous/hartonomous.yaml"
KEYS = "/etc/hartonomous/keys.yaml"
BACKENDS = (
    "hartonomous-engine.service",
    *(f"hartonomous-llama@{n}.service" for n in ("generative", "embedding", "reranking")),
)
SCOPES = {"tenant": ("query", "ingest"), "other": ("query",), "operator": ("metrics", "admin")}


class Host:
    """The machine with what was set up on it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.pepper = secrets.token_hex(16)
        self.keys = {name: apikey.make(name, secrets.token_bytes(apikey.SECRET_BYTES)) for name in SCOPES}
        self._default = machine.read(CONFIG)
        machine.write("/etc/hartonomous/credentials/pepper", self.pepper, mode=0o600)
        self.configure()

    def configure(self, *keys: str, more: tuple[tuple[str, str], ...] = ()) -> None:
        """Write the configuration, with the keys of these names (default: all), and replacements in its text."""
        self.machine.write(KEYS, self.listed(*keys), mode=0o640, owner="root:hartonomous")
        text = self._default
        for pattern, replacement in (
            (r"# pepper: file:\S+", r"pepper: file:${CREDENTIALS_DIRECTORY:-/etc/hartonomous/credentials}/pepper"),
            (r"keys: \[\]", f"keys: file:{KEYS}"),
            (r"interval_s: 5.0", "interval_s: 0.5"),
            *more,
        ):
            text, count = re.subn(pattern, replacement, text, count=1)
            assert count == 1, pattern
        self.machine.write(CONFIG, text)

    def listed(self, *keys: str) -> str:
        """Return the list of the keys of these names (default: all) as a file has it."""
        return "".join(self._key(name) for name in keys or self.keys)

    def start(self, *units: str) -> None:
        """Begin anew: what ran of the API ends, then these start, and are ready."""
        self.machine.systemctl(
            "stop", "hartonomous.target", "hartonomous.socket", "hartonomous.service", "hartonomous@*"
        )
        self.machine.systemctl("reset-failed")
        self.machine.systemctl("start", *units)
        until(lambda: self.get("/ready")[0] == 200)

    def install_again(self, name: str) -> None:
        """Let an installation of this name be the one that is started: an upgrade to the same modules."""
        folder = "/usr/local/lib/hartonomous"
        for step in (
            f"mkdir {folder}/{name}",
            f"cp -a {folder}/current/bin {folder}/current/pyvenv.cfg {folder}/{name}/",
            f"ln -s $(readlink -f {folder}/current/lib) {folder}/{name}/lib",
            f"sed -i '1s#^.*$#\\#!{folder}/{name}/bin/python#' {folder}/{name}/bin/hartonomous",
            f"ln -sfn {name} {folder}/current",
        ):
            self.machine.run("sh", "-c", step)

    def get(self, path: str, key: str = "", base: str = API, context: ssl.SSLContext | None = None) -> tuple[int, Any]:
        """Return an answer's status and its content."""
        return self._call(urllib.request.Request(base + path, headers=self.headers(key)), context)

    def post(self, path: str, body: Any, key: str = "tenant", base: str = API) -> tuple[int, Any]:
        """Return an answer's status and its content."""
        headers = {"Content-Type": "application/json", **self.headers(key)}
        return self._call(urllib.request.Request(base + path, json.dumps(body).encode(), headers))

    def headers(self, key: str) -> dict[str, str]:
        """Return the headers of a request with the key of this name."""
        return {"Authorization": f"Bearer {self.keys[key]}"} if key else {}

    def _key(self, name: str) -> str:
        hashed = apikey.hashed(self.keys[name], self.pepper.encode())
        return f"- {{id: {name}, hash: \"{hashed}\", scopes: [{', '.join(SCOPES[name])}], collections: ['*']}}\n"

    def _call(self, request: urllib.request.Request, context: ssl.SSLContext | None = None) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(request, timeout=60, context=context) as response:
                return response.status, _content(response.read())
        except urllib.error.HTTPError as error:
            return error.code, _content(error.read())


def _content(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content.decode()
