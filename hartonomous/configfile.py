"""YAML and environment to `Config`: an error names the file, the line, the key path and what was expected.

`${NAME}` and `${NAME:-default}` in a value are replaced from the environment (a missing name without a default is an
error); `$${` stands for a literal `${`. Duplicate keys are refused. A replaced value is read as YAML reads it, so
`port: ${PORT}` is a number. The list of keys may stand in a file of its own (`auth.keys: file:PATH`). The template of
the prompt is read the same way, but nothing in it is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import ValidationError

from hartonomous import files
from hartonomous.config import Config, PromptTexts
from hartonomous.core.template import DEFAULT_TEMPLATE, Template
from hartonomous.errors import ConfigError
from hartonomous.fields import Section
from hartonomous.security import Auth

_VARIABLE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
_Path = tuple[str, ...]
_KEYS: _Path = ("auth", "keys")
_FILE = "file:"
# An alias stands for all that is below it: a few lines may mean billions of values.
_MOST_VALUES = 500_000
_Read = TypeVar("_Read", bound=Section)


class _Place(NamedTuple):
    name: str
    line: int


class _Reader:
    """Walks the YAML nodes once: values as pydantic wants them, and the place (file and line) of each key path."""

    def __init__(self, loader: yaml.CSafeLoader, environ: Mapping[str, str] | None, name: str) -> None:
        self._loader = loader
        self._environ = environ
        self._name = name
        self._left = _MOST_VALUES
        self.places: dict[_Path, _Place] = {}

    def read(self, node: yaml.Node, path: _Path = ()) -> Any:
        place = self.places.setdefault(path, self._place(node))
        self._left -= 1
        if self._left < 0:
            raise _Problem(place, path, "too many values")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return tuple(self.read(item, (*path, str(i))) for i, item in enumerate(node.value))
        assert isinstance(node, yaml.ScalarNode)
        value = self._scalar(node, path)
        if path == _KEYS and isinstance(value, str) and value.startswith(_FILE):
            return self._list_of(value.removeprefix(_FILE), place, path)
        return value

    def _place(self, node: yaml.Node) -> _Place:
        return _Place(self._name, node.start_mark.line + 1)

    def _list_of(self, name: str, place: _Place, path: _Path) -> Any:
        """Return what a file of its own holds for `path`."""
        try:
            text = files.read(Path(name)).decode()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a file of UTF-8 text"
            raise _Problem(place, path, f"the file cannot be read ({reason})") from None
        values, places = _values(text, self._environ, name, path, path)
        self.places |= places
        if not isinstance(values, tuple):
            raise _Problem(_Place(name, 1), path, "expected a list")
        return values

    def _mapping(self, node: yaml.MappingNode, path: _Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            here = (*path, key)
            if key in values:
                raise _Problem(self._place(key_node), here, "this key stands here twice")
            self.places[here] = self._place(key_node)
            values[key] = self.read(value_node, here)
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
            raise _Problem(self._place(node), path, "not a value that YAML knows") from None

    def _variable(self, match: re.Match[str], environ: Mapping[str, str], path: _Path) -> str:
        name, default = match["name"], match["default"]
        if name is None:
            return "${"
        value = environ.get(name, default)
        if value is None:
            raise _Problem(self.places[path], path, f"the environment variable {name} is not set")
        return value


class _Problem(Exception):  # noqa: N818 - not an error by itself: it becomes a line of ConfigError
    def __init__(self, place: _Place, path: _Path, message: str) -> None:
        super().__init__(message)
        self.place, self.path, self.message = place, path, message

    def sentence(self) -> str:
        return f"{self.place.name}:{self.place.line}: {_dotted(self.path) or 'the file'}: {self.message}"


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


def _parse(model: type[_Read], text: str, environ: Mapping[str, str] | None, name: str, path: _Path = ()) -> _Read:
    """Return what stands at `path`; what else is in the text is not looked at."""
    try:
        values, places = _values(text, environ, name, (), path)
        if not isinstance(values, dict):
            raise _Problem(places[path], path, "expected keys and values")
        return model.model_validate(values)
    except _Problem as problem:
        raise ConfigError(problem.sentence(), param=_dotted(problem.path)) from None
    except ValidationError as error:
        problems = _problems(error, places, path)
        sentences = "\n".join(problem.sentence() for problem in problems)
        raise ConfigError(sentences, param=_dotted(problems[0].path)) from error


def _values(
    text: str, environ: Mapping[str, str] | None, name: str, root: _Path, path: _Path
) -> tuple[Any, Mapping[_Path, _Place]]:
    """Return what stands at `path` in a YAML text, which is all of `root`, and the place of each path in that.

    Where there are no such keys it is as if they had no values.
    """
    loader = yaml.CSafeLoader(text)
    try:
        reader = _Reader(loader, environ, name)
        node = _node_at(path[len(root) :], loader.get_single_node())
        values = {} if node is None else reader.read(node, path)
        return values, {path: _Place(name, 1)} | reader.places
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{name}:{line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML") from error
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply, or an alias within itself") from None
    finally:
        loader.dispose()


def _node_at(path: _Path, node: yaml.Node | None) -> yaml.Node | None:
    for name in path:
        if not isinstance(node, yaml.MappingNode):
            return node
        node = next((value for key, value in node.value if key.value == name), None)
    return node


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """Read the configuration file at `path`.

    Raises:
        ConfigError: it cannot be read, or something in it is wrong.
    """
    return parse(_text_of(path), environ, str(path))


def load_auth(path: Path, environ: Mapping[str, str]) -> Auth:
    """Read the keys of the configuration file at `path`, whatever else stands there.

    Raises:
        ConfigError: it cannot be read, or they are wrong.
    """
    return _parse(Auth, _text_of(path), environ, str(path), ("auth",))


def digest(key: str, path: Path) -> bytes:
    """Return what tells a file's content from another; `key` is the key path that names it. Raises ConfigError."""
    try:
        return blake2b(files.read(path), digest_size=20).digest()
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be read: {error.strerror}", param=key) from error


def load_template(path: Path | None) -> Template:
    """Return the texts of the prompt: the built-in ones, and over them those of the file at `path`.

    Raises:
        ConfigError: it cannot be read, or something in it is wrong.
    """
    if path is None:
        return DEFAULT_TEMPLATE
    texts = _parse(PromptTexts, _text_of(path, files.read), None, str(path))
    return Template(**texts.model_dump())


def _text_of(path: Path, read: Callable[[Path], bytes] = Path.read_bytes) -> str:
    try:
        return read(path).decode()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text") from error


def _problems(error: ValidationError, places: Mapping[_Path, _Place], within: _Path) -> list[_Problem]:
    problems = []
    items = error.errors(include_url=False, include_input=False, include_context=False)
    for item in items:
        if item["type"] == "too_short" and any(_is_within(other["loc"], item["loc"]) for other in items):
            continue  # pydantic finds a list too short whose items are wrong
        path = (*within, *(str(part) for part in item["loc"]))
        problems.append(_Problem(_place(path, places), path, _expected(item["type"], item["msg"])))
    return sorted(problems, key=lambda problem: problem.place)


def _is_within(path: Sequence[int | str], above: Sequence[int | str]) -> bool:
    return len(path) > len(above) and path[: len(above)] == above


def _place(path: _Path, places: Mapping[_Path, _Place]) -> _Place:
    """Return the place of `path`, or of the nearest key above it that stands in the file."""
    while path not in places:
        path = path[:-1]
    return places[path]


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
