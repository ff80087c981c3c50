"""Configuration, as dpkg treats it: a file that nobody has edited follows the defaults, an edited one stays as it is.

`.defaults` in the folder says which default was last put there or offered. It stays with the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from places import put


def install(folder: Path, files: Mapping[str, bytes]) -> list[str]:
    """Put every file there, or its new default beside an edited one; return what there is to say of it."""
    defaults = folder / ".defaults"
    known = dict(line.split()[::-1] for line in defaults.read_text().splitlines()) if defaults.exists() else {}
    said = [_install(folder / name, content, known) for name, content in files.items()]
    put(defaults, "".join(f"{digest}  {name}\n" for name, digest in sorted(known.items())).encode())
    return [sentence for sentence in said if sentence]


def _install(path: Path, content: bytes, known: dict[str, str]) -> str:
    before, after = known.get(path.name), _digest(content)
    known[path.name] = after
    beside = path.with_name(f"{path.name}.new")
    there = _digest(path.read_bytes()) if path.exists() else None
    if there in (None, before, after) and not path.is_symlink():
        put(path, content, like=path.stat() if there else None)
        beside.unlink(missing_ok=True)
        return ""
    if after in (before, there):
        return ""
    put(beside, content, like=path.stat() if there else None)
    return f"{path} was edited and stays as it is; the new default is {beside}."


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()
