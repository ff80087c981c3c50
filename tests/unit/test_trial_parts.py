"""The parts of the trial follow from its configuration."""

from __future__ import annotations

import sys
from pathlib import Path

from hartonomous.configfile import parse
from hartonomous.trial.parts import alias_of, make_stages
from hartonomous.trial.stack import Part

CONFIG = """
server: {port: 1, drain_s: 7.0}
backends:
  generative: {urls: ["http://127.0.0.1:2"]}
  embedding: {urls: ["http://127.0.0.1:3"]}
  qdrant: {url: "http://127.0.0.1:5"}
"""
RERANKING = '  reranking: {urls: ["http://127.0.0.1:4"]}\n'


def _stages(text: str) -> list[dict[str, Part]]:
    config = parse(text, {})
    paths = (Path("etc/c.yaml"), Path("var/data"), Path("g.gguf"), Path("e.gguf"))
    return [{part.name: part for part in stage} for stage in make_stages(config, *paths)]


def test_the_api_is_started_when_all_that_it_stands_on_is_up() -> None:
    below, above = _stages(CONFIG + RERANKING)
    assert list(below) == ["generative service", "embedding service", "reranking service", "vector engine"]
    assert list(above) == ["API"]
    assert [part.port for part in (*below.values(), *above.values())] == [2, 3, 4, 5, 1]


def test_without_reranking_in_the_configuration_none_is_started() -> None:
    assert "reranking service" not in _stages(CONFIG)[0]


def test_the_command_lines_carry_ports_and_paths() -> None:
    below, above = _stages(CONFIG + RERANKING)
    assert above["API"].argv == (sys.executable, "-m", "hartonomous", "serve", "--config", "etc/c.yaml")
    engine = below["vector engine"].argv[3:]
    assert engine == ("engine", "--data", "var/data", "--listen", "127.0.0.1:5")
    assert "http://127.0.0.1:3" in below["reranking service"].argv
    assert "g.gguf" in below["generative service"].argv


def test_the_api_gets_its_whole_drain_time_before_it_is_killed() -> None:
    assert _stages(CONFIG)[1]["API"].grace > 7


def test_models_are_named_as_users_know_them() -> None:
    assert alias_of(Path("var/SmolLM2-135M-Instruct.Q4_1.gguf")) == "SmolLM2-135M-Instruct"
    assert alias_of(Path("var/all-MiniLM-L6-v2.F16.gguf")) == "all-MiniLM-L6-v2"
    assert alias_of(Path("Qwen3-0.6B-Q8_0.gguf")) == "Qwen3-0.6B-Q8_0"
