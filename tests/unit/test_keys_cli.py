"""`hartonomous keys`: what `new` prints is what a server takes, and what is wrong is a sentence."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from hartonomous.__main__ import main
from hartonomous.cli import keys as command
from hartonomous.configfile import load_auth
from hartonomous.core import apikey
from hartonomous.keyring import Keyring
from tests.service.keyed import PEPPER, Key, auth_section

OLD = Key("team-a", ("query",), ("team-a-*",), options={"limits": {"requests_per_s": 5.0}})
NEW = ("--scopes", "query,ingest", "--collections", "team-b-*", "docs")


class Cli:
    """Runs `hartonomous keys …`; `out` are the lines of standard output, `err` is all of standard error."""

    def __init__(self, captured: pytest.CaptureFixture[str], config: Path) -> None:
        self._captured = captured
        self.config = config
        self.out: list[str] = []
        self.err = ""

    def write(self, auth: dict[str, Any]) -> None:
        self.config.write_text(yaml.safe_dump({"auth": auth}), encoding="utf-8")

    def run(self, *arguments: str) -> int:
        try:
            status = main(["keys", *arguments, "--config", str(self.config)])
        except SystemExit as error:
            status = int(error.code or 0)
        captured = self._captured.readouterr()
        self.out, self.err = captured.out.splitlines(), captured.err
        return status


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command with a configuration that has one key."""
    made = Cli(capsys, tmp_path / "hartonomous.yaml")
    made.write(auth_section(OLD))
    return made


def test_the_printed_line_lets_the_printed_key_in(cli: Cli) -> None:
    assert cli.run("new", "--id", "team-b", *NEW, "--expires", "2999-12-31") == 0
    key, line = cli.out
    text = f"auth:\n  pepper: {PEPPER}\n  keys:\n    {line}\n"
    cli.config.write_text(text, encoding="utf-8")
    caller = Keyring(load_auth(cli.config, {})).caller(key)
    assert caller is not None
    assert (caller.key_id, sorted(caller.scopes)) == ("team-b", ["ingest", "query"])
    assert caller.grant.patterns == ["docs", "team-b-*"]
    assert key not in line
    assert "shown only now" in cli.err


@pytest.mark.parametrize("key_id", ["123", "1e5", "true", "null", "2030-01-01", "0x1", "a", "1.5"])
def test_any_id_is_text_in_the_line(cli: Cli, key_id: str) -> None:
    assert cli.run("new", "--id", key_id, "--scopes", "metrics") == 0
    assert yaml.safe_load(cli.out[1])[0]["id"] == key_id


def test_lists_are_given_with_commas_and_one_by_one(cli: Cli) -> None:
    status = cli.run(
        "new", "--id", "b", "--scopes", "query, ingest", "--scopes", "query", "metrics", "--collections", "*"
    )
    assert status == 0
    entry = yaml.safe_load(cli.out[1])[0]
    assert (entry["scopes"], entry["collections"]) == (["query", "ingest", "metrics"], ["*"])


def test_two_keys_are_never_the_same(cli: Cli) -> None:
    made = set()
    for _ in range(3):
        cli.run("new", "--id", "b", *NEW)
        made.add(cli.out[0])
    assert len(made) == 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--id", "a_b", "--scopes", "query"), "--id: an id is 1 to 64 letters"),
        (("--id", "", "--scopes", "query"), "--id: an id is 1 to 64 letters"),
        (("--id", "é", "--scopes", "query"), "--id: an id is 1 to 64 letters"),
        (("--id", "a" * 65, "--scopes", "query"), "--id: an id is 1 to 64 letters"),
        (("--id", "a\n", "--scopes", "query"), "--id: an id is 1 to 64 letters"),
        (("--id", "b", "--scopes", ","), "--scopes: the scopes are query, ingest, metrics and admin"),
        (("--id", "b", "--scopes", "query,all"), "--scopes: the scopes are query, ingest, metrics and admin"),
        (("--id", "b", "--scopes", "query", "--collections", "../x"), "--collections: a collection is given by"),
        (("--id", "b", "--scopes", "query", "--collections", "a*b"), "--collections: a collection is given by"),
        (("--id", "b", "--scopes", "query", "--owner", "a b"), "--owner: an owner is 1 to 64 letters"),
        (("--id", "b", "--scopes", "query", "--expires", "soon"), "--expires: expected a date"),
        (("--id", "b", "--scopes", "query", "--expires", "2020-01-01"), "--expires: that moment has passed"),
        (("--id", "team-a", "--scopes", "query"), "--id: there is a key 'team-a' already"),
        (("--id", "b", "--scopes", "query", "--pepper", "a-pepper-as-it-is"), "--pepper: a pepper is one line"),
        (("--id", "b", "--scopes", "query", "--pepper", "file:/none"), "--pepper: the secret's file cannot be read"),
    ],
)
def test_what_is_wrong_is_a_sentence_and_nothing_is_made(cli: Cli, arguments: tuple[str, ...], sentence: str) -> None:
    assert cli.run("new", *arguments) == 2
    assert cli.out == []
    assert cli.err.startswith(f"hartonomous keys: {sentence}")
    assert cli.err.count("\n") == 1


def test_a_configuration_that_is_wrong_is_a_sentence(cli: Cli) -> None:
    cli.write({"pepper": "short"})
    assert cli.run("new", "--id", "b", *NEW) == 2
    assert (cli.out, cli.err) == ([], f"{cli.config}:2: auth.pepper: a pepper has at least 16 characters\n")
    cli.config.unlink()
    assert cli.run("new", "--id", "b", *NEW) == 2
    assert "cannot be read" in cli.err


def test_a_pepper_is_made_where_there_is_none_and_only_there(cli: Cli) -> None:
    cli.config.write_text("server: {host: 0.0.0.0}\n", encoding="utf-8")
    assert cli.run("new", "--id", "b", *NEW) == 0
    key, line, pepper = cli.out
    cli.config.write_text(f"auth:\n  {pepper}\n  keys:\n  {line}\n", encoding="utf-8")
    assert Keyring(load_auth(cli.config, {})).caller(key) is not None
    assert "third line" in cli.err
    assert cli.run("new", "--id", "c", *NEW) == 0
    assert len(cli.out) == 2


def test_without_any_configuration_a_pepper_is_made(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "DEFAULT_CONFIG", cli.config.with_name("none.yaml"))
    assert main(["keys", "new", "--id", "b", *NEW]) == 0


def test_a_pepper_can_be_given_in_a_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "pepper").write_text("another-pepper-0123\n", encoding="utf-8")
    assert cli.run("new", "--id", "b", *NEW, "--pepper", f"file:{tmp_path}/pepper") == 0
    key, line = cli.out
    assert yaml.safe_load(line)[0]["hash"] == apikey.hashed(key, b"another-pepper-0123")


def test_another_key_of_an_owner_has_the_owners_limits(cli: Cli) -> None:
    assert cli.run("new", "--id", "team-a-2", *NEW, "--owner", "team-a") == 0
    entry = yaml.safe_load(cli.out[1])[0]
    assert (entry["owner"], entry["limits"]) == ("team-a", {"requests_per_s": 5.0})
    cli.config.write_text(yaml.safe_dump({"auth": auth_section(OLD) | {"keys": [OLD.entry, entry]}}), encoding="utf-8")
    assert len(load_auth(cli.config, {}).keys) == 2


def test_a_key_that_reaches_no_collection_is_told(cli: Cli) -> None:
    assert cli.run("new", "--id", "b", "--scopes", "query") == 0
    assert "reaches no collection" in cli.err
    assert cli.run("new", "--id", "b", "--scopes", "admin") == 0
    assert "reaches no collection" not in cli.err


@pytest.mark.parametrize(
    ("given", "said", "status"),
    [
        (OLD.text, "team-a: {scopes: [query], collections: [team-a-*], limits: {requests_per_s: 5.0}}", 0),
        (Key("team-a", secret="another").text, "team-a: another key has this id", 1),
        (Key("late").text, "late: expired", 1),
        (Key("nobody").text, "nobody: unknown", 1),
        (OLD.text[:-1], "this is no key: it is cut off, or mistyped", 1),
        (OLD.text.replace("_", "-"), "this is no key: it is cut off, or mistyped", 1),
        ("é\0", "this is no key: it is cut off, or mistyped", 1),
        ("", "this is no key: it is cut off, or mistyped", 1),
    ],
)
def test_a_key_is_checked(cli: Cli, monkeypatch: pytest.MonkeyPatch, given: str, said: str, status: int) -> None:
    cli.write(auth_section(OLD, Key("late", options={"expires": "2020-01-01"})))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(f"{given}\n".encode())))
    assert cli.run("check") == status
    assert cli.out == [said]
