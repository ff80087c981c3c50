"""The units as files: systemd takes them, they are hardened, and both ways to run the API are the same."""

from __future__ import annotations

import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

UNITS = Path(__file__).resolve().parents[2] / "systemd"
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))
ALL = sorted(path.name for kind in ("service", "socket", "target") for path in UNITS.glob(f"*.{kind}"))
# What the units call.
PROGRAMS = (
    *("/usr/local/bin/hartonomous", "/usr/bin/llama-server", "/usr/bin/qdrant"),
    *("/bin/sh", "/bin/sleep", "/usr/bin/env"),
)
MOST_EXPOSED = 2.0

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def settings(name: str) -> dict[str, list[str]]:
    """Return a unit's settings in their order, those of all sections in one."""
    found = defaultdict(list)
    for line in (UNITS / name).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found[key].append(value)
    return found


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a host on which everything is installed."""
    root = tmp_path_factory.mktemp("host")
    for program in PROGRAMS:
        path = root / program.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    units = root / "etc/systemd/system"
    units.mkdir(parents=True)
    for name in ALL:
        shutil.copy(UNITS / name, units)
    return root


@needs_systemd
@pytest.mark.parametrize("name", ALL)
def test_systemd_has_nothing_to_say_against_a_unit(host: Path, name: str) -> None:
    instance = name.replace("@.", "@8701.")
    done = _analyze("verify", "--man=no", f"--root={host}", "--recursive-errors=no", instance)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
def test_systemd_would_have_something_to_say(host: Path) -> None:
    unit = host / "etc/systemd/system/wrong.service"
    unit.write_text("[Service]\nExecStart=/usr/bin/nothing\nProtectSystm=strict\n")
    done = _analyze("verify", "--man=no", f"--root={host}", "--recursive-errors=no", unit.name)
    assert "ProtectSystm" in done.stderr
    assert done.returncode != 0


@needs_systemd
@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_exposed_to_little(name: str) -> None:
    done = _analyze("security", "--offline=yes", f"--threshold={MOST_EXPOSED * 10:.0f}", str(UNITS / name))
    assert done.returncode == 0, done.stdout


def test_an_instance_differs_from_the_only_process_in_little() -> None:
    one, many = settings("hartonomous.service"), settings("hartonomous@.service")
    assert {key for key in one | many if one[key] != many[key]} == {
        *("Description", "Requires", "After", "PartOf"),  # its own socket
        *("Environment", "RuntimeDirectoryPreserve", "WantedBy", "Also"),
    }


@pytest.mark.parametrize("kind", ["generative", "embedding", "reranking"])
def test_a_model_service_is_where_the_configuration_looks_for_it(kind: str) -> None:
    config = yaml.safe_load((UNITS.parent / "etc/hartonomous.yaml").read_text())
    assert config["backends"][kind]["urls"] == [f"http://127.0.0.1:{settings(f'llama/{kind}.env')['PORT'][0]}"]


def _analyze(*words: str) -> subprocess.CompletedProcess[str]:
    command = ("systemd-analyze", "--no-pager", *words)
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
