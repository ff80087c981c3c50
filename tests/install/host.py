"""A host to install on, below a folder; its environments are empty, its sources can be changed."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import contents
import environment
import installing
import pytest
from places import Places

ROOT = Path(__file__).parents[2]


class Host:
    """Installs, upgrades and uninstalls below `root`, from the sources in `source`."""

    def __init__(self, root: Path, source: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.source = source
        self.places = Places(str(root), Path("/usr/local"), Path("/etc"))
        self._patch = patch
        for folder in ("etc", "systemd"):
            shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("*.lock", "__pycache__"))
        for name in ("README.rst", "CHANGES.rst", "SECURITY.rst", "LICENSE"):
            shutil.copy(ROOT / name, source)
        patch.setattr(contents, "SOURCE", source)
        patch.setattr(environment, "find_python", lambda asked: asked or sys.executable)
        patch.setattr(environment, "build", _build)

    def install(self, *, otlp: bool | None = None) -> str:
        """Install what the sources are now; return the name of the installation."""
        installing.install(self.places, None, otlp)
        return self.current

    def fail(self, error: BaseException) -> None:
        """Let the next environments fail to be made, halfway."""

        def build(_python: str, made: Path, _final: Path, _lock: str) -> None:
            made.mkdir()
            raise error

        self._patch.setattr(environment, "build", build)

    def during_build(self, meanwhile: Callable[[], None]) -> None:
        """Let this happen while an environment is made."""

        def build(python: str, made: Path, final: Path, lock: str) -> None:
            meanwhile()
            _build(python, made, final, lock)

        self._patch.setattr(environment, "build", build)

    def uninstall(self) -> None:
        installing.uninstall(self.places)

    @property
    def current(self) -> str:
        return str((self.root / "usr/local/lib/hartonomous/current").readlink())

    @property
    def lock(self) -> str:
        """The lock that the current installation was made by."""
        command = self.root / "usr/local/lib/hartonomous/current/bin/hartonomous"
        return command.read_text().splitlines()[-1].removeprefix("# ")

    def installations(self) -> set[str]:
        return {path.name for path in (self.root / "usr/local/lib/hartonomous").glob("[0-9]*")}

    def config(self, name: str = "hartonomous.yaml") -> Path:
        return self.root / "etc/hartonomous" / name

    def tree(self) -> set[str]:
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*")}


def _build(_python: str, made: Path, _final: Path, lock: str) -> None:
    (made / "bin").mkdir(parents=True)
    (made / "bin/hartonomous").write_text(f"#!/bin/sh\necho {made.name}\n# {lock}\n")
    (made / "bin/hartonomous").chmod(0o755)
