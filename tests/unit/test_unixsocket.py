"""The file of a unix socket: what was left there, who may open it, and that only one's own is removed."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from hartonomous.unixsocket import UnixSocket


def test_a_file_that_was_left_is_replaced_and_ones_own_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    made = UnixSocket(path, 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    made.socket.close()
    made.remove()
    assert not path.exists()
    made.remove()


def test_the_file_of_a_successor_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    first = UnixSocket(path, 1)
    first.socket.close()
    path.rename(tmp_path / "kept")  # so that its number is not given to the next one
    second = UnixSocket(path, 1)
    first.remove()
    assert path.exists()
    second.socket.close()


@pytest.mark.parametrize("waiting", [0, 3])
def test_a_socket_on_which_somebody_listens_is_not_taken(tmp_path: Path, waiting: int) -> None:
    """Also when as many wait as may."""
    path = tmp_path / "a.sock"
    first = UnixSocket(path, 1)
    clients = [socket.socket(socket.AF_UNIX) for _ in range(waiting)]
    for client in clients:
        client.setblocking(False)
        client.connect_ex(str(path))
    with pytest.raises(OSError, match="in use"):
        UnixSocket(path, 1)
    for each in (first.socket, *clients):
        each.close()


def test_a_file_that_is_no_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    path.write_text("precious")
    with pytest.raises(OSError, match="exists"):
        UnixSocket(path, 1)
    assert path.read_text() == "precious"
