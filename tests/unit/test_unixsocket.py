"""The file of a unix socket: what was left there, who may open it, and that only one's own is removed."""

from __future__ import annotations

import errno
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hartonomous.unixsocket import UnixSocket


def test_a_file_that_was_left_is_replaced_and_ones_own_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    made = UnixSocket(path, 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    made.remove()
    assert not path.exists()
    made.socket.close()


def test_the_file_of_a_successor_is_left_also_where_it_has_the_number_of_the_old_one(tmp_path: Path) -> None:
    """File systems give a number to the next file as soon as nobody has the old one open."""
    path = tmp_path / "a.sock"
    first = UnixSocket(path, 1)
    first.remove()
    second = UnixSocket(path, 1)  # while the first one still listens
    first.remove()
    assert path.exists()
    first.socket.close()
    first.remove()
    assert path.exists()
    second.remove()
    second.socket.close()
    for _ in range(8):
        first = UnixSocket(path, 1)
        path.unlink()
        first.socket.close()
        third = UnixSocket(path, 1)
        first.remove()
        assert path.exists()
        third.socket.close()


def test_of_several_that_start_over_a_stale_file_one_has_it(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
        with ThreadPoolExecutor(8) as pool:
            made = [one for one in pool.map(_made, [path] * 8) if one is not None]
        assert len(made) == 1
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            assert client.connect_ex(str(path)) in {0, errno.EAGAIN}  # those who were refused have filled the queue
        made[0].socket.close()
        path.unlink()


def _made(path: Path) -> UnixSocket | None:
    try:
        return UnixSocket(path, 1)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return None


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
