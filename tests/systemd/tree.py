"""The tree of a Debian with Hartonomous on it, for a systemd of its own: made once, and anew when the project changes.

    python -m tests.systemd.tree FOLDER

Debian comes by debootstrap (`DEBOOTSTRAP_MIRROR` names another mirror than Debian's own),
the project by `make install`.
`llama-server` there is llama.cpp's own server from the tests' wheel, with tiny models of random weights.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from tests.models import write_embedding_model, write_generative_model, write_reranking_model

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = "systemd,systemd-sysv,dbus,python3,python3-venv,curl,procps,libgomp1"
MODELS = "srv/models"
_MADE_OF = ("Makefile", "setup.cfg", "pyproject.toml", "etc", "hartonomous", "systemd", "tests/systemd/tree.py")
_LLAMA_SERVER = """\
#!/bin/sh
# llama-server's own arguments, as far as the units use them.
kind=generative
while [ $# -gt 0 ]; do
    case $1 in
        --embedding) kind=embedding ;;
        --reranking) kind=reranking ;;
        --model) model=$2; shift ;;
        --port) port=$2; shift ;;
    esac
    shift
done
export PYTHONPATH=/opt/llama
exec /usr/local/lib/hartonomous/current/bin/python -m hartonomous.trial.llama_server \\
    --kind "$kind" --model "$model" --port "$port"
"""


def make(folder: Path) -> Path:
    """Return the path of the tree, which is made if it is not there, or is another version's."""
    tree, stamp = folder / "tree", folder / "tree.made-of"
    fingerprint = _fingerprint()
    if stamp.exists() and stamp.read_text() == fingerprint:
        return tree
    base = _debian(folder)
    shutil.rmtree(tree, ignore_errors=True)
    _run("cp", "--archive", str(base), str(tree))
    _run("make", "-C", str(PROJECT), "install", f"DESTDIR={tree}", "PYTHON=/usr/bin/python3")
    _run("systemd-sysusers", f"--root={tree}")
    _run("systemd-tmpfiles", f"--root={tree}", "--create", "hartonomous.conf")
    _add_models(tree)
    stamp.write_text(fingerprint)
    return tree


def _debian(folder: Path) -> Path:
    """Return the path of a Debian of this host's version: the project is installed with the host's Python."""
    base, unfinished = folder / "base", folder / "base.unfinished"
    if not base.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(unfinished, ignore_errors=True)
        suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
        mirror = os.environ.get("DEBOOTSTRAP_MIRROR", "http://deb.debian.org/debian")
        _run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, str(unfinished), mirror)
        unfinished.rename(base)
    return base


def _add_models(tree: Path) -> None:
    """Add `llama-server`, and a model for each of its services."""
    python = (tree / "usr/bin/python3").readlink().name.removeprefix("python")
    wheel = ("--only-binary", ":all:", "--no-deps", "--python-version", python, f"xllamacpp=={version('xllamacpp')}")
    _run(sys.executable, "-m", "pip", "install", "--quiet", "--target", str(tree / "opt/llama"), *wheel)
    program = tree / "usr/local/bin/llama-server"
    program.write_text(_LLAMA_SERVER)
    program.chmod(0o755)
    models = tree / MODELS
    models.mkdir(parents=True)
    write_generative_model(models / "generative.gguf")
    write_embedding_model(models / "embedding.gguf")
    write_reranking_model(models / "reranking.gguf")


def _fingerprint() -> str:
    """Return a hash of everything that the tree is made of."""
    found = hashlib.sha256()
    for top in _MADE_OF:
        paths = sorted((PROJECT / top).rglob("*")) if (PROJECT / top).is_dir() else [PROJECT / top]
        for path in paths:
            if path.is_file() and "__pycache__" not in path.parts:
                found.update(str(path.relative_to(PROJECT)).encode() + path.read_bytes())
    return found.hexdigest()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr)


if __name__ == "__main__":
    print(make(Path(sys.argv[1]).absolute()))
