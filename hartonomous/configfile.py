"""YAML and environment to `Config`: an error names the file, the line, the key path and what was expected.

`${NAME}` and `${NAME:-default}` in a value are replaced from the environment (a missing name without a default is an
error); `$${` stands for a literal `${`. Duplicate keys are refused. A replaced value is read as YAML reads it, so
`port: ${PORT}` is a number. The template of the prompt is read the same way, but nothing in it is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from hartonomous.config import Config, PromptTexts
from hartonomous.core.template import DEFAULT_TEMPLATE, Template
from hartonomous.errors import ConfigError
from hartonomous.fields import Section

_VARIABLE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
_Path = tuple[str, ...]
_Read = TypeVar("_Read", bound=Section)


class _Reader:
    """Walks the YAML nodes once: values as pydantic wants them, and the line of each key path."""

    def __init__(self, loader: yaml.CSafeLoader, environ: Mapping[str, str] | None) -> None:
        self._loader = loader
        self._environ = environ
        self.lines: dict[_Path, int] = {}

    def read(self, node: yaml.Node, path: _Path = ()) -> Any:
        self.lines[path] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return tuple(self.read(item, (*path, str(i))) for i, item in enumerate(node.value))
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: _Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            here = (*path, key)
            if key in values:
                raise _Problem(key_node.start_mark.line + 1, here, "this key stands here twice")
            values[key] = self.read(value_node, here)
            self.lines[here] = key_node.start_mark.line + 1
        return values

    def _scalar(self, node: yaml.ScalarNode, path: _Path) -> Any:
        text, environ = node.value, self._environ
        if "${" in text and environ is not None:
            replaced = _VARIABLE.sub(lambda match: self._variable(match, environ, path), text)
            plain = not node.style
            tag = self._loader.resolve(yaml.ScalarNode, replaced, (plain, not plain))  # type: ignore[no-untyped-call]
            node = yaml.ScalarNode(tag, replaced, node.start_mark, node.end_mark, node.style)
        try:
            return self._loader.construct_object(node)
        except (ValueError, LookupError, TypeError, AttributeError):
            # `2026-13-45` looks like a date to YAML and is none.
            raise _Problem(node.start_mark.line + 1, path, "not a value that YAML knows") from None

    def _variable(self, match: re.Match[str], environ: Mapping[str, str], path: _Path) -> str:
        name, default = match["name"], match["default"]
        if name is None:
            return "${"
        value = environ.get(name, default)
        if value is None:
            raise _Problem(self.lines[path], path, f"the environment variable {name} is not set")
        return value


class _Problem(Exception):  # noqa: N818 - not an error by itself: it becomes a line of ConfigError
    def __init__(self, line: int, path: _Path, message: str) -> None:
        super().__init__(message)
        self.line, self.path, self.message = line, path, message

    def sentence(self, name: str) -> str:
        return f"{name}:{self.line}: {_dotted(self.path) or 'the file'}: {self.message}"


def _dotted(path: _Path) -> str | None:
    return ".".join(map(_shown, path)) or None


def _shown(key: str) -> str:
    """Return a key as it stands in a message of one line."""
    return key if key.isprintable() else ascii(key)


def parse(text: str, environ: Mapping[str, str], name: str = "configuration") -> Config:
    """Return the configuration that `text` holds; `name` stands for the file in error messages.

    Raises:
        ConfigError: one line for each thing that is wrong.
    """
    return _parse(Config, text, environ, name)


def _parse(model: type[_Read], text: str, environ: Mapping[str, str] | None, name: str) -> _Read:
    loader = yaml.CSafeLoader(text)
    try:
        reader = _Reader(loader, environ)
        node = loader.get_single_node()
        values = {} if node is None else reader.read(node)
        if not isinstance(values, dict):
            raise _Problem(1, (), "expected keys and values")
        return model.model_validate(values)
    except _Problem as problem:
        raise ConfigError(problem.sentence(name), param=_dotted(problem.path)) from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{name}:{line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML") from error
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply, or an alias within itself") from None
    except ValidationError as error:
        problems = _problems(error, reader.lines)
        sentences = "\n".join(problem.sentence(name) for problem in problems)
        raise ConfigError(sentences, param=_dotted(problems[0].path)) from error
    finally:
        loader.dispose()


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """Read the configuration file at `path`.

    Raises:
        ConfigError: it cannot be read, or something in it is wrong.
    """
    return parse(_text_of(path), environ, str(path))


def digest(key: str, path: Path) -> bytes:
    """Return what tells a file's content from another; `key` is the key path that names it. Raises ConfigError."""
    try:
        return blake2b(path.read_bytes(), digest_size=20).digest()
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be read: {error.strerror}", param=key) from error


def load_template(path: Path | None) -> Template:
    """Return the texts of the prompt: the built-in ones, and over them those of the file at `path`.

    Raises:
        ConfigError: it cannot be read, or something in it is wrong.
    """
    if path is None:
        return DEFAULT_TEMPLATE
    texts = _parse(PromptTexts, _text_of(path), None, str(path))
    return Template(**texts.model_dump())


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text") from error


def _problems(error: ValidationError, lines: Mapping[_Path, int]) -> list[_Problem]:
    problems = []
    items = error.errors(include_url=False, include_input=False, include_context=False)
    for item in items:
        if item["type"] == "too_short" and any(_is_within(other["loc"], item["loc"]) for other in items):
            continue  # pydantic finds a list too short whose items are wrong
        path = tuple(str(part) for part in item["loc"])
        problems.append(_Problem(_line(path, lines), path, _expected(item["type"], item["msg"])))
    return sorted(problems, key=lambda problem: problem.line)


def _is_within(path: Sequence[int | str], above: Sequence[int | str]) -> bool:
    return len(path) > len(above) and path[: len(above)] == above


def _line(path: _Path, lines: Mapping[_Path, int]) -> int:
    """Return the line of `path`, or of the nearest key above it that stands in the file."""
    while path not in lines and path:
        path = path[:-1]
    return lines.get(path, 1)


def _expected(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "unknown key"
    if kind in {"model_type", "dict_type"}:
        return "expected keys and values"
    if kind == "too_short":
        return "expected at least one"
    if kind == "tuple_type":
        return "expected a list"
    if kind == "missing":
        return "this key is required"
    return message.removeprefix("Value error, ").replace("Input should be", "expected").rstrip(".")
