"""An installation: a virtual environment with exactly what is locked and the project, made here and fit for there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from places import InstallError

SOURCE = Path(__file__).resolve().parents[2]
_PROJECT = ("setup.cfg", "pyproject.toml", "README.rst", "LICENSE", "hartonomous")
_PIP = ("-m", "pip", "--quiet", "--quiet", "--disable-pip-version-check", "--no-input")
_LOCKED = ("--only-binary", ":all:", "--require-hashes", "--requirement")
_NO_PACKAGES = "The packages could not be had (from PyPI, or where pip's own settings say)"
_RECORDED = re.compile(r"^((?:\.\./)+bin/[^,\n]+),sha256=[^,\n]+,[0-9]+$", re.MULTILINE)
# How pip has a script begin when its interpreter's path has a space or is long: the path of here, not of there.
_BY_SHELL = re.compile(rb"""\A#!/bin/sh\n'\'\'exec' "?([^" ]{1,120})"? "\$0" "\$@"\n' '\'\'\n""")
_HOST_PYTHON = Path("/usr/bin/python3")
_PROBE = "import ensurepip, os, sys, venv; print(*sys.version_info[:2], os.path.realpath(sys.executable))"


def find_python(asked: str | None) -> str:
    """Return the interpreter to install for: the host's own, unless one is asked for. Raises InstallError."""
    candidates = [asked] if asked else [str(_HOST_PYTHON), sys.executable]
    for candidate in candidates:
        major, minor, path = (_probed(candidate).split(maxsplit=2) + ["0"] * 3)[:3]
        if (int(major), int(minor)) >= (3, 11):
            if path.startswith(("/root/", "/home/")):
                print(f"Take note: {path.strip()} lies where a service's user cannot read it.", file=sys.stderr)
            return candidate
    raise InstallError(
        f"{' and '.join(candidates)}: Python 3.11 or newer with ensurepip is needed (Debian: python3-venv)."
    )


def _probed(candidate: str) -> str:
    """Return what an interpreter says of itself; nothing where there is none, or it cannot make environments."""
    try:
        done = subprocess.run([candidate, "-c", _PROBE], capture_output=True, text=True, check=False)  # noqa: S603
    except OSError:
        return ""
    return "" if done.returncode else done.stdout


def build(python: str, made: Path, final: Path, lock: str) -> None:
    """Make the environment of `etc/LOCK.lock` at `made` so that it works at `final`.

    Raises InstallError; what there is then is no use.
    """
    with tempfile.TemporaryDirectory(prefix="hartonomous-install-") as folder:
        tools = Path(folder, "tools")
        _run("The tools to install with could not be made", python, "-m", "venv", tools)
        pip = (tools / "bin/python", *_PIP)
        _run(_NO_PACKAGES, *pip, "install", *_LOCKED, SOURCE / "etc/build.lock")
        project = _copy(Path(folder, "source"))
        wheels = Path(folder, "wheels")
        _run(
            "The project could not be packed",
            *(*pip, "wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", wheels, project),
        )
        _run("The environment could not be made", python, "-m", "venv", "--without-pip", made)
        into = (*pip, "--python", made / "bin/python", "install", "--no-compile")
        _run(_NO_PACKAGES, *into, *_LOCKED, SOURCE / f"etc/{lock}.lock")
        _run(
            "The project could not be installed",
            *(*into, "--no-deps", "--no-index", "--find-links", wheels, "hartonomous"),
        )
    _relocate(made, final)
    _compile(made, final)


def _copy(target: Path) -> Path:
    """Copy the project: what a build leaves behind does not belong in the sources, nor in the next build."""
    target.mkdir()
    for name in _PROJECT:
        source = SOURCE / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return target


def _relocate(made: Path, final: Path) -> None:
    """Write the final path where the one of now stands: first lines of scripts, the environment's description."""
    if made == final:
        return
    for path in (made / "pyvenv.cfg", *_scripts(made)):
        content = path.read_bytes().replace(str(made).encode(), str(final).encode())
        path.write_bytes(_BY_SHELL.sub(rb"#!\1\n", content))
    for record in made.glob("lib/python*/site-packages/*.dist-info/RECORD"):
        _record_scripts(record)


def _record_scripts(record: Path) -> None:
    """Write into the record of a package what its scripts are now."""

    def entry(found: re.Match[str]) -> str:
        content = (record.parents[1] / found[1]).read_bytes()
        digest = urlsafe_b64encode(sha256(content).digest()).decode().rstrip("=")
        return f"{found[1]},sha256={digest},{len(content)}"

    record.write_text(_RECORDED.sub(entry, record.read_text(encoding="utf-8")), encoding="utf-8")


def _scripts(made: Path) -> Iterator[Path]:
    return (path for path in (made / "bin").iterdir() if path.is_file() and not path.is_symlink())


def _compile(made: Path, final: Path) -> None:
    strip = str(made).removesuffix(str(final))
    places = ("-s", strip, "-p", "/") if strip else ()
    # Also what is compiled already: by pip, which looks for some of them while it installs.
    command = ("-m", "compileall", "-q", "-f", "-j", "2", *places, made)
    _run("The modules could not be compiled", made / "bin/python", *command)


def _run(failure: str, *command: str | Path) -> None:
    # Whatever path Python has here, there it has none.
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run([str(word) for word in command], env=variables, stdout=sys.stderr, check=False)  # noqa: S603
    if done.returncode:
        raise InstallError(f"{failure}: the reason stands above.")
