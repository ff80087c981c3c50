"""Waiting for a server, counting, showing, standard input: the small parts of `hartonomous ingest`."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.__main__ import main
from hartonomous.sending import watch
from hartonomous.sending.content import LINE_BYTES
from hartonomous.sending.faults import (
    DocumentError,
    GaveUpError,
    Patience,
    RefusedError,
    SendingError,
    UnavailableError,
    error_of,
    fatal_error,
)
from hartonomous.sending.progress import Bar, Lines, Rate, Silent, described, showing
from hartonomous.sending.stdin import StdinFeed, _Cutter
from hartonomous.sending.tally import Failure, Tally
from hartonomous.sending.walk import make_roots
from hartonomous.sending.watch import Changes, watching
from tests.service.application import eventually


def body(message: str, **fields: Any) -> bytes:
    import orjson

    return orjson.dumps({"error": {"message": message, **fields}})


MEANINGS: list[tuple[int, bytes, type[SendingError]]] = [
    (503, body("Down."), UnavailableError),
    (504, b"<html>", UnavailableError),
    (429, b"", UnavailableError),
    (408, b"", UnavailableError),
    (500, b"[]", UnavailableError),
    (507, body("Full."), UnavailableError),
    (401, body("No key."), RefusedError),
    (403, body("Not yours."), RefusedError),
    (404, b"Not found", RefusedError),
    (409, body("Another model."), RefusedError),
    (301, b"", RefusedError),
    (422, body("max_tokens must be…", param="max_tokens"), RefusedError),
    (422, body("collection…", param="collection"), RefusedError),
    (422, body("The PDF is encrypted.", param="files.0"), DocumentError),
    (413, body("Too large."), DocumentError),
    (415, body("What?"), DocumentError),
]


@pytest.mark.parametrize(("status", "answer", "kind"), MEANINGS)
def test_an_answer_is_worth_another_try_or_final(status: int, answer: bytes, kind: type[SendingError]) -> None:
    error = error_of(status, {}, answer)
    assert type(error) is kind
    assert str(error)


def test_retry_after_is_honoured() -> None:
    error = error_of(503, {"Retry-After": "7"}, body("Down."))
    assert isinstance(error, UnavailableError)
    assert (str(error), error.retry_after) == ("Down.", 7.0)


def test_the_last_line_of_a_stream_is_final_or_not() -> None:
    assert isinstance(fatal_error({"type": "conflict_error", "message": "x"}), RefusedError)
    assert isinstance(fatal_error({"type": "backend_unavailable", "message": "x"}), UnavailableError)
    assert isinstance(fatal_error({"type": "backend_error", "code": "insufficient_storage"}), UnavailableError)


class Waits:
    """A clock that sleeping moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.slept: list[float] = []
        monkeypatch.setattr(asyncio, "sleep", self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def clock(self) -> float:
        return self.now


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    return Waits(monkeypatch)


async def test_waits_grow_and_end_after_the_limit(waits: Waits) -> None:
    said: list[str] = []
    patience = Patience(120.0, said.append, waits.clock)

    async def outage() -> None:
        while True:
            await patience.wait(UnavailableError("Down."))

    with pytest.raises(GaveUpError, match=r"Down\. Given up after 120 s without progress\."):
        await outage()
    assert sum(waits.slept) == pytest.approx(120.0)
    assert 0.25 <= waits.slept[0] <= 1.0
    assert max(waits.slept) > 7.0
    assert max(waits.slept) <= 30.0
    assert said == ["Down. Trying again for up to 120 s."]


async def test_progress_makes_patience_new(waits: Waits) -> None:
    said: list[str] = []
    patience = Patience(10.0, said.append, waits.clock)
    for _ in range(50):
        await patience.wait(UnavailableError("Down."))
        patience.progressed()
    assert max(waits.slept) <= 1.0
    assert len(said) == 50


async def test_the_servers_own_wait_wins(waits: Waits) -> None:
    patience = Patience(300.0, lambda _: None, waits.clock)
    await patience.wait(UnavailableError("Busy.", retry_after=20.0))
    assert 20.0 <= waits.slept[0] <= 21.0


def test_a_rate_is_that_of_the_last_ten_seconds() -> None:
    now = 0.0
    rate = Rate(lambda: now)
    counts = [(1.0, 100), (2.0, 200), (5.0, 200), (20.0, 200), (30.0, 1_200)]
    seen = []
    for moment, count in counts:
        now = moment
        seen.append(rate.of(count))
    assert seen == [100.0, 100.0, 40.0, 0.0, 100.0]


def tally() -> Tally:
    made = Tally(total=1_234)
    for _ in range(10):
        made.store("created", 3)
    made.store("unchanged", 5)
    made.fail("a\x1b.md", "The document has no text.")
    made.tokens = 500
    return made


def test_progress_tells_documents_chunks_tokens_and_failures() -> None:
    assert described(tally(), 1_234.4, 3.0) == "12/1,234 documents, 30 chunks, 1,234 tokens/s, 1 failed"
    without = tally()
    without.tokens, without.total = 0, None
    assert described(without, 0.0, 3.2) == "12 documents, 30 chunks, 3 chunks/s, 1 failed"


def test_the_summary_tells_all() -> None:
    made = tally()
    made.deleted = 2
    summary = made.summary()
    assert summary.startswith("10 created, 0 updated, 1 unchanged, 1 failed, 2 deleted, 1222 not sent in ")
    assert summary.endswith(" s (30 chunks, 500 tokens)")
    assert str(made.failures[0]) == "a\\x1b.md: The document has no text."
    assert str(Failure("b", "c\n")) == "b: c\\n"


async def test_elsewhere_than_on_a_terminal_a_line_comes_now_and_then() -> None:
    out = io.StringIO()
    made = Tally(total=2)
    async with showing(Lines(out, every_s=0.01), made):
        await asyncio.sleep(0.05)
        assert out.getvalue() == ""
        made.store("created", 1)
        await eventually(out.getvalue)
    assert out.getvalue().splitlines()[0].startswith("1/2 documents, 1 chunks, ")


async def test_a_bar_takes_any_name_and_leaves_nothing_behind() -> None:
    out = io.StringIO()
    bar = Bar(out)
    async with showing(bar, tally()):
        bar.say("created [bold]:smile:[/] \x1b[2J.md")
        await asyncio.sleep(0)
    assert out.getvalue() == "created [bold]:smile:[/] \\x1b[2J.md\n\n"
    async with showing(bar, Tally(total=None)):
        pass


def test_quiet_says_nothing() -> None:
    Silent(None).say("x")


@given(st.lists(st.binary(max_size=12).map(lambda data: data.replace(b"\n", b"")), max_size=8), st.integers(1, 7))
def test_lines_are_cut_whatever_the_pieces(lines: list[bytes], size: int) -> None:
    data, cutter = b"\n".join(lines), _Cutter()
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    found = [item for piece in pieces for item in cutter.cut(piece)] + list(cutter.end())
    expected = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    assert [(item.number, item.data) for item in found] == expected


def test_a_line_without_an_end_takes_no_memory() -> None:
    cutter = _Cutter()
    for _ in range(40):
        assert list(cutter.cut(b"x" * 262_144)) == []
    assert len(cutter._rest) <= LINE_BYTES
    (item,) = cutter.cut(b"\n")
    assert item.data is None
    assert [found.data for found in cutter.cut(b"short\n")] == [b"short"]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    os.close(ends[0])


async def test_standard_input_is_read_as_it_comes(pipe: tuple[int, int]) -> None:
    feed = StdinFeed(Tally(), pipe[0])
    os.write(pipe[1], b'{"text": "one"}\n\n{"text"')
    assert (await feed.get()).number == 1
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await feed.get()
    os.write(pipe[1], b': "two"}')
    os.close(pipe[1])
    item = await feed.get()
    assert (item.shown, item.line()) == ("line 3", b'{"text": "two"}')
    for _ in range(2):
        with pytest.raises(StopAsyncIteration):
            await feed.get()
    assert feed.ended


async def test_standard_input_that_cannot_be_read_is_a_failure(tmp_path: Path) -> None:
    folder, counted = os.open(tmp_path, os.O_RDONLY), Tally()
    feed = StdinFeed(counted, folder)
    with pytest.raises(StopAsyncIteration):
        await feed.get()
    os.close(folder)
    assert str(counted.failures[0]) == "standard input: cannot be read: is a directory"


async def wakes(changes: Changes, seconds: float = 20.0) -> bool:
    """Whether something tells of a change before the time is over."""
    begun = asyncio.get_running_loop().time()
    await changes.wait(seconds)
    return asyncio.get_running_loop().time() - begun < seconds


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(watch, "_CHECK_S", 0.1)
    monkeypatch.setattr(watch, "_QUIET_MS", 50)
    (tmp_path / "d" / ".git").mkdir(parents=True)
    return tmp_path / "d"


async def test_a_change_wakes_and_one_of_version_control_does_not(watched: Path) -> None:
    async with watching(make_roots([str(watched)]), print) as changes:
        await asyncio.sleep(0.3)
        (watched / ".git" / "index").write_text("x")
        assert not await wakes(changes, 0.5)
        (watched / "a.md").write_text("x")
        assert await wakes(changes)
        assert not await wakes(changes, 0.3)


async def test_a_folder_that_is_made_anew_is_watched_again(watched: Path) -> None:
    async with watching(make_roots([str(watched)]), print) as changes:
        await asyncio.sleep(0.3)
        shutil.rmtree(watched)
        assert await wakes(changes)
        os.mkdir(watched)  # noqa: PTH102 - pathlib's is refused in a coroutine
        while await wakes(changes, 0.5):
            pass
        (watched / "a.md").write_text("x")
        assert await wakes(changes)


async def test_what_cannot_be_watched_is_said_and_looked_at_now_and_then(
    watched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object, **_options: object) -> None:
        raise OSError("OS file watch limit reached.")

    monkeypatch.setattr("watchfiles.main.RustNotify", full)
    said: list[str] = []
    async with watching(make_roots([str(watched)]), said.append) as changes:
        assert not await wakes(changes, 0.3)
    assert said == [f"{watched} cannot be watched (OS file watch limit reached.): it is looked at now and then."]


WRONG = [
    ([], "PATH"),
    (["-", "x"], "goes with no other PATH"),
    (["-", "--watch"], "--watch has no meaning for standard input"),
    (["-", "--metadata", "a=b"], "--metadata has no meaning"),
    (["x", "--dry-run", "--watch"], "do not go together"),
    (["x", "--dry-run", "--prune"], "needs --collection"),
    (["x", "--quiet", "--no-progress"], "not allowed with"),
    (["x", "--metadata", "novalue"], "is not KEY=VALUE"),
    (["x", "--metadata", "=value"], "is not KEY=VALUE"),
    (["x", "--url", "localhost:8700"], "is no address"),
    (["x", "--url", "http://user@host/"], "is no address"),
    (["x", "--url", "http://[::1"], "is no address"),
    (["x", "--url", "http://127.0.0.1:99999"], "is no address"),
    (["x", "--collection", "\udcff"], "is no UTF-8"),
    (["x", "--max-tokens", "-1"], "is no whole number"),
    (["x", "--give-up-after", "0"], "is no number of seconds"),
    (["x", "--give-up-after", "nan"], "is no number of seconds"),
    (["x", "--include", "[z-a]"], "is no pattern"),
    (["x", "--prefix", "../y"], "cannot stand at the beginning of an id"),
    (["x", "--key-file", "/nonexistent/key"], "cannot be read"),
    (["/"], "has no name"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG)
def test_wrong_usage_is_a_sentence_and_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HARTONOMOUS_API_KEY", raising=False)
    try:
        status = main(["ingest", *arguments])
    except SystemExit as end:  # argparse's own way
        status = int(end.code or 0)
    printed = capsys.readouterr()
    assert (status, printed.out) == (2, "")
    assert words in printed.err
    assert "Traceback" not in printed.err


def test_a_key_that_is_no_word_is_refused_and_not_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARTONOMOUS_API_KEY", "two words")
    assert main(["ingest", str(tmp_path)]) == 2
    printed = capsys.readouterr().err
    assert "the key in HARTONOMOUS_API_KEY is not one word" in printed
    assert "two words" not in printed


def test_help_imports_nothing_heavy() -> None:
    import subprocess

    program = (
        "import sys; from hartonomous.cli import ingest\n"
        "print([name for name in ('aiohttp', 'rich', 'watchfiles', 'asyncio') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
