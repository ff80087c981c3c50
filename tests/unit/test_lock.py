"""The locks hold what setup.cfg asks for, within its bounds: each package with hashes, from nowhere in particular."""

from __future__ import annotations

import re
from collections.abc import Callable
from configparser import ConfigParser
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements", "server", "otlp")
_PIN = re.compile(
    r"^([A-Za-z0-9._-]+)==([^ ]+)((?: ;[^\\]*)?) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)


def wanted(extras: Callable[[str], bool] = lambda _: False) -> list[Requirement]:
    """Return what setup.cfg asks for, with those extras."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    texts = [setup["options"]["install_requires"]]
    texts += [text for name, text in setup["options.extras_require"].items() if extras(name)]
    lines = (line.strip() for text in texts for line in text.splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def locked(name: str) -> dict[str, set[str]]:
    """Return the versions of each package; there are several where Pythons need different ones."""
    found: dict[str, set[str]] = {}
    for pin in _PIN.finditer(text_of(name)):
        found.setdefault(canonicalize_name(pin[1]), set()).add(pin[2])
    return found


def text_of(name: str) -> str:
    return (ROOT / "etc" / f"{name}.lock").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_satisfies_every_requirement(name: str) -> None:
    found = locked(name)
    for requirement in wanted(lambda extra: name == "requirements" or extra in ("uvloop", name)):
        versions = found.get(canonicalize_name(requirement.name), set())
        assert versions, f"{requirement} is not in {name}.lock: make lock"
        assert all(requirement.specifier.contains(version) for version in versions), f"{requirement}: make lock"


def test_aiohttp_is_bound_to_the_minor_whose_insides_are_used() -> None:
    (found,) = (each for each in wanted() if each.name == "aiohttp")
    major, minor, *_ = map(int, version("aiohttp").split("."))
    assert found.specifier.contains(f"{major}.{minor}.99")
    assert not found.specifier.contains(f"{major}.{minor + 1}.0")


@pytest.mark.parametrize("name", [*LOCKS, "build"])
def test_every_line_belongs_to_a_package_with_hashes_and_none_names_where_it_came_from(name: str) -> None:
    rest = _PIN.sub("", text_of(name))
    assert all(line.startswith("#") for line in rest.splitlines() if line), rest[:500]
    assert "://" not in text_of(name)


@pytest.mark.parametrize("name", ["server", "otlp"])
def test_the_server_is_locked_to_the_versions_that_are_tested(name: str) -> None:
    everything = locked("requirements")
    for package, versions in locked(name).items():
        assert versions <= everything[package]
