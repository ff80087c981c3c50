"""The parser and its processes: warm, bounded, in line, killed and replaced; real processes, real files."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hartonomous.config import Parsing
from hartonomous.errors import BackendUnavailableError, DeadlineExceededError, HartonomousError
from hartonomous.parsing import process
from hartonomous.parsing.parser import Parsed, Parser
from hartonomous.parsing.protocol import Kind
from tests.parsing.conftest import MIB, MakeParser, eventually, gone, refusal, resident_bytes
from tests.parsing.pdf_writer import text_pdf

# Many seconds of work for a worker: a table with half a million cells, each walked through.
ROW = "<tr><td><b>a</b><td><b>b</b>"
SLOW = "<table>" + ROW * 250_000


async def began(parser: Parser) -> int:
    """Wait until one worker is computing, and return its id."""

    found: list[int] = []

    def computing() -> bool:
        found[:] = [pid for pid in parser.pids if processor_time(pid) > 0.4]  # loading takes less than 0.2
        return bool(found)

    await eventually(computing, 30)
    return found[0]


def processor_time(pid: int) -> float:
    """Return the seconds that a process has computed; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except FileNotFoundError:
        return 0
    return int(fields[11]) / os.sysconf("SC_CLK_TCK")


def descriptors(pid: int) -> list[int]:
    """Return what a process has open."""
    return sorted(int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir())


async def test_no_process_is_started_before_the_first_file(make_parser: MakeParser) -> None:
    parser = make_parser()
    assert not parser.pids
    await parser.parse("<p>Hello</p>", "html", 30)
    assert len(parser.pids) == 1


@pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])
async def test_a_worker_has_no_descriptor_of_the_server(make_parser: MakeParser) -> None:
    inherited = os.open(os.devnull, os.O_RDONLY)
    try:
        os.set_inheritable(inherited, True)
        parser = make_parser()
        await parser.parse("<p>Hello</p>", "html", 30)
    finally:
        os.close(inherited)
    (pid,) = parser.pids
    # Standard input, output and error, and the two ends that it works with.
    assert descriptors(pid) == [0, 1, 2, 3, 4]


async def test_a_warm_worker_takes_the_next_file_of_any_kind(make_parser: MakeParser) -> None:
    parser = make_parser()
    assert (await parser.parse("<p>Hello</p>", "html", 30)).text == "Hello"
    first = parser.pids
    assert await parser.parse(text_pdf("One", "Two"), "pdf", 30) == Parsed("One\n\nTwo", None, (5,))
    assert (await parser.parse(b"Gr\xfc\xdfe", "text", 30)).text == "Grüße"
    assert parser.pids == first


async def test_a_file_on_disk_is_read_by_the_worker(make_parser: MakeParser, tmp_path: Path) -> None:
    file = tmp_path / "a file.md"
    file.write_text("# Größe\n\ntext\n", encoding="utf-8")
    assert await make_parser().parse(file, "markdown", 30) == Parsed("# Größe\n\ntext", None, ())


async def test_a_file_that_is_not_there_is_our_fault_and_not_the_callers(make_parser: MakeParser) -> None:
    with pytest.raises(HartonomousError) as caught:
        await make_parser().parse(Path("/nowhere/at/all"), "text", 30)
    assert caught.value.status == 500
    assert "nowhere" not in caught.value.message


async def test_fifty_files_share_two_workers_and_each_gets_its_own_answer(make_parser: MakeParser) -> None:
    parser = make_parser(workers=2)
    most = 0

    async def one(number: int) -> str:
        nonlocal most
        parsed = await parser.parse(
            f"<p>file {number}</p>" if number % 2 else text_pdf(f"file {number}"), kind(number), 60
        )
        most = max(most, len(parser.pids))
        return parsed.text

    texts = await asyncio.gather(*(one(number) for number in range(50)))
    assert texts == [f"file {number}" for number in range(50)]
    assert most == 2


def kind(number: int) -> Kind:
    return "html" if number % 2 else "pdf"


async def test_an_idle_worker_is_ended_and_its_memory_given_back(make_parser: MakeParser) -> None:
    parser = make_parser(idle_s=0.05)
    await parser.parse("<p>Hello</p>", "html", 30)
    (pid,) = parser.pids
    await eventually(lambda: gone(pid))
    assert not parser.pids
    assert (await parser.parse("<p>Again</p>", "html", 30)).text == "Again"


async def test_a_worker_is_replaced_after_its_files(make_parser: MakeParser) -> None:
    parser = make_parser(max_files=2)
    seen = []
    for _ in range(4):
        await parser.parse("<p>Hello</p>", "html", 30)
        seen.append(parser.pids)
    assert seen[0]
    assert not seen[1]
    assert seen[2]
    assert seen[2] != seen[0]
    assert not seen[3]


async def test_a_worker_that_has_grown_is_replaced(make_parser: MakeParser, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = make_parser(memory_bytes=256 * MIB)
    monkeypatch.setattr("hartonomous.parsing.parser._GROWN_BYTES", 0)
    monkeypatch.setattr("hartonomous.parsing.parser._GROWN_SHARE", 256)
    await parser.parse("<p>Hello</p>", "html", 30)
    assert not parser.pids


async def test_a_cancelled_file_leaves_no_answer_for_the_next_one(make_parser: MakeParser) -> None:
    """The worker with the half-done file is killed, not reused."""
    parser = make_parser()
    task = asyncio.create_task(parser.parse(SLOW, "html", 60))
    pid = await began(parser)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await parser.parse("<p>Next</p>", "html", 30)).text == "Next"
    assert gone(pid)


@pytest.mark.parametrize("turns", range(0, 40, 3))
async def test_cancelled_at_any_point_nothing_is_lost(make_parser: MakeParser, turns: int) -> None:
    parser = make_parser()
    task = asyncio.create_task(parser.parse("<p>Cancelled</p>", "html", 30))
    for _ in range(turns):
        await asyncio.sleep(0.005 if turns > 20 else 0)
    task.cancel()
    await asyncio.wait([task])
    assert (await parser.parse("<p>Next</p>", "html", 30)).text == "Next"
    assert len(parser.pids) == 1


async def test_the_time_for_one_file_is_bounded_by_the_configuration(make_parser: MakeParser) -> None:
    parser = make_parser(timeout_s=0.5)
    assert await refusal(parser, SLOW, "html") == "parsing_timeout"
    assert (await parser.parse("<p>Next</p>", "html", 30)).text == "Next"


async def test_a_request_whose_time_is_up_is_told_so(make_parser: MakeParser) -> None:
    with pytest.raises(DeadlineExceededError):
        await make_parser().parse(SLOW, "html", 0.3)


async def test_waiting_in_line_is_on_the_callers_time(make_parser: MakeParser) -> None:
    parser = make_parser()
    task = asyncio.create_task(parser.parse(SLOW, "html", 60))
    await began(parser)
    with pytest.raises(DeadlineExceededError):
        await parser.parse("<p>Hello</p>", "html", 0.05)
    task.cancel()
    await asyncio.wait([task])


async def test_processor_time_is_bounded_even_when_the_server_does_not_look(make_parser: MakeParser) -> None:
    """With the clock of the parser put out of order, the kernel's limit ends the worker."""
    parser = make_parser()
    content, request = parser._request(SLOW, "html")
    request["cpu_s"] = 0.1
    worker = process.Worker(1024 * MIB)
    try:
        await worker.start()
        with pytest.raises(process.DiedError) as caught:
            await worker.ask(request, content)
    finally:
        worker.kill()
        await worker.wait()
    assert caught.value.returncode == -signal.SIGXCPU


async def test_a_worker_killed_from_outside_in_mid_file_costs_one_more_try(make_parser: MakeParser) -> None:
    parser = make_parser()
    task = asyncio.create_task(parser.parse("<table>" + ROW * 40_000, "html", 60))
    pid = await began(parser)
    os.kill(pid, signal.SIGKILL)
    assert (await task).text.count("| a | b |") == 40_000
    assert pid not in parser.pids


async def test_a_file_whose_workers_are_killed_again_fails_and_the_next_works(make_parser: MakeParser) -> None:
    parser = make_parser()
    task = asyncio.create_task(refusal(parser, SLOW, "html"))
    for _ in range(2):
        pid = await began(parser)
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda pid=pid: gone(pid))  # type: ignore[misc]  # mypy infers no type for the default
    assert await task == "broken_file"
    assert (await parser.parse("<p>Next</p>", "html", 30)).text == "Next"


async def test_a_worker_killed_while_idle_is_not_noticed_by_the_next_caller(make_parser: MakeParser) -> None:
    parser = make_parser()
    await parser.parse("<p>Hello</p>", "html", 30)
    (pid,) = parser.pids
    os.kill(pid, signal.SIGKILL)
    assert (await parser.parse("<p>Next</p>", "html", 30)).text == "Next"


async def test_a_crash_within_a_library_is_a_broken_file(make_parser: MakeParser) -> None:
    parser = make_parser()
    task = asyncio.create_task(refusal(parser, SLOW, "html"))
    os.kill(await began(parser), signal.SIGSEGV)
    assert await task == "broken_file"


async def test_close_kills_what_is_under_way_and_waits_for_it(make_parser: MakeParser) -> None:
    parser = make_parser(workers=2)
    await parser.parse("<p>Hello</p>", "html", 30)
    tasks = [asyncio.create_task(parser.parse(SLOW, "html", 60)) for _ in range(4)]
    await eventually(lambda: len(parser.pids) == 2)
    pids = parser.pids
    await parser.close()
    assert all(map(gone, pids))
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [BackendUnavailableError] * 4
    with pytest.raises(BackendUnavailableError):
        await parser.parse("<p>Hello</p>", "html", 30)


async def test_a_worker_that_cannot_be_started_is_our_fault(
    make_parser: MakeParser, monkeypatch: pytest.MonkeyPatch
) -> None:
    parser = make_parser()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    for _ in range(2):
        with pytest.raises(HartonomousError, match="could not start a process") as caught:
            await parser.parse("<p>Hello</p>", "html", 30)
        assert caught.value.status == 500
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(HartonomousError, match="could not start a process"):
        await parser.parse("<p>Hello</p>", "html", 30)
    monkeypatch.undo()
    assert (await parser.parse("<p>Hello</p>", "html", 30)).text == "Hello"


async def test_workers_are_given_no_secret_of_the_environment(
    make_parser: MakeParser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARTONOMOUS_KEY", "secret-key")
    parser = make_parser()
    await parser.parse("<p>Hello</p>", "html", 30)
    (pid,) = parser.pids
    assert b"secret-key" not in environment(pid)


def environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


async def test_a_worker_lets_the_server_go_first_and_ignores_the_signals_meant_for_it(make_parser: MakeParser) -> None:
    parser = make_parser()
    await parser.parse("<p>Hello</p>", "html", 30)
    (pid,) = parser.pids
    assert os.getpriority(os.PRIO_PROCESS, pid) > os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpgid(pid) != os.getpgid(0)
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGINT)
    assert (await parser.parse("<p>Next</p>", "html", 30)).text == "Next"
    assert parser.pids == {pid}


SERVER = """
import asyncio, sys
from hartonomous.config import Parsing
from hartonomous.parsing.parser import Parser

async def main():
    parser = Parser(Parsing(workers=2))
    await parser.parse("<p>Hello</p>", "html", 30)
    busy = asyncio.create_task(parser.parse("<table>" + "<tr><td><b>a</b><td>b" * 250_000, "html", 60))
    await asyncio.sleep(0)
    await parser.parse("<p>Hello</p>", "html", 30)
    print(*parser.pids, flush=True)
    await busy

asyncio.run(main())
"""


async def test_workers_die_with_a_server_that_is_killed() -> None:
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVER, stdout=subprocess.PIPE)
    assert server.stdout is not None
    pids = [int(pid) for pid in (await server.stdout.readline()).split()]
    assert len(pids) == 2
    server.kill()
    await server.wait()
    await eventually(lambda: all(map(ended, pids)))


def ended(pid: int) -> bool:
    """Whether a process that is nobody's child here is gone, or a zombie that init has not looked at yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


async def test_importing_the_parser_loads_none_of_the_formats_libraries() -> None:
    code = (
        "import sys; import hartonomous.parsing.parser;"
        "print([name for name in ('lxml', 'trafilatura', 'pypdfium2', 'docx') if name in sys.modules])"
    )
    output = await asyncio.to_thread(subprocess.check_output, [sys.executable, "-c", code])
    assert output.strip() == b"[]"


async def test_a_large_file_on_disk_costs_the_server_no_memory(make_parser: MakeParser, tmp_path: Path) -> None:
    file = tmp_path / "large.txt"
    file.write_bytes(b"word " * (30 * MIB // 5))
    parser = make_parser(max_text_bytes=1 * MIB)
    before = resident_bytes("self")
    assert await refusal(parser, file, "text") == "text_too_large"
    assert resident_bytes("self") - before < 4 * MIB


def test_the_default_settings_are_enough_for_a_worker() -> None:
    assert Parsing().memory_bytes >= 256 * MIB
