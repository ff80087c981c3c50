"""The house's order: imports go down only, `aiohttp.web` stays where HTTP is spoken, files stay readable."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import hartonomous

ROOT = Path(hartonomous.__file__).parent

# Each floor may import the floors below it, and itself.
FLOORS = (
    {"core", "errors", "codec"},
    {
        "config",
        "configfile",
        "fields",
        "files",
        "security",
        "services",
        "metrics",
        "tally",
        "pausing",
        "addressmetrics",
        "backendmetrics",
        "cachemetrics",
        "ragmetrics",
        "tenantmetrics",
        "log",
        "supervision",
        "tls",
        "clienttls",
        "cparser",
        "eventloop",
        "gathering",
        "turns",
        "memory",
        "settings",
        "without",
        "tracing",
        "otlp",
        "audit",
        "auditfiles",
    },
    {"clients", "parsing", "cache", "limiting"},
    {"monitor", "pipelines"},
    {"evaluation"},
    {"keyring"},
    {"keys"},
    {"middleware", "handlers"},
    {"app", "wiring", "parts", "reload", "siblings", "routing"},
    {
        "systemd",
        "server",
        "adopting",
        "telling",
        "upgrade",
        "doors",
        "handshakes",
        "listening",
        "connection",
        "shedding",
        "unixsocket",
    },
    {"cli"},
    {"__main__"},
)
BESIDE = {"engine", "sending", "trial"}
BESIDE_MAY_IMPORT = {
    "core",
    "errors",
    "codec",
    "config",
    "configfile",
    "fields",
    "files",
    "security",
    "services",
    "log",
    "supervision",
    "systemd",
}
SPEAKS_HTTP = {
    "keys",
    "middleware",
    "handlers",
    "app",
    "connection",
    "doors",
    "listening",
    "routing",
    "server",
    "shedding",
    "telling",
    "engine",
    "trial",
}
MAX_LINES = 420

FILES = sorted(ROOT.rglob("*.py"))


def floor_of(part: str) -> int:
    return next(index for index, parts in enumerate(FLOORS) if part in parts)


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_parts(path: Path) -> set[str]:
    parts = {name.split(".")[1] for name in imported_modules(path) if name.startswith("hartonomous.")}
    return {part for part in parts if (ROOT / part).is_dir() or (ROOT / f"{part}.py").exists()}


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=names)
def test_imports_go_down_only(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        assert not imported_parts(path)
    elif part in BESIDE:
        assert imported_parts(path) <= BESIDE_MAY_IMPORT | {part}
    else:
        allowed = set().union(*FLOORS[: floor_of(part) + 1])
        if part == "cli":
            allowed |= BESIDE
        assert imported_parts(path) <= allowed


@pytest.mark.parametrize("path", FILES, ids=names)
def test_http_is_spoken_only_where_it_may_be(path: Path) -> None:
    if part_of(path) not in SPEAKS_HTTP:
        assert not {"aiohttp.web"} & set(imported_modules(path))


@pytest.mark.parametrize("path", FILES, ids=names)
def test_core_does_no_input_and_output(path: Path) -> None:
    if part_of(path) == "core":
        assert not {"asyncio", "aiohttp", "socket", "loguru"} & {name.split(".")[0] for name in imported_modules(path)}


@pytest.mark.parametrize("path", FILES, ids=names)
def test_a_file_can_be_read(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_LINES
    if path.parent.name == "middleware":
        assert len(lines) <= 120
    if path.name != "__init__.py":
        assert ast.get_docstring(ast.parse("\n".join(lines))), "a file's first lines say its subject"
