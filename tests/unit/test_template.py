"""The template of the prompt: its file, its placeholders, and what is put in for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.configfile import load_template
from hartonomous.core.template import DEFAULT_TEMPLATE, fill
from hartonomous.errors import ConfigError

ROOT = Path(__file__).parents[2]


def written(folder: Path, text: str) -> Path:
    path = folder / "prompt.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_documented_template_is_the_built_in_one() -> None:
    assert load_template(ROOT / "etc" / "prompt.yaml") == DEFAULT_TEMPLATE
    assert load_template(None) is DEFAULT_TEMPLATE


def test_every_key_may_be_left_out(tmp_path: Path) -> None:
    assert load_template(written(tmp_path, "")) == DEFAULT_TEMPLATE
    template = load_template(written(tmp_path, "system: Be kind.\nuser: '{question} {sources}'"))
    assert (template.system, template.user) == ("Be kind.", "{question} {sources}")
    assert (template.rewrite, template.nothing_found) == (DEFAULT_TEMPLATE.rewrite, DEFAULT_TEMPLATE.nothing_found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("user: '{sources}'", "prompt.yaml:1: user: expected the placeholder {question} once, found it 0 times"),
        (
            "\nuser: '{sources} {sources} {question}'",
            "prompt.yaml:2: user: expected the placeholder {sources} once, fo",
        ),
        ("user: '{sources} {question} {date}'", "user: unknown placeholder {date} (known here: {sources}, {question})"),
        ("system: 'Read {sources}'", "system: unknown placeholder {sources} (known here: none)"),
        ("rewrite: '{question}'", "rewrite: expected the placeholder {conversation} once"),
        ("nothing_found: ' '", "nothing_found: expected a text that is not blank"),
        ("nothing_found: 7", "prompt.yaml:1: nothing_found: expected a valid string"),
        ("sytem: x", "prompt.yaml:1: sytem: unknown key"),
        ("- x", "expected keys and values"),
        ("system: x\nsystem: y", "prompt.yaml:2: system: this key stands here twice"),
        ("system: [", "not valid YAML"),
    ],
)
def test_what_is_wrong_in_a_template_is_told_with_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_template(written(tmp_path, text))
    assert said in caught.value.message
    assert caught.value.message.startswith(str(tmp_path))


def test_a_template_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_template(tmp_path / "absent.yaml")


def test_check_finds_what_is_wrong_in_a_template(tmp_path: Path) -> None:
    template = written(tmp_path, "user: '{sources}'")
    config = tmp_path / "config.yaml"
    config.write_text(
        "backends:\n  embedding: {urls: ['http://127.0.0.1:1']}\n  generative: {urls: ['http://127.0.0.1:2']}\n"
        f"rag: {{generation: {{template: '{template}'}}}}\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "hartonomous", "check", str(config)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f"{template}:1: user: expected the placeholder {{question}} once" in done.stderr


def test_nothing_of_the_environment_is_put_into_a_template(tmp_path: Path) -> None:
    assert load_template(written(tmp_path, "system: 'It costs ${PRICE:-5}.'")).system == "It costs ${PRICE:-5}."
    with pytest.raises(ConfigError, match=r"unknown placeholder \{HOME\}"):
        load_template(written(tmp_path, "system: 'At ${HOME}.'"))


@given(st.text(), st.text())
def test_what_is_filled_in_is_never_read_as_a_template(sources: str, question: str) -> None:
    assert fill("a {sources} b {question} c", sources=sources, question=question) == f"a {sources} b {question} c"


def test_braces_are_letters_unless_they_hold_a_name() -> None:
    assert fill('{"a": {"b": []}} {} { x } {1} {question} {{question}} }}{{', question="{sources} {0} {{x}}") == (
        '{"a": {"b": []}} {} { x } {1} {sources} {0} {{x}} {question} }}{{'
    )
