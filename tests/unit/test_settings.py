"""Two readings of a configuration are compared: what changed, and what only a restart changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from hartonomous.core.apikey import hashed, make
from hartonomous.errors import ConfigError
from hartonomous.settings import Settings, read

PEPPER = b"pepper-of-the-tests-0123456789"

BASE: dict[str, Any] = {
    "backends": {
        "embedding": {"urls": ["http://127.0.0.1:8711"], "api_key": "file:key"},
        "generative": {"urls": ["http://127.0.0.1:8710"]},
    }
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the configuration names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key").write_text("first")
    return tmp_path


def settings(folder: Path, environ: dict[str, str] | None = None, **changes: Any) -> Settings:
    (folder / "config.yaml").write_text(yaml.safe_dump(BASE | changes))
    return read(folder / "config.yaml", environ or {})


def test_the_last_key_is_not_taken_away_from_an_address_that_others_reach(folder: Path) -> None:
    """The address stays until a restart, so the file by itself being right is not enough."""
    key = {"id": "one", "hash": hashed(make("one", b"x" * 32), PEPPER), "scopes": ["query"]}
    auth = {"pepper": PEPPER.decode(), "keys": [key]}
    for server in ({"host": "0.0.0.0"}, {"admin": "0.0.0.0:8701"}):
        old, new = settings(folder, server=server, auth=auth), settings(folder)
        with pytest.raises(ConfigError, match="last key"):
            new.bound_by(old)
        assert settings(folder, auth=auth).bound_by(old)[1] == [f"server.{name}" for name in server]


def test_values_are_told_by_their_dotted_path(folder: Path) -> None:
    old = settings(folder, server={"drain_s": 5.0})
    new = settings(folder, rag={"retrieval": {"fusion": {"k": 7}}, "generation": {"options": {"seed": 1}}})
    assert new.changes(old) == ["rag.generation.options", "rag.retrieval.fusion.k", "server.drain_s"]
    assert old.changes(old) == []


def test_a_section_that_comes_or_goes_is_told_as_a_whole(folder: Path) -> None:
    backends = BASE["backends"] | {"reranking": {"urls": ["http://127.0.0.1:8712"]}}
    old, new = settings(folder), settings(folder, backends=backends)
    assert new.changes(old) == old.changes(new) == ["backends.reranking"]


def test_the_content_of_a_secrets_file_and_of_the_environment_counts(folder: Path) -> None:
    old = settings(folder, {"LEVEL": "INFO"}, log={"level": "${LEVEL}"})
    (folder / "key").write_text("second")
    new = settings(folder, {"LEVEL": "ERROR"}, log={"level": "${LEVEL}"})
    assert new.changes(old) == ["backends.embedding.api_key", "log.level"]


def test_a_file_whose_path_changed_is_told_once(folder: Path) -> None:
    (folder / "a.yaml").write_text("system: Be brief.")
    (folder / "b.yaml").write_text("system: Be long.")
    old = settings(folder, rag={"generation": {"template": "a.yaml"}})
    new = settings(folder, rag={"generation": {"template": "b.yaml"}})
    assert new.changes(old) == ["rag.generation.template"]


def test_what_needs_a_restart_keeps_its_value_and_is_no_change(folder: Path) -> None:
    old = settings(folder, server={"port": 1_111, "drain_s": 5.0})
    new, fixed = settings(folder, server={"port": 2_222, "host": "::1", "drain_s": 6.0}).bound_by(old)
    assert fixed == ["server.host", "server.port"]
    assert new.changes(old) == ["server.drain_s"]
    assert (new.config.server.port, new.config.server.host) == (1_111, "127.0.0.1")


def test_the_audit_trail_goes_on_where_it_is_until_a_restart(folder: Path) -> None:
    old = settings(folder)
    new, fixed = settings(folder, audit={"directory": "/elsewhere", "max_file_bytes": 5_000}).bound_by(old)
    assert fixed == ["audit.directory", "audit.max_file_bytes"]
    assert not new.changes(old)
