"""Installing, upgrading, taking away: the steps and their order.

Each installation has a folder of its own below PREFIX/lib/hartonomous, which nothing ever overwrites: a process that
runs goes on loading its modules from there. The link `current` moves to the new one in one step; the one before stays
until the next installation, or for as long as a process has it open.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path

import conffiles
import contents
import environment
from environment import SOURCE
from places import InstallError, Manifest, Places, put, put_link

_INSTALLATION = re.compile(r"[0-9][^-]*-[0-9]{8}T[0-9]{6}Z(\.[0-9]+)?")
# Where systemd looks for units, users and directories.
_SEARCHED = (Path("/usr"), Path("/usr/local"))


def install(places: Places, python: str | None, otlp: bool | None = None) -> None:
    """Install beside what there is, then let that take its place; `otlp` as it was before where that is None."""
    interpreter = environment.find_python(python)
    wanted = contents.files(places)
    with _locked(places) as manifest:
        otlp = manifest.otlp if otlp is None else otlp
        installation = _build(manifest, wanted, interpreter, otlp=otlp)
        before = _link(places)
        said = _configure(places)
        _put_files(manifest, wanted)
        put_link(places.staged(places.current), installation)
        manifest.otlp = otlp
        manifest.write()
        _remove_installations(places, keep={installation, before})
    _tell(places, installation, [*said, *_next_steps(places, upgraded=bool(before))])


def uninstall(places: Places) -> None:
    """Take everything away but data and configuration."""
    if not places.staged(places.library).exists():
        print(f"There is nothing of Hartonomous in {places.staged(places.prefix)}.")
        return
    with _locked(places) as manifest:
        if _is_open(places.staged(places.library)):
            raise InstallError(
                "It is running: systemctl disable --now hartonomous.socket hartonomous.service (and others)."
            )
        places.staged(places.current).unlink(missing_ok=True)
        for name in _installations(places):
            shutil.rmtree(places.staged(places.library / name))
        manifest.end()
    print(f"Hartonomous is gone from {places.staged(places.prefix)}.")
    for path in (places.configuration, Path("/var/lib/hartonomous"), Path("/var/log/hartonomous")):
        if places.staged(path).exists():
            print(f"{places.staged(path)} stays.")


def _build(manifest: Manifest, wanted: Iterable[Path], interpreter: str, *, otlp: bool) -> str:
    """Make a new installation; return its name. When that fails there is what was there before."""
    places = manifest.places
    name = _new_name(places)
    final = places.library / name
    made = places.staged(final)
    try:
        manifest.refuse_strangers([*wanted, places.command])
        manifest.write()
        environment.build(interpreter, made, final, "otlp" if otlp else "server")
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        if not manifest.files:
            manifest.end()
        raise
    return name


def _new_name(places: Places) -> str:
    version = re.search(r'__version__ = "(.+)"', (SOURCE / "hartonomous/__init__.py").read_text(encoding="utf-8"))
    assert version is not None
    name = f"{version[1]}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    taken = _installations(places)
    names = chain([name], (f"{name}.{number}" for number in count(1)))
    return next(each for each in names if each not in taken)


def _configure(places: Places) -> list[str]:
    folder = places.staged(places.configuration)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "credentials").mkdir(mode=0o700, exist_ok=True)
    return conffiles.install(folder, contents.configuration(places))


def _put_files(manifest: Manifest, wanted: dict[Path, tuple[bytes, int]]) -> None:
    """Put the files and the command in their places, and take away what only an earlier version had."""
    places, new = manifest.places, {str(path) for path in (*wanted, manifest.places.command)}
    stale = manifest.files - new
    # In writing before they are there: an installation that is killed leaves nothing unknown.
    manifest.files |= new
    for path in (*wanted, places.command):
        manifest.make_folder(path.parent)
    manifest.write()
    for path, (content, mode) in wanted.items():
        put(places.staged(path), content, mode)
    put_link(places.staged(places.command), os.path.relpath(places.current / "bin/hartonomous", places.command.parent))
    manifest.remove(stale)
    manifest.write()


def _link(places: Places) -> str:
    """Return the name of the installation that is started now; none is empty."""
    current = places.staged(places.current)
    return str(current.readlink()) if current.is_symlink() else ""


def _installations(places: Places) -> list[str]:
    return [path.name for path in places.staged(places.library).iterdir() if _INSTALLATION.fullmatch(path.name)]


def _remove_installations(places: Places, keep: set[str]) -> None:
    for name in set(_installations(places)) - keep:
        folder = places.staged(places.library / name)
        if not _is_open(folder):
            shutil.rmtree(folder)


def _is_open(folder: Path) -> bool:
    """Whether a process has modules of this installation in its memory. A container's have the same paths alone."""
    mapped = re.compile(rf" (\d+) +({re.escape(str(folder))}/.*)$", re.MULTILINE)
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            found = mapped.search(maps.read_text(encoding="utf-8", errors="surrogateescape"))
            if found and Path(found[2]).stat().st_ino == int(found[1]):
                return True
    return False


@contextmanager
def _locked(places: Places) -> Iterator[Manifest]:
    """Let one at a time install or uninstall; yield what is there in writing while nobody else changes it."""
    made = Manifest(places)
    made.make_folder(places.library)
    library = places.staged(places.library)
    folder = os.open(library, os.O_RDONLY)
    try:
        if not _lock(folder, library):
            raise InstallError(f"{places.library}: another installation is under way.")
        manifest = Manifest.read(places)
        manifest.folders |= made.folders
        yield manifest
    finally:
        os.close(folder)


def _lock(folder: int, path: Path) -> bool:
    """Lock what was opened there; False where another one has it, or took the folder away since."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(folder), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _next_steps(places: Places, *, upgraded: bool) -> list[str]:
    """Return what is left to do, for a host that was installed on."""
    if places.destdir or os.geteuid() != 0:
        return []
    config = places.configuration / "hartonomous.yaml"
    check = f"{places.command} check {config}"
    steps = ["systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload"]
    if places.prefix not in _SEARCHED:
        steps = [f"# systemd looks below {' and '.join(map(str, _SEARCHED))} alone: link or copy {places.prefix}/lib/*"]
    if upgraded:
        steps += [f"{check} && systemctl kill --kill-whom=main --signal=USR2 hartonomous  # the new one takes over"]
    else:
        steps += [f"$EDITOR {config} && {check}", "systemctl enable --now hartonomous"]
    return ["Next:", *(f"  {step}" for step in steps)]


def _tell(places: Places, installation: str, sentences: list[str]) -> None:
    print(f"{places.staged(places.command)} is {places.library / installation}.")
    for sentence in sentences:
        print(sentence)
