"""Where things go, what was put there, and putting them there: whole, with their modes, and nobody else's."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


class InstallError(Exception):
    """Why it cannot be done, as a sentence."""


@dataclass(frozen=True)
class Places:
    """The paths that things have on the host where they run; `staged` is where they are put for now."""

    destdir: str
    prefix: Path
    sysconfdir: Path

    def staged(self, path: Path | str) -> Path:
        """Return where `path` of the host is put: below DESTDIR."""
        return Path(f"{self.destdir}{path}")

    @property
    def library(self) -> Path:
        """The folder of all installations."""
        return self.prefix / "lib/hartonomous"

    @property
    def current(self) -> Path:
        """The link to the installation that is started."""
        return self.library / "current"

    @property
    def command(self) -> Path:
        """`hartonomous` on the path."""
        return self.prefix / "bin/hartonomous"

    @property
    def configuration(self) -> Path:
        """The folder of the configuration."""
        return self.sysconfdir / "hartonomous"


@dataclass
class Manifest:
    """What was put outside of the installations: files, and the folders that were not there before, by host path.

    `otlp` says whether the installation has what sends spans.
    """

    places: Places
    files: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)
    otlp: bool = False

    @classmethod
    def read(cls, places: Places) -> Manifest:
        """Return what an earlier installation has left in writing."""
        path = places.staged(_listed(places))
        known = json.loads(path.read_bytes()) if path.exists() else {}
        return cls(places, set(known.get("files", ())), set(known.get("folders", ())), known.get("otlp") is True)

    def write(self) -> None:
        """Make it what the next one reads."""
        known = {"files": sorted(self.files), "folders": sorted(self.folders), "otlp": self.otlp}
        put(self.places.staged(_listed(self.places)), json.dumps(known, indent=1).encode() + b"\n")

    def make_folder(self, path: Path) -> None:
        """Make a folder and those above it; note the ones that were not there."""
        missing = [each for each in (path, *path.parents[:-1]) if not self.places.staged(each).exists()]
        for each in reversed(missing):
            self.places.staged(each).mkdir(parents=True, exist_ok=True)
            self.folders.add(str(each))

    def refuse_strangers(self, paths: Iterable[Path]) -> None:
        """Raise InstallError when something is there that we did not put there."""
        for path in paths:
            if str(path) not in self.files and os.path.lexists(self.places.staged(path)):
                raise InstallError(f"{path} is there already, and not from here: take it away first.")

    def remove(self, paths: Iterable[str]) -> None:
        """Take files away that we put there."""
        for path in list(paths):
            self.places.staged(path).unlink(missing_ok=True)
            self.files.discard(path)

    def end(self) -> None:
        """Take away everything, folders of ours that are empty included, and itself."""
        self.remove(self.files)
        self.places.staged(_listed(self.places)).unlink(missing_ok=True)
        for folder in sorted(self.folders, key=lambda each: each.count("/"), reverse=True):
            with contextlib.suppress(OSError):
                self.places.staged(folder).rmdir()


def _listed(places: Places) -> Path:
    return places.library / "installed.json"


def put(path: Path, content: bytes, mode: int = 0o644, like: os.stat_result | None = None) -> None:
    """Make `path` a file with this content in one step; `like` another one's mode and owner."""
    file, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(file, "wb") as writer:
            writer.write(content)
        Path(name).chmod(mode if like is None else stat.S_IMODE(like.st_mode))
        if like is not None and os.geteuid() == 0:
            os.chown(name, like.st_uid, like.st_gid)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise


def put_link(path: Path, target: str) -> None:
    """Make `path` a symbolic link in one step, also where there is one."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(path)
