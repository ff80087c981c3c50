"""What is installed beside the environment, found by folders: configuration, units, scripts, examples, documents."""

from __future__ import annotations

import re
from pathlib import Path

from environment import SOURCE
from places import InstallError, Places

_DOCUMENTS = ("README.rst", "CHANGES.rst", "SECURITY.rst", "LICENSE")
_EXAMPLES = ("curl", "grafana", "prometheus", "haproxy", "nginx")
_UNITS = {".service", ".socket", ".target", ".timer", ".path", ".slice", ".conf"}
# What stands in the units of the sources, which are checked as they are.
_PREFIX, _CONFIGURATION = b"/usr/local/", b"/etc/hartonomous"
# What a host's configuration says and the sources' leaves at its default, which is nowhere.
_PRODUCTION = (
    (r"^  # (admin: )127\.0\.0\.1:8701 .*$", r"  \1${HARTONOMOUS_ADMIN:-127.0.0.1:8701}  # /admin and /metrics"),
    (r"^  # (directory: /var/log/hartonomous/audit)  .*$", r"  \1"),
)


def configuration(places: Places) -> dict[str, bytes]:
    """Return the files of the configuration by their names, as a host gets them."""
    text = (SOURCE / "etc/hartonomous.yaml").read_text(encoding="utf-8")
    for pattern, replacement in _PRODUCTION:
        text, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        if count != 1:
            raise InstallError(f"etc/hartonomous.yaml has {count} lines like {pattern}, not one.")
    found = {"hartonomous.yaml": text.encode(), "prompt.yaml": (SOURCE / "etc/prompt.yaml").read_bytes()}
    for path in sorted((SOURCE / "systemd").glob("llama/*.env")):
        found[f"llama-{path.name}"] = _placed(places, path.read_bytes())
    return found


def files(places: Places) -> dict[Path, tuple[bytes, int]]:
    """Return every other file by its place, with its mode."""
    share = places.prefix / "share"
    found = {share / "doc/hartonomous" / name: SOURCE / name for name in _DOCUMENTS}
    for folder in _EXAMPLES:
        found |= _below(SOURCE / "etc" / folder, share / "hartonomous" / folder)
    everything = {path: (source.read_bytes(), _mode(source)) for path, source in found.items()}
    for path, source in _below(SOURCE / "systemd", Path()).items():
        if path.suffix in _UNITS:
            above = "lib" if path.parts[0] in ("sysusers.d", "tmpfiles.d") else "lib/systemd/system"
            everything[places.prefix / above / path] = (_placed(places, source.read_bytes()), 0o644)
    return everything


def _below(folder: Path, place: Path) -> dict[Path, Path]:
    """Return the files below a folder, by where they go: what an editor or Python leaves there does not."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {
        place / path: folder / path
        for path in paths
        if "__pycache__" not in path.parts and not path.name.startswith(".") and not path.name.endswith("~")
    }


def _mode(source: Path) -> int:
    return 0o755 if source.stat().st_mode & 0o100 else 0o644


def _placed(places: Places, content: bytes) -> bytes:
    """Return a file for systemd with this installation's paths."""
    content = content.replace(_PREFIX, f"{places.prefix}/".encode())
    return content.replace(_CONFIGURATION, str(places.configuration).encode())
