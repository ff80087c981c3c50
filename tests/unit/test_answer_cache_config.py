"""An answer cache over several processes needs Redis: `check` and the start refuse it otherwise, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from hartonomous.__main__ import main

BACKENDS = "backends: {embedding: {urls: [http://127.0.0.1:1]}, generative: {urls: [http://127.0.0.1:2]}}\n"
KEPT = "rag: {cache: {answers: {enabled: true}}}\n"
MANY = "server: {processes: 2}\n"


def written(folder: Path, text: str) -> str:
    path = folder / "hartonomous.yaml"
    path.write_text(BACKENDS + text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("command", [["check"], ["serve", "--config"]])
def test_an_answer_cache_over_several_processes_without_redis_is_refused(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, written(tmp_path, KEPT + MANY)]) == 2
    told = capsys.readouterr().err
    assert all(name in told for name in ("rag.cache.answers", "server.processes", "redis.url"))


@pytest.mark.parametrize("text", [KEPT, MANY, KEPT + MANY + "redis: {url: 'redis://127.0.0.1:9'}\n"])
def test_what_can_be_served_is_right(text: str, tmp_path: Path) -> None:
    assert main(["check", written(tmp_path, text)]) == 0


@pytest.mark.parametrize("url", ["redis://me:secret@host/0", "http://host", "redis://host/x"])
def test_an_address_that_is_none_is_told_without_its_secret(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", written(tmp_path, f"redis: {{url: '{url}'}}\n")]) == 2
    told = capsys.readouterr().err
    assert "redis.url" in told
    assert "secret" not in told
