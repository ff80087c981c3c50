"""`make install` and `make uninstall`: the server where an administrator of Debian looks for it.

Each installation has a folder of its own below PREFIX/lib/hartonomous, which nothing ever overwrites: a process that
runs goes on loading its modules from there. The link `current` moves to the new one in one step; the one before stays
until the next installation, or for as long as a process has it open.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import conffiles
import environment
from environment import SOURCE
from places import InstallError, Manifest, Places, put, put_link

_INSTALLATION = re.compile(r"[0-9][^-]*-[0-9]{8}T[0-9]{6}Z")
_DOCUMENTS = ("README.rst", "CHANGES.rst", "SECURITY.rst", "LICENSE")
_EXAMPLES = ("curl", "grafana", "prometheus", "haproxy", "nginx")
_SYSTEMD = {".service", ".socket", ".target", ".timer", ".path", ".slice", ".conf"}
# Where systemd looks for units, users and directories.
_SEARCHED = (Path("/usr"), Path("/usr/local"))


def main() -> int:
    """Do what argv says; return the exit status."""
    parser = argparse.ArgumentParser(prog="make")
    parser.add_argument("what", choices=("install", "uninstall"))
    parser.add_argument("--destdir", default="")
    parser.add_argument("--prefix", type=Path, default=Path("/usr/local"))
    parser.add_argument("--sysconfdir", type=Path, default=Path("/etc"))
    parser.add_argument("--python")
    args = parser.parse_args()
    os.umask(0o022)
    destdir = str(Path(args.destdir).absolute()) if args.destdir else ""
    places = Places(destdir.rstrip("/"), args.prefix, args.sysconfdir)
    try:
        if not (args.prefix.is_absolute() and args.sysconfdir.is_absolute()):
            raise InstallError("PREFIX and SYSCONFDIR are absolute paths; DESTDIR is what they are put below.")
        install(places, args.python) if args.what == "install" else uninstall(places)
    except InstallError as error:
        print(error, file=sys.stderr)
    except PermissionError as error:
        print(f"{error.filename} cannot be written: make {args.what} wants root, or a DESTDIR.", file=sys.stderr)
    else:
        return 0
    return 1


def install(places: Places, python: str | None) -> None:
    """Install beside what there is, then let that take its place."""
    interpreter = environment.find_python(python)
    manifest = Manifest.read(places)
    wanted = _wanted(places)
    manifest.refuse_strangers([*wanted, places.command])
    manifest.make_folder(places.library)
    with _locked(places):
        installation = _build(places, interpreter)
        before = _link(places)
        said = _configure(places)
        _put_files(manifest, wanted)
        put_link(places.staged(places.current), installation)
        _remove_installations(places, keep={installation, before})
    _tell(places, installation, [*said, *_next_steps(places, upgraded=bool(before))])


def uninstall(places: Places) -> None:
    """Take everything away but data and configuration."""
    manifest = Manifest.read(places)
    if not places.staged(places.library).exists():
        print(f"There is nothing of Hartonomous in {places.staged(places.prefix)}.")
        return
    places.staged(places.current).unlink(missing_ok=True)
    for name in _installations(places):
        shutil.rmtree(places.staged(places.library / name))
    manifest.end()
    print(f"Hartonomous is gone from {places.staged(places.prefix)}.")
    for path in (places.configuration, Path("/var/lib/hartonomous"), Path("/var/log/hartonomous")):
        if places.staged(path).exists():
            print(f"{places.staged(path)} stays.")


def _wanted(places: Places) -> dict[Path, tuple[bytes, int]]:
    """Return every file outside of the installation and the configuration, with its mode."""
    share = places.prefix / "share"
    found = {share / "doc/hartonomous" / name: SOURCE / name for name in _DOCUMENTS}
    for folder in _EXAMPLES:
        found |= _below(SOURCE / "etc" / folder, share / "hartonomous" / folder)
    wanted = {path: (source.read_bytes(), _mode(source)) for path, source in found.items()}
    for path, source in _below(SOURCE / "systemd", Path()).items():
        if path.suffix in _SYSTEMD:
            above = "lib" if path.parts[0] in ("sysusers.d", "tmpfiles.d") else "lib/systemd/system"
            wanted[places.prefix / above / path] = (_placed(places, source.read_bytes()), 0o644)
    return wanted


def _below(folder: Path, place: Path) -> dict[Path, Path]:
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {place / path.relative_to(folder): path for path in files}


def _mode(source: Path) -> int:
    return 0o755 if source.stat().st_mode & 0o100 else 0o644


def _placed(places: Places, content: bytes) -> bytes:
    """Return a file for systemd with the paths of this installation in it."""
    for name, path in (("bindir", places.command.parent), ("sysconfdir", places.sysconfdir), ("prefix", places.prefix)):
        content = content.replace(f"@{name}@".encode(), str(path).encode())
    return content


def _build(places: Places, interpreter: str) -> str:
    """Make a new installation; return its name. None is left when that fails."""
    version = re.search(r'__version__ = "(.+)"', (SOURCE / "hartonomous/__init__.py").read_text(encoding="utf-8"))
    assert version is not None
    name = f"{version[1]}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    final = places.library / name
    made = places.staged(final)
    if made.exists():
        raise InstallError(f"{made} is there already: once more, a second later.")
    try:
        environment.build(interpreter, made, final)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return name


def _configure(places: Places) -> list[str]:
    folder = places.staged(places.configuration)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "credentials").mkdir(mode=0o700, exist_ok=True)
    return conffiles.install(folder)


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
    """Whether a process has modules of this installation open."""
    needle = f" {folder}/".encode()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            if needle in maps.read_bytes():
                return True
    return False


@contextmanager
def _locked(places: Places) -> Iterator[None]:
    """Let one at a time install or uninstall."""
    folder = os.open(places.staged(places.library), os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise InstallError(f"{places.library}: another installation is under way.") from error
    finally:
        os.close(folder)


def _next_steps(places: Places, *, upgraded: bool) -> list[str]:
    """Return what is left to do, for a host that was installed on."""
    if places.destdir or os.geteuid() != 0:
        return []
    config = places.configuration / "hartonomous.yaml"
    if upgraded:
        return [f"Next: {places.command} check {config} && systemctl daemon-reload && systemctl restart hartonomous"]
    steps = ["systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload"]
    if places.prefix not in _SEARCHED:
        steps = [f"# systemd looks below {' and '.join(map(str, _SEARCHED))} alone: link or copy {places.prefix}/lib/*"]
    steps += [f"$EDITOR {config}", f"{places.command} check {config}", "systemctl enable --now hartonomous"]
    return ["Next:", *(f"  {step}" for step in steps)]


def _tell(places: Places, installation: str, sentences: list[str]) -> None:
    print(f"{places.staged(places.command)} is {places.library / installation}.")
    for sentence in sentences:
        print(sentence)


if __name__ == "__main__":
    sys.exit(main())
