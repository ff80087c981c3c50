"""The configuration: the files say what the models say, and a mistake is told with line, key and expectation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_origin

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from hartonomous.config import Config
from hartonomous.configfile import load, parse
from hartonomous.errors import ConfigError
from hartonomous.fields import Section

ETC = Path(__file__).parents[2] / "etc"
MINIMAL = """\
backends:
  embedding:
    urls: [http://127.0.0.1:8711]
  generative:
    urls: [http://127.0.0.1:8710]
"""


def _problems(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as failure:
        parse(text, environ or {}, "f.yaml")
    return failure.value.message.splitlines()


def _sentence(text: str) -> str:
    """Return what is said of a configuration that cannot be right; whatever else is raised fails the test."""
    try:
        parse(text, {}, "f.yaml")
    except ConfigError as error:
        return error.message
    return "f.yaml is right"


def _documented() -> Any:
    """Return etc/hartonomous.yaml with every key that is commented out put in."""
    text = (ETC / "hartonomous.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(re.sub(r"^( *)# (\w+: \S.*)$", r"\1\2", text, flags=re.MULTILINE))


def _fields(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every leaf of the configuration with its default."""
    for name, field in model.model_fields.items():
        inner = _section(field.annotation)
        if inner is not None:
            yield from _fields(inner, (*path, name))
        else:
            yield (*path, name), field.get_default(call_default_factory=True)


def _section(annotation: Any) -> type[Section] | None:
    if get_origin(annotation) is tuple:
        return None
    for kind in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    else:
        yield path, value


def test_every_setting_stands_in_the_documented_file_and_no_other() -> None:
    """Settings that several services share are commented once where they are left out."""
    documented = {path for path, _ in _leaves(_documented())}
    settings = {path for path, _ in _fields(Config)}
    assert documented <= settings
    missing = {path for path in settings - documented if path[-1] != "api_key"}
    assert missing == set()


def test_every_documented_default_is_the_models_own() -> None:
    text = (ETC / "hartonomous.yaml").read_text(encoding="utf-8")
    defaults = dict(_fields(Config))
    for path, value in _leaves(yaml.safe_load(text)):
        default = defaults[path]
        if default is PydanticUndefined:
            assert path[-1] == "urls"
            continue
        shown = tuple(value) if isinstance(value, list) else value
        assert shown == default, path
        assert isinstance(shown, type(default)), path


def test_what_is_commented_out_has_no_default() -> None:
    active = {path for path, _ in _leaves(yaml.safe_load((ETC / "hartonomous.yaml").read_text(encoding="utf-8")))}
    defaults = dict(_fields(Config))
    for path, _ in _leaves(_documented()):
        if path not in active:
            # What a section needs that is commented out as a whole has none either.
            assert defaults[path] is None or defaults[path] is PydanticUndefined, path


def test_leaving_everything_out_is_the_documented_file() -> None:
    whole = load(ETC / "hartonomous.yaml", {})
    assert whole.backends.reranking is not None
    reranking = "  reranking:\n    urls: [http://127.0.0.1:8712]\n"
    assert parse(MINIMAL + reranking, {}) == whole


def test_the_trials_file_loads() -> None:
    config = load(ETC / "trial.yaml", {})
    assert config.backends.reranking is not None
    assert config.backends.reranking.scores == "unit"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (MINIMAL + "server:\n  prot: 1\n", "f.yaml:7: server.prot: unknown key"),
        (MINIMAL + '"a\\nb": 1\n', r"f.yaml:6: 'a\nb': unknown key"),
        (MINIMAL + "sever: {}\n", "f.yaml:6: sever: unknown key"),
        (MINIMAL + "server:\n  port: '8700'\n", "f.yaml:7: server.port: expected a valid integer"),
        (MINIMAL + "server:\n  port: 70000\n", "f.yaml:7: server.port: expected less than or equal to 65535"),
        (MINIMAL + "server:\n  port: true\n", "f.yaml:7: server.port: expected a valid integer"),
        (MINIMAL + "server:\n  port:\n", "f.yaml:7: server.port: expected a valid integer"),
        (MINIMAL + "server: 5\n", "f.yaml:6: server: expected keys and values"),
        (MINIMAL + "server: [1]\n", "f.yaml:6: server: expected keys and values"),
        (MINIMAL + "log:\n  level: LOUD\n", "f.yaml:7: log.level: expected 'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
        (MINIMAL + "health:\n  ready: qdrant\n", "f.yaml:7: health.ready: expected a list"),
        (MINIMAL + "health:\n  ready: [qdrant, x]\n", "f.yaml:7: health.ready.1: expected"),
        (MINIMAL + "health:\n  interval_s: 0\n", "f.yaml:7: health.interval_s: expected greater than 0"),
        (MINIMAL + "health:\n  interval_s: .inf\n", "f.yaml:7: health.interval_s: expected"),
        (MINIMAL + "health:\n  interval_s: .nan\n", "f.yaml:7: health.interval_s: expected"),
        ("backends:\n  embedding:\n    urls: []\n", "f.yaml:3: backends.embedding.urls: expected at least one"),
        (MINIMAL + "rag:\n  default_collection: ../x\n", "f.yaml:7: rag.default_collection: "),
        ("backends:\n  embedding:\n    urls: [http://a]\n", "f.yaml:1: backends.generative: this key is required"),
        ("server: {}\n", "f.yaml:1: backends: this key is required"),
        ("", "f.yaml:1: backends: this key is required"),
        ("- a\n", "f.yaml:1: the file: expected keys and values"),
        ("text\n", "f.yaml:1: the file: expected keys and values"),
        (MINIMAL + "log: {}\nlog: {}\n", "f.yaml:7: log: this key stands here twice"),
        (MINIMAL + "log:\n  level: INFO\n  level: INFO\n", "f.yaml:8: log.level: this key stands here twice"),
        ("a: [1\nb: 2\n", "f.yaml:2: not valid YAML: "),
        ("a: 1\n\tb: 2\n", "f.yaml:2: not valid YAML: "),
        ("a: 1\n---\nb: 2\n", "f.yaml:2: not valid YAML: "),
        ("a: !!python/object:os.system x\n", "f.yaml:1: not valid YAML: "),
        ("log:\n  level: 2026-13-45\n", "f.yaml:2: log.level: not a value that YAML knows"),
        ("a: &a [*a]\n", "f.yaml: nested too deeply, or an alias within itself"),
        ("a: \x01\n", "f.yaml: not valid YAML"),
    ],
)
def test_a_mistake_is_told_with_line_key_and_expectation(text: str, problem: str) -> None:
    problems = _problems(text)
    assert any(line.startswith(problem) for line in problems), problems


def test_every_mistake_is_told_in_the_order_of_the_file() -> None:
    problems = _problems("log:\n  level: LOUD\nserver:\n  port: x\n" + MINIMAL + "zz: 1\n")
    assert [line.split(":")[1] for line in problems] == ["2", "4", "10"]


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8711",
        "ftp://127.0.0.1",
        "http://",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:0",
        "http://127.0.0.1:x",
        "http://user:password@127.0.0.1",
        "http://127.0.0.1/?key=a",
        "http://127.0.0.1/#a",
        "http://exa mple",
        "http://[::1",
        "http://127.0.0.1\\n",
        "unix:/run/x.sock",
        "",
    ],
)
def test_an_address_that_is_none_is_refused_and_not_repeated(url: str) -> None:
    (problem,) = _problems(MINIMAL.replace("http://127.0.0.1:8711", f'"{url}"'))
    assert problem.startswith("f.yaml:3: backends.embedding.urls.0: expected an address like http://127.0.0.1:8710")
    assert "password" not in problem.removesuffix("without user, password or query")


@pytest.mark.parametrize("url", ["http://a", "https://a.b-c.example:1/base/", "http://[::1]:8711", "http://10.0.0.1"])
def test_addresses_are_taken_without_their_last_slash(url: str) -> None:
    config = parse(MINIMAL.replace("http://127.0.0.1:8711", f"'{url}'"), {})
    assert [address.url for address in config.backends.embedding.urls] == [url.rstrip("/")]


def test_only_the_store_may_be_a_socket() -> None:
    config = parse(MINIMAL + "  qdrant:\n    url: unix:/run/engine.sock\n", {})
    assert config.backends.qdrant.url == "unix:/run/engine.sock"


def test_variables_are_read_as_yaml_reads_them() -> None:
    text = MINIMAL + "server:\n  port: ${PORT}\n  host: ${HOST:-127.0.0.1}\nlog:\n  level: '${LEVEL}'\n"
    config = parse(text, {"PORT": "99", "LEVEL": "DEBUG"})
    assert (config.server.port, config.server.host, config.log.level) == (99, "127.0.0.1", "DEBUG")


def test_a_quoted_variable_stays_text() -> None:
    assert _problems(MINIMAL + "server:\n  port: '${PORT}'\n", {"PORT": "99"}) == [
        "f.yaml:7: server.port: expected a valid integer"
    ]


def test_a_doubled_dollar_is_a_dollar() -> None:
    config = parse(MINIMAL + "rag:\n  generation:\n    system: 'say $${X} and ${Y}'\n", {"Y": "y${X}"})
    assert config.rag.generation.system == "say ${X} and y${X}"


def test_a_variable_cannot_bring_in_keys() -> None:
    (problem,) = _problems(MINIMAL + "log: ${LOG}\n", {"LOG": "{level: INFO}"})
    assert problem == "f.yaml:6: log: expected keys and values"


def test_a_missing_variable_is_told() -> None:
    problems = _problems(MINIMAL + "server:\n  port: ${PORT}\n")
    assert problems == ["f.yaml:7: server.port: the environment variable PORT is not set"]


def _with_key(value: str) -> str:
    return MINIMAL.replace("  generative:", f"    api_key: {value}\n  generative:")


@pytest.mark.parametrize("written", ["sk-inside", "${KEY}", "file"])
def test_a_secret_is_read_and_never_shown(tmp_path: Path, written: str) -> None:
    secret_file = tmp_path / "key"
    secret_file.write_text("sk-inside\n", encoding="utf-8")
    value = f"file:{secret_file}" if written == "file" else written
    config = parse(_with_key(value), {"KEY": "sk-inside"})
    key = config.backends.embedding.api_key
    assert key is not None
    assert key.get_secret_value() == "sk-inside"
    assert "sk-inside" not in repr(config)
    assert "sk-inside" not in str(config.model_dump())
    assert "sk-inside" not in config.model_dump_json()


def test_a_secret_never_stands_in_a_message(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"sk-inside\xff\xfe two words")
    for value in ("sk-inside two", f"file:{tmp_path / 'key'}", '["sk-inside"]', "{a: sk-inside}", '"sk-inside\\u00e9"'):
        problems = _problems(_with_key(value) + "zz: 1\n")
        assert len(problems) == 2
        assert problems[0].startswith("f.yaml:4: backends.embedding.api_key: ")
        assert "sk-inside" not in str(problems)


@pytest.mark.parametrize("content", ["", "\n", "a b", "a\nb", "a\x00b"])
def test_a_secret_that_no_header_can_carry_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "key").write_text(content, encoding="utf-8")
    (problem,) = _problems(_with_key(f"file:{tmp_path / 'key'}"))
    assert problem.endswith("a secret is one line of visible ASCII characters, and not empty")


@pytest.mark.parametrize("path", ["/absent/key", "/", "a\\0b"])
def test_a_secret_file_that_cannot_be_read_is_told(path: str) -> None:
    (problem,) = _problems(_with_key(f'"file:{path}"'))
    assert problem.startswith("f.yaml:4: backends.embedding.api_key: the secret's file cannot be read (")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", "", "127.0.0.1.example.org"])
def test_without_keys_only_loopback_can_be_served(host: str) -> None:
    (problem,) = _problems(MINIMAL + f"server:\n  host: '{host}'\n")
    assert problem == (
        "f.yaml:6: server: without keys only loopback addresses can be served: host and admin must be 127.0.0.1 or ::1"
    )


@pytest.mark.parametrize("admin", ["0.0.0.0:8701", "[::]:8701", "example.org:1"])
def test_without_keys_the_operators_address_is_a_loopback_one_too(admin: str) -> None:
    (problem,) = _problems(MINIMAL + f"server:\n  admin: '{admin}'\n")
    assert "host and admin must be 127.0.0.1 or ::1" in problem


@pytest.mark.parametrize("admin", ["127.0.0.1:8701", "[::1]:8701", "localhost:0", "unix:/run/a.sock"])
def test_the_operators_address_can_be_a_loopback_one_or_a_socket(admin: str) -> None:
    assert parse(MINIMAL + f"server:\n  admin: '{admin}'\n", {}).server.admin == admin


@pytest.mark.parametrize("admin", ["8701", "127.0.0.1", "127.0.0.1:65536", "unix:run/a", "unix:/a\\0b", "::1:8701", ""])
def test_what_is_no_address_of_the_operators_is_told(admin: str) -> None:
    (problem,) = _problems(MINIMAL + f'server:\n  admin: "{admin}"\n')
    assert problem == "f.yaml:7: server.admin: expected host:port, or unix:/ and the path of a socket"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.9.9.9"])
def test_loopback_can_be_served(host: str) -> None:
    assert parse(MINIMAL + f"server:\n  host: '{host}'\n", {}).server.host == host


def test_what_two_keys_say_together_is_checked() -> None:
    chunking = MINIMAL + "rag:\n  chunking:\n    max_tokens: 64\n    overlap_tokens: 33\n"
    assert _problems(chunking) == ["f.yaml:7: rag.chunking: overlap_tokens must be at most half of max_tokens"]
    (problem,) = _problems(MINIMAL + "health:\n  ready: [reranking]\n")
    assert problem.endswith("health.ready names reranking, which is not configured")


def test_the_configuration_cannot_be_changed() -> None:
    config = parse(MINIMAL, {})
    with pytest.raises(ValueError, match="frozen"):
        config.server.port = 1  # type: ignore[misc]  # the point


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"a: \xff")
    for path, sentence in (
        (tmp_path / "absent", "cannot be read: No such file or directory"),
        (tmp_path, "cannot be read: Is a directory"),
        (tmp_path / "latin", "is not UTF-8 text"),
    ):
        with pytest.raises(ConfigError) as failure:
            load(path, {})
        assert failure.value.message == f"{path}: {sentence}"


_YAML = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@given(_YAML, st.sampled_from(["", "backends", "server", "rag", "health"]))
def test_any_yaml_is_a_configuration_or_a_sentence(value: Any, key: str) -> None:
    text = yaml.safe_dump({key: value} if key else value, allow_unicode=True)
    assert all(line.startswith("f.yaml") for line in _sentence(text).split("\n"))


@given(st.text("&*!a1:-?[]{}|>'\"#%@`,$~=<\n \t/.", max_size=40))
@example("? [a]\n: 1")
@example("!!int x")
@example("!!timestamp x")
@example("!!binary x")
@example("!!float x")
@example("!!bool x")
@example("a: ${")
@example("a: ${X:-${Y}}")
@example("<<: *a")
@example("<<: {a: 1}")
@example("a: =")
@example("%YAML 9.9\n---\na: 1")
def test_any_text_is_a_configuration_or_a_sentence(text: str) -> None:
    assert _sentence(text).startswith("f.yaml")
