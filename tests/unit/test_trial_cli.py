"""`hartonomous trial`: what stops it before anything is started is one sentence and exit code 1."""

from __future__ import annotations

import argparse
import importlib.util
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hartonomous.cli import trial

CONFIG = """
server: {{port: {port}}}
backends:
  generative: {{urls: ["http://127.0.0.1:8710"]}}
  embedding: {{urls: [{embedding}]}}
  qdrant: {{url: "http://127.0.0.1:6333"}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return _write(tmp_path)


def _write(folder: Path, port: int = 8700, embedding: str = '"http://127.0.0.1:8711"') -> Path:
    path = folder / "trial.yaml"
    path.write_text(CONFIG.format(port=port, embedding=embedding))
    return path


def run(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    trial.add_parser(parser.add_subparsers())
    args = parser.parse_args(["trial", *argv])
    code: int = args.run(args)
    return code


def test_a_missing_extra_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "xllamacpp" else find(name))
    assert run() == 1
    assert "The trial needs xllamacpp: pip install 'hartonomous[trial]'." in capsys.readouterr().err


def test_a_missing_configuration_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--config", str(tmp_path / "none.yaml")) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_model_that_is_not_a_gguf_is_refused(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.gguf").write_bytes(b"PK\x03\x04")
    assert run("--config", str(config), "--model", str(tmp_path / "model.gguf")) == 1
    assert "model.gguf is not a GGUF file." in capsys.readouterr().err


def test_a_port_in_use_is_named_with_the_part_that_wants_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run("--config", str(_write(tmp_path, port=port)), "--models", str(tmp_path)) == 1
    assert f"port {port} is in use, and the API needs it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("embedding", "sentence"),
    [
        ('"http://10.0.0.1:8711"', "backends.embedding.urls: the trial starts this service itself"),
        ('"http://127.0.0.1:1", "http://127.0.0.1:2"', "the trial starts one embedding service"),
    ],
)
def test_a_service_that_the_trial_cannot_start_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], embedding: str, sentence: str
) -> None:
    assert run("--config", str(_write(tmp_path, embedding=embedding))) == 1
    assert sentence in capsys.readouterr().err


def test_importing_the_subcommand_loads_nothing_heavy() -> None:
    heavy = "{'aiohttp', 'pydantic', 'xllamacpp', 'numpy', 'gguf', 'asyncio'}"
    program = f"import sys, hartonomous.cli.trial; print({heavy} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout == "set()\n"
