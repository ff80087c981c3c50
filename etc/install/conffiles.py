"""Configuration, as dpkg treats it: a file that nobody has edited follows the defaults, an edited one stays as it is.

`.defaults` in the folder says which default was last put there or offered. It stays with the configuration.
"""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

from environment import SOURCE
from places import InstallError, put

# What a host has that a first look at the sources does not need.
_PRODUCTION = {
    "hartonomous.yaml": (
        (r"^  # (admin: 127\.0\.0\.1:8701 ) ", r"  \1   "),
        (r"^  # (directory: /var/log/hartonomous/audit ) ", r"  \1   "),
    ),
    "prompt.yaml": (),
}


def default(name: str) -> bytes:
    """Return a file of the configuration as a host gets it."""
    text = (SOURCE / "etc" / name).read_text(encoding="utf-8")
    for pattern, replacement in _PRODUCTION[name]:
        text, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        if count != 1:
            raise InstallError(f"etc/{name} has {count} lines like {pattern}, not one.")
    return text.encode()


def install(folder: Path) -> list[str]:
    """Put every file of the configuration there, or its new default beside it; return what there is to say of it."""
    defaults = folder / ".defaults"
    known = dict(line.split()[::-1] for line in defaults.read_text().splitlines()) if defaults.exists() else {}
    said = [_install(folder / name, default(name), known) for name in _PRODUCTION]
    put(defaults, "".join(f"{digest}  {name}\n" for name, digest in sorted(known.items())).encode())
    return [sentence for sentence in said if sentence]


def _install(path: Path, content: bytes, known: dict[str, str]) -> str:
    before, known[path.name] = known.get(path.name), _digest(content)
    beside = path.with_name(f"{path.name}.new")
    there = _digest(path.read_bytes()) if path.exists() else None
    if there in (None, before, known[path.name]) and not path.is_symlink():
        put(path, content, like=path.stat() if there else None)
        beside.unlink(missing_ok=True)
        return ""
    if before == known[path.name] or there == known[path.name]:
        return ""
    put(beside, content, like=path.stat())
    return f"{path} was edited and stays as it is; the new default is {beside}."


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()
