"""The section `auth`: what keys say together, and the file that their list may stand in."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from hartonomous.config import Config
from hartonomous.configfile import digest, load, load_auth, parse
from hartonomous.core import apikey
from hartonomous.errors import ConfigError
from tests.service.keyed import PEPPER, Key, auth_section

A = Key("team-a", ("query",), ("team-a-*",))
B = Key("team-b", ("query",), ("team-b-*",))
BACKENDS = {"embedding": {"urls": ["http://127.0.0.1:1"]}, "generative": {"urls": ["http://127.0.0.1:1"]}}


def _written(folder: Path, auth: Any, name: str = "f.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump({"auth": auth, "backends": BACKENDS}), encoding="utf-8")
    return path


def _problem(path: Path) -> str:
    with pytest.raises(ConfigError) as failure:
        load(path, {})
    return failure.value.message


def _sentence(tmp_path: Path, auth: Any) -> str:
    """Return what is said of a section that is wrong, without the place."""
    place, _, sentence = _problem(_written(tmp_path, auth)).partition(": ")
    assert place.startswith(f"{tmp_path}/f.yaml:")
    return sentence


def test_a_pepper_is_long(tmp_path: Path) -> None:
    assert _sentence(tmp_path, {"pepper": "fifteen-letters"}) == "auth.pepper: a pepper has at least 16 characters"
    assert load(_written(tmp_path, {"pepper": "sixteen-letters-"}), {}).auth.pepper is not None


def test_keys_need_a_pepper(tmp_path: Path) -> None:
    assert _sentence(tmp_path, {"keys": [A.entry]}) == "auth.keys: keys need a pepper (auth.pepper)"


def test_a_pepper_that_is_wrong_is_told_once(tmp_path: Path) -> None:
    assert _sentence(tmp_path, {"pepper": "short", "keys": [A.entry]}).count("pepper:") == 1


def test_an_id_stands_there_once(tmp_path: Path) -> None:
    assert _sentence(tmp_path, auth_section(A, A)) == "auth.keys: the key 'team-a' stands here twice"


def test_the_keys_of_one_owner_have_the_same_limits(tmp_path: Path) -> None:
    new = Key("team-a-2", ("query",), options={"owner": "team-a", "limits": {"concurrent": 4}})
    problem = "auth.keys: the keys of 'team-a' share their limits, and here they have different ones"
    assert _sentence(tmp_path, auth_section(A, new)) == problem
    old = Key("team-a", ("query",), options={"limits": {"concurrent": 4}})
    assert len(load(_written(tmp_path, auth_section(old, new)), {}).auth.keys) == 2


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"id": "team_a"}, "auth.keys.0.id: String should match pattern"),
        ({"id": ""}, "auth.keys.0.id: String should match pattern"),
        ({"hash": "hmac-sha256:00"}, "auth.keys.0.hash: expected hmac-sha256: and 64 hexadecimal digits"),
        ({"scopes": ["write"]}, "auth.keys.0.scopes.0: expected 'query', 'ingest', 'metrics' or 'admin'"),
        ({"collections": ["*-a"]}, "auth.keys.0.collections.0: String should match pattern"),
        ({"collections": ["a**"]}, "auth.keys.0.collections.0: String should match pattern"),
        ({"expires": "soon"}, "auth.keys.0.expires: expected a date, or a moment like"),
        ({"secret": "x"}, "auth.keys.0.secret: unknown key"),
    ],
)
def test_what_is_wrong_with_a_key_is_told(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    section = auth_section() | {"keys": [A.entry | change]}
    assert _sentence(tmp_path, section).startswith(problem)


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2030-01-02", "2030-01-02T00:00:00+00:00"),
        ("2030-01-02T03:04:05", "2030-01-02T03:04:05+00:00"),
        ("2030-01-02T03:04:05+02:00", "2030-01-02T01:04:05+00:00"),
        ('"2030-01-02"', "2030-01-02T00:00:00+00:00"),
    ],
)
def test_a_key_expires_at_a_moment_that_is_utc_unless_it_says_otherwise(written: str, moment: str) -> None:
    entry = f"{{id: a, hash: '{A.entry['hash']}', expires: {written}}}"
    text = yaml.safe_dump({"backends": BACKENDS}) + f"auth: {{pepper: {PEPPER}, keys: [{entry}]}}\n"
    expires = parse(text, {}).auth.keys[0].expires
    assert expires is not None
    assert expires == datetime.fromisoformat(moment)


def test_no_repr_shows_a_pepper_or_a_hash(tmp_path: Path) -> None:
    config = load(_written(tmp_path, auth_section(A)), {})
    assert not any(secret in f"{config!r}{config}" for secret in (PEPPER, A.text, A.entry["hash"]))


def test_a_problem_shows_neither_pepper_nor_hash(tmp_path: Path) -> None:
    told = _sentence(tmp_path, {"pepper": f"{PEPPER} {PEPPER}", "keys": [A.entry | {"hash": "x" + A.entry["hash"]}]})
    assert PEPPER not in told
    assert A.entry["hash"] not in told


def _listed(folder: Path, text: str) -> Path:
    (folder / "keys.yaml").write_text(text, encoding="utf-8")
    return _written(folder, {"pepper": PEPPER, "keys": f"file:{folder}/keys.yaml"})


def _entries(*keys: Key) -> str:
    return yaml.safe_dump([key.entry | {"scopes": list(key.scopes)} for key in keys])


def test_the_list_of_keys_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    config = load(_listed(tmp_path, _entries(A, B)), {})
    assert [key.id for key in config.auth.keys] == ["team-a", "team-b"]
    assert config.auth == Config.model_validate({"auth": auth_section(A, B), "backends": _tuples()}).auth


def _tuples() -> dict[str, Any]:
    return {name: {"urls": tuple(service["urls"])} for name, service in BACKENDS.items()}


def test_what_is_wrong_in_the_file_of_keys_is_told_with_its_own_lines(tmp_path: Path) -> None:
    text = f"- {{id: a, hash: '{A.entry['hash']}'}}\n\n- id: b\n  hash: '{A.entry['hash']}'\n  scopes: [all]\n"
    problem = f"{tmp_path}/keys.yaml:5: auth.keys.1.scopes.0: expected 'query', 'ingest', 'metrics' or 'admin'"
    assert _problem(_listed(tmp_path, text)) == problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1: auth.keys: expected a list"),
        ("keys: []", "1: auth.keys: expected a list"),
        ("- [", "2: not valid YAML"),
        ("- {id: a, id: b}", "1: auth.keys.0.id: this key stands here twice"),
        ("- ${NOBODY}", "1: auth.keys.0: the environment variable NOBODY is not set"),
        ("- &a [*a]", " nested too deeply, or an alias within itself"),
        ("[]\n---\n[]", "2: not valid YAML"),
    ],
)
def test_a_file_of_keys_that_is_none_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    assert _problem(_listed(tmp_path, text)).startswith(f"{tmp_path}/keys.yaml:{problem}")


def test_a_file_of_keys_that_names_itself_ends(tmp_path: Path) -> None:
    assert "nested too deeply" in _problem(_listed(tmp_path, f"file:{tmp_path}/keys.yaml"))


def test_two_keys_of_one_id_are_told_at_the_file_of_keys(tmp_path: Path) -> None:
    path = _listed(tmp_path, _entries(A, A))
    assert "auth.keys: the key 'team-a' stands here twice" in _problem(path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("nobody.yaml", "No such file or directory"), ("", "Is a directory"), ("\0", "not a file of UTF-8 text")],
)
def test_a_file_of_keys_that_cannot_be_read_is_told(tmp_path: Path, name: str, reason: str) -> None:
    path = _written(tmp_path, {"pepper": PEPPER, "keys": f"file:{tmp_path}/{name}"})
    assert _problem(path).endswith(f": auth.keys: the file cannot be read ({reason})")


@pytest.mark.parametrize(
    "auth",
    [
        {"pepper": PEPPER, "keys": "file:{}"},
        {"pepper": "file:{}", "keys": [A.entry]},
    ],
    ids=["keys", "pepper"],
)
def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(tmp_path: Path, auth: dict[str, Any]) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    section = {name: value.format(pipe) if isinstance(value, str) else value for name, value in auth.items()}
    assert "cannot be read (not a regular file)" in _problem(_written(tmp_path, section))


def test_a_pipe_in_the_place_of_a_certificate_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match=r"server\.tls\.key: .* cannot be read: not a regular file"):
        digest("server.tls.key", pipe)


def test_aliases_that_stand_for_billions_of_values_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{depth}: &a{depth} [{', '.join([f'*a{depth - 1}'] * 9)}]" for depth in range(1, 10)]
    path = tmp_path / "f.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    assert "too many values" in _problem(path)


def test_keys_can_be_read_whatever_else_is_wrong(tmp_path: Path) -> None:
    path = _written(tmp_path, auth_section(A))
    text = path.read_text(encoding="utf-8") + "server: {host: '${UNSET}', prt: 1}\n"
    path.write_text(text, encoding="utf-8")
    assert [key.id for key in load_auth(path, {}).keys] == ["team-a"]
    path.write_text("server: {}\n", encoding="utf-8")
    assert load_auth(path, {}).pepper is None
    path.write_text("server: {}\nauth: 5\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=":2: auth: expected keys and values"):
        load_auth(path, {})
    path.write_text("server: {}\nauth:\n  pepper: short\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r":3: auth\.pepper: a pepper has"):
        load_auth(path, {})


def test_a_hash_is_known_by_its_form() -> None:
    assert apikey.digest_of(A.entry["hash"]) == apikey.digest(A.text, PEPPER.encode())
