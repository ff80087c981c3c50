"""The audit trail: its chain over files, restarts and full disks, and what `hartonomous audit verify` finds in it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hartonomous.__main__ import main
from hartonomous.audit import Trail
from hartonomous.auditfiles import RETRY_S
from hartonomous.core.chain import digest
from hartonomous.errors import ConfigError
from hartonomous.metrics import Metrics
from hartonomous.security import Audit

TrailMaker = Callable[..., Trail]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the trail is."""
    return tmp_path / "audit"


@pytest.fixture
def opened(folder: Path) -> Iterator[TrailMaker]:
    """Opens trails in the folder, each with a chain of its own while it is open."""
    trails = []

    def make(max_file_bytes: int = 1_000_000, metrics: Metrics | None = None) -> Trail:
        settings = Audit(directory=folder, max_file_bytes=max(4_096, max_file_bytes))
        trail = Trail(settings, metrics or Metrics(), 100)
        trail.open()
        trails.append(trail)
        return trail

    yield make
    for trail in trails:
        trail.close()


def _written(trail: Trail, count: int, first: int = 1) -> None:
    for number in range(first, first + count):
        trail.write("ingest", key="team-a", outcome="ok", request_id=f"r{number}", filler="x" * 100)


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[:-1]


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _lines(path)]


def _put(path: Path, lines: list[bytes]) -> None:
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def test_each_line_carries_the_hash_of_the_one_before(opened: TrailMaker, folder: Path) -> None:
    _written(opened(), 3)
    lines = _lines(folder / "audit-0.jsonl")
    records = _records(folder / "audit-0.jsonl")
    assert [record["seq"] for record in records] == [1, 2, 3]
    assert [record["prev"] for record in records] == ["0" * 64, digest(lines[0]), digest(lines[1])]
    assert records[0]["time"].endswith("Z")
    assert (records[0]["event"], records[0]["key"], records[0]["request_id"]) == ("ingest", "team-a", "r1")


def test_files_are_the_owners_alone(opened: TrailMaker, folder: Path) -> None:
    _written(opened(), 1)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_a_trail_as_it_was_written_is_sound(
    opened: TrailMaker, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trail = opened()
    _written(trail, 3)
    assert main(["audit", "verify", str(folder)]) == 0  # while it is written
    trail.close()
    assert main(["audit", "verify", str(folder)]) == 0
    assert f"ok, 3 lines, {_records(folder / 'audit-0.jsonl')[0]['time']} to" in capsys.readouterr().out
    assert main(["audit", "verify", str(folder / "audit-0.jsonl")]) == 0


def _within_itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value", ["\ud800", 2**70, 2**99_999, b"\xff", {"a": [1.5, None]}, _within_itself()], ids=range(6)
)
def test_what_json_can_hardly_say_is_written_all_the_same(opened: TrailMaker, folder: Path, value: Any) -> None:
    opened().write("delete", document=value)
    assert main(["audit", "verify", str(folder)]) == 0


def test_control_characters_stay_within_their_line(opened: TrailMaker, folder: Path) -> None:
    opened().write("delete", document="a\r\n{}\x1b[31m\x85\u2028\u202e")
    (line,) = _lines(folder / "audit-0.jsonl")
    assert line.decode().isprintable()
    assert json.loads(line)["document"] == "a\r\n{}\x1b[31m\x85\u2028\u202e"
    assert main(["audit", "verify", str(folder)]) == 0


def _change(lines: list[bytes], at: int) -> None:
    lines[at] = lines[at].replace(b"team-a", b"team-b")


def _forge(lines: list[bytes], at: int) -> None:
    """Change a line and make its own hash right again."""
    body = lines[at].partition(b',"hash":')[0].replace(b"team-a", b"team-b")
    lines[at] = body + b',"hash":"' + digest(body).encode() + b'"}'


def _remove(lines: list[bytes], at: int) -> None:
    del lines[at]


def _double(lines: list[bytes], at: int) -> None:
    lines.insert(at, lines[at])


def _swap(lines: list[bytes], at: int) -> None:
    lines[at - 1], lines[at] = lines[at], lines[at - 1]


def _insert(lines: list[bytes], at: int) -> None:
    lines.insert(at, b'{"event":"ingest"}')


@pytest.mark.parametrize("at", [0, 3, 9])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_change, "changed"),
        (_forge, "changed"),
        (_remove, "missing"),
        (_double, "doubled"),
        (_swap, "missing"),
        (_insert, "changed"),
    ],
)
def test_verify_finds_what_was_done_to_a_line(
    opened: TrailMaker,
    folder: Path,
    damage: Callable[[list[bytes], int], None],
    said: str,
    at: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trail = opened()
    _written(trail, 10)
    trail.close()
    path = folder / "audit-0.jsonl"
    lines = _lines(path)
    damage(lines, at)
    _put(path, lines)
    assert main(["audit", "verify", str(folder)]) == 1
    out = capsys.readouterr().out
    assert said in out
    assert f"{path}:" in out
    assert "NOT OK" in out


def test_verify_says_where(opened: TrailMaker, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trail = opened()
    _written(trail, 10)
    trail.close()
    path = folder / "audit-0.jsonl"
    lines = _lines(path)
    _change(lines, 3)
    del lines[6:8]
    _put(path, lines)
    main(["audit", "verify", str(folder)])
    assert capsys.readouterr().out.splitlines()[:2] == [
        f"{path}:4: changed: its hash is another",
        f"{path}:7: missing: lines 7 to 8 of the chain before it",
    ]


def test_a_tail_that_was_cut_off_is_found(opened: TrailMaker, folder: Path) -> None:
    trail = opened()
    _written(trail, 5)
    trail.close()
    path = folder / "audit-0.jsonl"
    _put(path, _lines(path)[:-1])
    assert main(["audit", "verify", str(folder)]) == 1
    trail = opened()  # which goes on after what is missing, so that it stays found
    _written(trail, 1)
    trail.close()
    assert [record["seq"] for record in _records(path)] == [1, 2, 3, 4, 6]
    assert main(["audit", "verify", str(folder)]) == 1
    path.unlink()
    assert main(["audit", "verify", str(folder)]) == 1


def _empty(head: Path) -> None:
    head.write_bytes(b"")


def _garble(head: Path) -> None:
    head.write_bytes(b"x" * 300)


@pytest.mark.parametrize("harm", [_empty, _garble, Path.unlink])
@pytest.mark.parametrize("left", [2, 0])
def test_a_head_that_was_taken_away_is_found_and_stays_found_after_a_restart(
    opened: TrailMaker, folder: Path, capsys: pytest.CaptureFixture[str], harm: Callable[[Path], None], left: int
) -> None:
    with closing(opened()) as trail:
        _written(trail, 5)
    path, head = folder / "audit-0.jsonl", folder / "audit-0.head"
    _put(path, _lines(path)[:left])
    harm(head)
    assert main(["audit", "verify", str(folder)]) == 1
    assert main(["audit", "verify", str(path)]) == 1
    assert "missing: its head" in capsys.readouterr().out
    for _ in range(2):
        with closing(opened()) as trail:
            trail.sync()
            assert main(["audit", "verify", str(folder)]) == 1
            _written(trail, 1)
        assert main(["audit", "verify", str(folder)]) == 1
    assert "missing: the head, when the chain was gone on with" in capsys.readouterr().out
    told = _records(path)[left]
    assert (told["event"], told["head"]) == ("recovered", "missing")


def test_a_head_is_not_made_anew_before_the_chain_tells_of_it(
    opened: TrailMaker, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(opened()) as trail:
        _written(trail, 5)
    (folder / "audit-0.head").unlink()
    with monkeypatch.context() as patch, closing(opened_with(opened, patch, [])) as trail:
        trail.sync()
    assert main(["audit", "verify", str(folder)]) == 1


def test_numbered_files_alone_are_no_whole_chain(opened: TrailMaker, folder: Path) -> None:
    with closing(opened(4_096)) as trail:
        _written(trail, 60)
    for name in ("audit-0.jsonl", "audit-0.head"):
        (folder / name).unlink()
    assert main(["audit", "verify", str(folder)]) == 1
    assert main(["audit", "verify", *map(str, folder.glob("*.jsonl"))]) == 0


def test_a_chain_of_which_nothing_but_its_first_lines_reached_the_disk_is_sound(
    opened: TrailMaker, folder: Path, tmp_path: Path
) -> None:
    """As a crash leaves it before the first sync: the head was there before the file."""
    _written(opened(), 2)
    shutil.copytree(folder, tmp_path / "crashed")
    assert main(["audit", "verify", str(tmp_path / "crashed")]) == 0
    (tmp_path / "crashed" / "audit-0.jsonl").unlink()
    assert main(["audit", "verify", str(tmp_path / "crashed")]) == 0


@pytest.mark.parametrize("count", [1, 2])
def test_a_whole_line_of_somebody_else_at_the_end_is_no_tear(
    opened: TrailMaker, folder: Path, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    with closing(opened()) as trail:
        _written(trail, 3)
    with (folder / "audit-0.jsonl").open("ab") as file:
        file.write(b"garbage\n" * count)
    assert main(["audit", "verify", str(folder)]) == 1
    for _ in range(2):
        with closing(opened()) as trail:
            _written(trail, 1)
        capsys.readouterr()
        assert main(["audit", "verify", str(folder)]) == 1
        findings = capsys.readouterr().out.splitlines()[:-1]
        assert [line.partition(".jsonl:")[2] for line in findings] == [
            f"{4 + at}: changed: its hash is another" for at in range(count)
        ]
    assert _records_after(folder / "audit-0.jsonl", 3 + count)[0]["changed"] is True


def _records_after(path: Path, count: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _lines(path)[count:]]


def test_a_last_line_that_was_forged_is_found_after_a_restart_as_well(opened: TrailMaker, folder: Path) -> None:
    trail = opened()
    _written(trail, 5)
    trail.close()
    path = folder / "audit-0.jsonl"
    lines = _lines(path)
    _forge(lines, 4)
    _put(path, lines)
    assert main(["audit", "verify", str(folder)]) == 1
    for _ in range(2):
        trail = opened()
        _written(trail, 1)
        trail.close()
        assert main(["audit", "verify", str(folder)]) == 1


def test_rotation_and_restarts_keep_the_chain(opened: TrailMaker, folder: Path) -> None:
    for start in range(1, 61, 20):
        trail = opened(4_096)
        _written(trail, 20, start)
        trail.close()
    files = sorted(folder.glob("audit-0.*.jsonl"))
    assert len(files) >= 4
    assert all(path.stat().st_size <= 4_096 for path in folder.glob("*.jsonl"))
    records = [record for path in [*files, folder / "audit-0.jsonl"] for record in _records(path)]
    assert [record["request_id"] for record in records] == [f"r{number}" for number in range(1, 61)]
    assert [int(path.name.split(".")[1]) for path in files] == [_records(path)[0]["seq"] for path in files]
    assert main(["audit", "verify", str(folder)]) == 0
    assert main(["audit", "verify", *map(str, folder.glob("audit-0*.jsonl"))]) == 0


def test_a_chain_that_begins_late_is_told_unless_it_is_said_to(opened: TrailMaker, folder: Path) -> None:
    trail = opened(4_096)
    _written(trail, 60)
    trail.close()
    first, second, *_ = sorted(folder.glob("audit-0.*.jsonl"))
    assert main(["audit", "verify", str(second)]) == 1
    assert main(["audit", "verify", str(second), "--partial"]) == 0
    first.unlink()
    assert main(["audit", "verify", str(folder)]) == 1
    assert main(["audit", "verify", str(folder), "--partial"]) == 0
    second.unlink()
    third = min(folder.glob("audit-0.*.jsonl"))
    _put(third, _lines(third)[:-1])
    assert main(["audit", "verify", str(folder), "--partial"]) == 1


def test_each_process_has_its_own_chain(opened: TrailMaker, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = opened(), opened()
    _written(one, 2)
    _written(two, 3)
    assert main(["audit", "verify", str(folder)]) == 0
    assert [line.partition(": ")[2][:11] for line in capsys.readouterr().out.splitlines()] == [
        "ok, 2 lines",
        "ok, 3 lines",
    ]
    one.close()
    three = opened()  # takes the one that was given back, and goes on
    _written(three, 1, 3)
    assert [record["request_id"] for record in _records(folder / "audit-0.jsonl")] == ["r1", "r2", "r3"]


def test_what_a_crash_tore_is_told_and_the_chain_goes_on(
    opened: TrailMaker, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trail = opened()
    _written(trail, 3)
    trail.close()
    path = folder / "audit-0.jsonl"
    with path.open("ab") as file:
        file.write(b'{"time":"2026-01-01T00:')
    assert main(["audit", "verify", str(folder)]) == 0
    assert "4: torn" in capsys.readouterr().out
    trail = opened()
    _written(trail, 2, 4)
    trail.close()
    assert main(["audit", "verify", str(folder)]) == 0
    assert "4: torn" in capsys.readouterr().out
    assert json.loads(_lines(path)[4])["event"] == "recovered"
    lines = _lines(path)
    lines[3] += b"more"
    _put(path, lines)
    assert main(["audit", "verify", str(folder)]) == 1


@pytest.mark.parametrize("crashes", [2, 3])
def test_what_was_torn_again_and_again_is_told(
    opened: TrailMaker, folder: Path, monkeypatch: pytest.MonkeyPatch, crashes: int
) -> None:
    """Each start finds what the last one tore, and tears the line that tells of it."""
    with closing(opened()) as trail:
        _written(trail, 3)
    path = folder / "audit-0.jsonl"
    with path.open("ab") as file:
        file.write(b'{"time":"2026-01-01T00:')
    for crash in range(crashes - 1):
        with monkeypatch.context() as patch, closing(opened_with(opened, patch, [21 + crash])):
            assert main(["audit", "verify", str(folder)]) == 0
    assert main(["audit", "verify", str(folder)]) == 0
    with closing(opened()) as trail:
        _written(trail, 2, 4)
    assert main(["audit", "verify", str(folder)]) == 0
    lines = _lines(path)
    assert [json.loads(line)["seq"] for line in (lines[2], *lines[-3:])] == [3, 4, 5, 6]
    assert len(lines) == 6 + crashes
    for changed in ([*lines[:4], *lines[5:]], [*lines[:4], lines[4] + b"x", *lines[5:]], [*lines[:2], *lines[3:]]):
        _put(path, changed)
        assert main(["audit", "verify", str(folder)]) == 1


def opened_with(opened: TrailMaker, patch: pytest.MonkeyPatch, rooms: list[int]) -> Trail:
    """Open a trail on a disk that takes so many bytes of each next write, and then nothing."""
    patch.setattr(os, "write", _scarce(rooms))
    return opened()


def _scarce(rooms: list[int]) -> Callable[[int, bytes], int]:
    """Return a `write` that takes so many bytes at most of each next call; 0, and what comes after: none."""
    left, write = iter(rooms), os.write

    def scarce(descriptor: int, data: bytes) -> int:
        room = next(left, 0)
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:room])

    return scarce


@pytest.mark.parametrize(
    "rooms",
    [
        [50, 1, 60],
        [50, 0, 1, 0, 1],
        [50, 1, 70, 0, 0, 1, 30, 1, 20],
        [9_999, 9_999, 10, 1, 9_999, 10, 1, 0, 5],
        [200, 0, 1, 9_999, 7, 1, 7],
    ],
    ids=range(5),
)
@pytest.mark.parametrize("restarts", [False, True])
def test_a_disk_that_is_full_time_and_again_leaves_a_sound_trail(
    opened: TrailMaker, folder: Path, monkeypatch: pytest.MonkeyPatch, rooms: list[int], restarts: bool
) -> None:
    metrics = Metrics()
    trail = opened(metrics=metrics)
    _written(trail, 2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", _scarce(rooms))
        for number in range(8):
            _written(trail, 1, 3 + number)
            trail.sync()
            assert main(["audit", "verify", str(folder)]) == 0
    if restarts:
        trail.close()
        trail = opened(metrics=metrics)
    _written(trail, 2, 11)
    trail.close()
    assert main(["audit", "verify", str(folder)]) == 0
    if not restarts:
        lost = metrics.registry.get_sample_value("hartonomous_audit_lines_lost_total")
        whole = [json.loads(line) for line in _lines(folder / "audit-0.jsonl") if line.endswith(b'"}')]
        assert sum(record["lost"] for record in whole if record["event"] == "recovered") == lost


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_file_that_cannot_be_renamed_goes_on_and_is_tried_again(
    opened: TrailMaker, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trail = opened(4_096)
    _written(trail, 5)
    rename, descriptors = Path.rename, _descriptors()

    def refused(path: Path, target: Path) -> Path:
        if path.suffix == ".next":
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refused)
        _written(trail, 40, 6)
    assert _descriptors() == descriptors
    assert len(_records(folder / "audit-0.jsonl")) == 45
    assert main(["audit", "verify", str(folder)]) == 0
    _written(trail, 1, 46)  # not tried with every line
    assert len(_records(folder / "audit-0.jsonl")) == 46
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + RETRY_S)
    _written(trail, 30, 47)
    trail.close()
    assert len(list(folder.glob("audit-0.*.jsonl"))) > 1
    assert main(["audit", "verify", str(folder)]) == 0


def test_a_line_without_its_end_is_closed(opened: TrailMaker, folder: Path) -> None:
    trail = opened()
    _written(trail, 2)
    trail.close()
    path = folder / "audit-0.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    trail = opened()
    _written(trail, 1, 3)
    assert [record["request_id"] for record in _records(path)] == ["r1", "r2", "r3"]
    assert main(["audit", "verify", str(folder)]) == 0


@pytest.mark.parametrize("room", range(0, 800, 37))
def test_a_full_disk_stops_nobody_and_what_was_lost_is_told(
    opened: TrailMaker, folder: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """The disk takes so many bytes more, then nothing, then everything again."""
    metrics = Metrics()
    trail = opened(metrics=metrics)
    _written(trail, 2)
    write, left = os.write, room

    def full(descriptor: int, data: bytes) -> int:
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = write(descriptor, data[:left])
        left -= taken
        return taken

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        _written(trail, 5, 3)
        trail.sync()  # the disk is as the last line left it
        assert main(["audit", "verify", str(folder)]) == 0
    _written(trail, 2, 8)
    trail.close()
    records = [json.loads(line) for line in _lines(folder / "audit-0.jsonl") if line.endswith(b'"}')]
    written = [record["request_id"] for record in records if record["event"] == "ingest"]
    lost = sum(record["lost"] for record in records if record["event"] == "recovered")
    assert len(written) + lost == 9
    assert written[:2] + written[-2:] == ["r1", "r2", "r8", "r9"]
    assert metrics.registry.get_sample_value("hartonomous_audit_lines_lost_total") == lost >= 1
    assert metrics.registry.get_sample_value("hartonomous_audit_lines_total") == len(written)
    assert len(trail.kept) == 9
    assert main(["audit", "verify", str(folder)]) == 0


def test_a_head_never_knows_more_than_the_disk(opened: TrailMaker, folder: Path) -> None:
    """A copy of the folder at any moment is a sound trail, as a power cut leaves it."""
    trail = opened()
    for number in range(20):
        _written(trail, 1, number)
        copy = folder.parent / f"copy-{number}"
        shutil.copytree(folder, copy)
        assert main(["audit", "verify", str(copy)]) == 0


def test_a_folder_that_cannot_be_written_refuses_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    trail = Trail(Audit(directory=tmp_path / "file" / "audit"), Metrics(), 10)
    with pytest.raises(ConfigError, match=r"audit\.directory"):
        trail.open()


def test_without_a_folder_the_newest_are_kept_in_memory() -> None:
    trail = Trail(Audit(), Metrics(), 2)
    trail.open()
    _written(trail, 3)
    records, _ = trail.kept.all()
    assert [json.loads(record.line)["seq"] for record in records] == [2, 3]
    trail.close()


def test_where_there_is_no_trail_verify_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "verify", str(tmp_path)]) == 2
    assert main(["audit", "verify", str(tmp_path / "absent.jsonl")]) == 2
    assert "absent.jsonl: No such file" in capsys.readouterr().err
