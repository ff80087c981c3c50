"""Upgrades and the end: configuration, what an earlier version had, what is somebody else's, what goes wrong."""

from __future__ import annotations

import mmap
import subprocess
from pathlib import Path

import contents
import installing
import pytest
from places import InstallError, Places

from tests.install.host import Host


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    (tmp_path / "root").mkdir()
    return Host(tmp_path / "root", tmp_path / "source", monkeypatch)


def change_default(host: Host, name: str = "hartonomous.yaml") -> str:
    path = host.source / "etc" / name
    path.write_text(path.read_text() + "# a new default\n")
    return "# a new default\n"


def test_configuration_that_nobody_edited_follows_the_default(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.install()
    host.config().chmod(0o640)
    new = change_default(host)
    host.install()
    assert host.config().read_text().endswith(new)
    assert host.config().stat().st_mode & 0o777 == 0o640
    assert not host.config("hartonomous.yaml.new").exists()
    assert "was edited" not in capsys.readouterr().out


def test_edited_configuration_stays_and_the_new_default_lies_beside_it(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    host.install()
    host.config().write_text("server: {port: 1}\n")
    new = change_default(host)
    host.install()
    assert host.config().read_text() == "server: {port: 1}\n"
    beside = host.config("hartonomous.yaml.new")
    assert beside.read_text().endswith(new)
    assert f"{host.config()} was edited and stays as it is; the new default is {beside}.\n" in capsys.readouterr().out
    host.config().write_text(beside.read_text())
    host.install()
    assert not beside.exists(), "what was taken over is no news any more"


def test_an_edited_file_whose_default_is_the_same_is_not_spoken_of(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    host.install()
    host.config("prompt.yaml").write_text("system: Be kind.\n")
    host.install()
    assert host.config("prompt.yaml").read_text() == "system: Be kind.\n"
    assert not host.config("prompt.yaml.new").exists()
    assert "was edited" not in capsys.readouterr().out


def test_configuration_that_was_there_before_the_first_installation_stays(host: Host) -> None:
    host.config().parent.mkdir(parents=True)
    host.config().write_text("server: {port: 1}\n")
    host.install()
    assert host.config().read_text() == "server: {port: 1}\n"
    assert host.config("hartonomous.yaml.new").exists()


def test_configuration_that_is_a_link_is_never_replaced(host: Host, tmp_path: Path) -> None:
    host.install()
    kept = tmp_path / "kept.yaml"
    host.config().rename(kept)
    host.config().symlink_to(kept)
    change_default(host)
    host.install()
    assert host.config().is_symlink()
    assert "a new default" not in kept.read_text()


def test_configuration_is_known_as_edited_after_an_uninstallation_as_well(host: Host) -> None:
    host.install()
    host.config().write_text("server: {port: 1}\n")
    host.uninstall()
    assert host.config().read_text() == "server: {port: 1}\n"
    change_default(host)
    host.install()
    assert host.config().read_text() == "server: {port: 1}\n"
    assert host.config("prompt.yaml").read_bytes() == (host.source / "etc/prompt.yaml").read_bytes()


def test_the_installation_before_stays_until_the_next_one(host: Host) -> None:
    first = host.install()
    second = host.install()
    assert host.installations() == {first, second}
    third = host.install()
    assert host.installations() == {second, third}
    command = subprocess.run([host.root / "usr/local/bin/hartonomous"], capture_output=True, text=True, check=True)
    assert command.stdout.strip() == third


def test_an_installation_that_a_process_has_open_stays(host: Host) -> None:
    first = host.install()
    with (host.root / "usr/local/lib/hartonomous" / first / "bin/hartonomous").open("rb") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
            host.install()
            host.install()
            assert first in host.installations()
            with pytest.raises(InstallError, match="is running"):
                host.uninstall()
        last = host.install()
    assert host.installations() >= {last}
    assert first not in host.installations()


def test_what_an_earlier_version_had_goes_and_what_an_admin_added_stays(host: Host) -> None:
    (host.source / "etc/curl/old.sh").write_text("#!/bin/sh\n")
    host.install()
    scripts = host.root / "usr/local/share/hartonomous/curl"
    assert (scripts / "old.sh").exists()
    (scripts / "mine.sh").write_text("#!/bin/sh\n")
    (host.source / "etc/curl/old.sh").unlink()
    host.install()
    assert not (scripts / "old.sh").exists()
    host.uninstall()
    assert [path.name for path in scripts.iterdir()] == ["mine.sh"]
    assert not (host.root / "usr/local/share/doc").exists()


def test_uninstalling_leaves_configuration_data_and_what_was_there_before(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("usr/local/bin", "usr/local/lib", "var/lib/hartonomous", "var/log/hartonomous"):
        (host.root / folder).mkdir(parents=True)
    (host.root / "usr/local/bin/other").touch()
    before = host.tree()
    host.install()
    drop_in = host.root / "usr/local/lib/systemd/system/hartonomous.service.d/mine.conf"
    drop_in.parent.mkdir(parents=True)
    drop_in.touch()
    configuration = {path for path in host.tree() if path.startswith("etc")}
    host.uninstall()
    kept = {str(path.relative_to(host.root)) for path in (drop_in, *drop_in.parents[:4])}
    assert host.tree() == before | configuration | kept
    said = capsys.readouterr().out
    for folder in ("etc", "var/lib", "var/log"):
        assert f"{host.root}/{folder}/hartonomous stays." in said


def test_uninstalling_where_nothing_is_says_so_and_is_no_error(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    before = host.tree()
    host.uninstall()
    assert host.tree() == before
    assert "There is nothing of Hartonomous" in capsys.readouterr().out
    host.install()
    host.uninstall()
    host.uninstall()


def test_what_is_somebody_elses_is_not_overwritten(host: Host) -> None:
    command = host.root / "usr/local/bin/hartonomous"
    command.parent.mkdir(parents=True)
    command.write_text("mine")
    before = host.tree()
    with pytest.raises(InstallError, match="/usr/local/bin/hartonomous is there already"):
        host.install()
    assert host.tree() == before
    assert command.read_text() == "mine"


def test_two_at_once_are_one_and_what_the_other_has_put_there_is_known(host: Host) -> None:
    def meanwhile() -> None:
        before = host.tree()
        for what in (host.install, host.uninstall):
            with pytest.raises(InstallError, match="another installation is under way"):
                what()
        assert host.tree() == before

    before = host.tree()
    host.during_build(meanwhile)
    host.install()
    host.install()
    host.uninstall()
    assert {path for path in host.tree() if not path.startswith("etc")} == before


def test_who_finds_the_lock_free_knows_what_was_put_there_until_then(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one begins and ends after this one has begun, and before it has the lock."""
    before = host.tree()
    files = contents.files

    def other_one_is_faster(places: Places) -> dict[Path, tuple[bytes, int]]:
        monkeypatch.setattr(contents, "files", files)
        host.install()
        return files(places)

    monkeypatch.setattr(contents, "files", other_one_is_faster)
    host.install()
    host.install()
    host.uninstall()
    assert {path for path in host.tree() if not path.startswith("etc")} == before


def test_what_sends_spans_stays_at_an_upgrade_until_it_is_not_wanted_any_more(host: Host) -> None:
    locks = []
    for otlp in (None, True, None, False, None):
        host.install(otlp=otlp)
        locks.append(host.lock)
    assert locks == ["server", "otlp", "otlp", "server", "server"]


def test_an_upgrade_that_fails_does_not_change_whether_spans_are_sent(host: Host) -> None:
    host.install()
    host.fail(InstallError("no packages"))
    with pytest.raises(InstallError):
        host.install(otlp=True)
    host.during_build(lambda: None)
    host.install()
    assert host.lock == "server"


def test_an_installation_that_fails_leaves_nothing(host: Host) -> None:
    before = host.tree()
    host.fail(InstallError("no packages"))
    with pytest.raises(InstallError):
        host.install()
    assert host.tree() == before


def test_an_upgrade_that_fails_leaves_the_installation_as_it_is(host: Host) -> None:
    host.install()
    change_default(host)
    before = host.tree()
    host.fail(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        host.install()
    assert host.tree() == before
    assert "a new default" not in host.config().read_text()


def test_units_have_the_paths_that_they_are_installed_for(host: Host) -> None:
    host.places = Places(str(host.root), Path("/opt/rag"), Path("/opt/etc"))
    installing.install(host.places, None)
    units = [path for path in (host.root / "opt/rag/lib").rglob("*") if path.suffix in {".service", ".socket", ".conf"}]
    texts = {path.name: path.read_text() for path in units}
    serving = "ExecStart=/opt/rag/bin/hartonomous serve --config /opt/etc/hartonomous/hartonomous.yaml"
    assert serving in texts["hartonomous.service"].splitlines()
    assert not [name for name, text in texts.items() if "/usr/local/" in text or " /etc/hartonomous" in text]
