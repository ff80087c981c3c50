"""What the tests on a systemd of its own share: `make systemd` says where its tree is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd import tree
from tests.systemd.host import BACKENDS, Host
from tests.systemd.machine import Machine


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A machine with everything installed and the backends running; this process is in its network."""
    folder = os.environ.get("HARTONOMOUS_TEST_MACHINE")
    if folder is None:
        pytest.skip("needs root and a systemd of its own: make systemd")
    machine = Machine(tree.make(Path(folder)), tmp_path_factory.mktemp("machine") / "console.log")
    try:
        with machine.network():
            host = Host(machine)
            machine.systemctl("enable", *BACKENDS)
            machine.systemctl("start", "hartonomous-backends.target")
            yield host
    finally:
        machine.stop()


@pytest.fixture
def api(host: Host) -> Host:
    """The machine with the API as one process, ready, with the configuration as it is set up at first."""
    host.configure()
    host.start("hartonomous.service")
    return host
