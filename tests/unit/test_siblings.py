"""Processes that serve the same file tell each other of reloads through a file of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hartonomous import log
from hartonomous.siblings import Siblings

FILE = Path("/etc/hartonomous.yaml")


@pytest.fixture
def told() -> Iterator[list[Any]]:
    """The warnings of the log."""
    records: list[Any] = []
    sink = log.logger.add(lambda message: records.append(message.record), level="WARNING", diagnose=False)
    yield records
    log.logger.remove(sink)


def test_who_reloads_is_heard_once_by_all_the_others(tmp_path: Path) -> None:
    one, two, three = (Siblings(FILE, tmp_path) for _ in range(3))
    for _ in range(3):
        one.tell()
        assert [each.have_reloaded() for each in (one, two, three)] == [False, True, True]
        assert not any(each.have_reloaded() for each in (one, two, three))


def test_of_two_at_once_each_hears_of_the_other(tmp_path: Path) -> None:
    """Whoever read the configuration before the other's change must read it again, whoever was the last to tell."""
    one, two = Siblings(FILE, tmp_path), Siblings(FILE, tmp_path)
    one.tell()
    two.tell()
    assert one.have_reloaded()
    assert two.have_reloaded()
    assert not one.have_reloaded()
    assert not two.have_reloaded()


def test_who_starts_later_knows_what_was_before(tmp_path: Path) -> None:
    Siblings(FILE, tmp_path).tell()
    assert not Siblings(FILE, tmp_path).have_reloaded()


def test_another_configuration_file_is_none_of_theirs(tmp_path: Path) -> None:
    one, other = Siblings(FILE, tmp_path), Siblings(FILE.with_name("other.yaml"), tmp_path)
    one.tell()
    assert not other.have_reloaded()


def test_the_same_file_by_a_relative_path_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one, two = Siblings(Path("config.yaml"), tmp_path), Siblings(tmp_path / "config.yaml", tmp_path)
    one.tell()
    assert two.have_reloaded()


def test_a_file_that_was_tidied_away_is_made_anew(tmp_path: Path) -> None:
    one, two = Siblings(FILE, tmp_path), Siblings(FILE, tmp_path)
    one.tell()
    assert two.have_reloaded()
    (left,) = tmp_path.iterdir()
    left.unlink()
    assert not two.have_reloaded()
    one.tell()
    assert two.have_reloaded()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"RUNTIME_DIRECTORY": "{}/a:{}/b", "XDG_RUNTIME_DIR": "{}/x"}, "a"),
        ({"XDG_RUNTIME_DIR": "{}"}, "hartonomous"),
    ],
)
def test_the_directory_is_the_one_of_the_surroundings(tmp_path: Path, environ: dict[str, str], expected: str) -> None:
    filled = {name: value.replace("{}", str(tmp_path)) for name, value in environ.items()}
    Siblings(FILE, None, filled).tell()
    assert len(list((tmp_path / expected).iterdir())) == 1
    assert (tmp_path / expected).stat().st_mode & 0o777 == 0o700


def test_a_directory_that_is_somebody_elses_is_not_used(tmp_path: Path, told: list[Any]) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "hartonomous").symlink_to(target)
    siblings = Siblings(FILE, None, {"XDG_RUNTIME_DIR": str(tmp_path)})
    siblings.tell()
    assert not siblings.have_reloaded()
    assert not list(target.iterdir())
    (record,) = told
    assert record["extra"]["problem"] == "the runtime directory is somebody else's"


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_a_warning(tmp_path: Path, told: list[Any]) -> None:
    tmp_path.chmod(0o500)
    one = Siblings(FILE, tmp_path)
    one.tell()
    assert not one.have_reloaded()
    assert [record["extra"]["problem"] for record in told] == ["Permission denied"]


def test_a_directory_that_cannot_be_made_is_a_warning(tmp_path: Path, told: list[Any]) -> None:
    one = Siblings(FILE, tmp_path / "not" / "there")
    one.tell()
    assert not one.have_reloaded()
    assert [record["extra"]["problem"] for record in told] == ["No such file or directory"]


def test_a_link_in_the_files_place_is_not_followed(tmp_path: Path, told: list[Any]) -> None:
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    Siblings(FILE, tmp_path).tell()
    (name,) = [path for path in tmp_path.iterdir() if path != victim]
    name.unlink()
    name.symlink_to(victim)
    Siblings(FILE, tmp_path).tell()
    assert victim.read_text() == "as it was"
    assert len(told) == 1
