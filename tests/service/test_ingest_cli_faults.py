"""`hartonomous ingest` before a server that breaks off, hangs, refuses or is not there."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hartonomous.sending import faults, sender
from hartonomous.sending.content import FileItem
from tests.service.application import eventually
from tests.service.ingest_cli import Cli, hurry, process
from tests.service.scripted_ingest import ScriptedServer, Trouble, error, scripted
from tests.service.vector_store import free_port


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted(ScriptedServer()) as made:
        yield made


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, base_s=0.02, cap_s=0.1)


@pytest.fixture
def cli(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(server.url, capsys)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten texts and a PDF."""
    made = tmp_path / "d"
    made.mkdir()
    for number in range(10):
        (made / f"{number}.md").write_text(f"Text {number}.")
    (made / "z.pdf").write_bytes(b"%PDF-1.4 not really")
    return made


ALL = {f"d/{number}.md" for number in range(10)} | {"d/z.pdf"}


async def test_lines_and_uploads_say_what_was_asked(server: ScriptedServer, cli: Cli, folder: Path) -> None:
    (folder / "ä 'q\".html").write_bytes(b"\xff")
    arguments = ["--collection", "c", "--max-tokens", "64", "--overlap-tokens", "8", "--metadata", "team=ops=1"]
    assert (await cli(*arguments, folder)).status == 0
    stream = next(request for request in server.requests if request.query)
    assert dict(stream.query) == {"collection": "c", "max_tokens": "64", "overlap_tokens": "8"}
    assert server.streams[0][0] == {
        "id": "d/0.md",
        "source": "d/0.md",
        "format": "markdown",
        "text": "Text 0.",
        "metadata": {"team": "ops=1"},
    }
    uploads = {upload.pop("id"): upload for upload in server.uploads}
    assert set(uploads) == {"d/z.pdf", "d/ä 'q\".html"}
    for name, upload in uploads.items():
        del upload["size"]
        assert upload == {
            "filename": name,
            "collection": "c",
            "max_tokens": "64",
            "overlap_tokens": "8",
            "metadata": '{"team":"ops=1"}',
        }


async def test_the_summary_counts_and_everything_again_is_unchanged(
    server: ScriptedServer, cli: Cli, folder: Path
) -> None:
    first = await cli(folder)
    assert first.status == 0
    assert first.summary.startswith("11 created, 0 updated, 0 unchanged, 0 failed in ")
    assert first.summary.endswith("(22 chunks, 110 tokens)")
    (folder / "3.md").write_text("Another text.")
    second = await cli(folder)
    assert second.summary.startswith("0 created, 1 updated, 10 unchanged, 0 failed in ")
    assert set(server.documents) == ALL


async def test_the_key_goes_into_the_header_and_nowhere_else(
    server: ScriptedServer, cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARTONOMOUS_API_KEY", "from-environment")
    outcome = await cli(folder)
    (folder / "key").write_text("from-file\n")
    await cli("--key-file", folder / "key", folder)
    sent = [request.headers["Authorization"] for request in server.requests]
    assert set(sent[:2]) == {"Bearer from-environment"}
    assert set(sent[2:]) == {"Bearer from-file"}
    assert "from-environment" not in outcome.out + outcome.err


BROKEN = [
    Trouble(end="abort", after=4),
    Trouble(end="abort"),
    Trouble(end="garbage", after=2),
    Trouble(end="endless", after=2),
    Trouble(end="fatal", after=5, body=error("backend_unavailable", "The embedding service is down.")),
    Trouble(status=503, body={"error": error("backend_unavailable", "Draining.")}, headers={"Retry-After": "0"}),
    Trouble(status=429, body={}),
    Trouble(status=504, body="<html>"),
    Trouble(end="early"),
]


@pytest.mark.parametrize("trouble", BROKEN, ids=lambda trouble: f"{trouble.end or trouble.status}-{trouble.after}")
async def test_what_was_not_answered_is_sent_again(
    server: ScriptedServer, cli: Cli, folder: Path, trouble: Trouble
) -> None:
    server.troubles.append(trouble)
    outcome = await cli(folder)
    assert outcome.status == 0, outcome
    assert set(server.documents) == ALL
    assert "Trying again for up to 360 s." in outcome.err
    again = [document["id"] for document in server.streams[-1]]
    assert again == [f"d/{number}.md" for number in range(10 - len(again), 10)]
    # An answer that was under way when the connection was torn may be lost: that document is sent once more.
    repeated = len(again) - (10 - trouble.after)
    assert repeated == 0 or (trouble.end == "abort" and 0 < repeated <= trouble.after)
    assert outcome.summary.startswith(f"{11 - repeated} created, 0 updated, {repeated} unchanged, 0 failed in ")


async def test_a_server_that_always_breaks_off_but_gets_on_is_borne(
    server: ScriptedServer, cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "_BASE_S", 0.1)
    monkeypatch.setattr(faults, "_CAP_S", 1.0)
    down = error("backend_unavailable", "Down.")
    server.troubles.extend(Trouble(end="fatal", after=1, body=down) for _ in range(9))
    outcome = await cli("--give-up-after", "1", folder)
    assert outcome.status == 0
    assert len(server.streams) == 10


async def test_a_server_that_is_slow_is_not_interrupted(server: ScriptedServer, cli: Cli, folder: Path) -> None:
    server.pause_s = 0.15
    outcome = await cli("--give-up-after", "1", folder)
    assert (outcome.status, outcome.err) == (0, "")
    assert len(server.streams) == 1


FINAL = [
    Trouble(status=401, body={"error": error("authentication_error", "The key is not known.")}),
    Trouble(status=403, body={"error": error("permission_error", "Not your collection.")}),
    Trouble(status=409, body={"error": error("conflict_error", "Another model made it.")}),
    Trouble(status=422, body={"error": error("invalid_request_error", "max_tokens…", param="max_tokens")}),
    Trouble(status=422, body={"error": error("invalid_request_error", "Nobody knows which.")}),
    Trouble(end="fatal", after=3, body=error("conflict_error", "Another model made it meanwhile.")),
]


@pytest.mark.parametrize("trouble", FINAL, ids=lambda trouble: f"{trouble.status or trouble.end}")
async def test_a_refusal_is_final_and_told_in_the_servers_words(
    server: ScriptedServer, cli: Cli, folder: Path, trouble: Trouble
) -> None:
    (folder / "z.pdf").unlink()
    server.troubles.append(trouble)
    outcome = await cli(folder)
    assert outcome.status == 1
    assert len(server.requests) == 1
    sentence = (trouble.body.get("error") or trouble.body)["message"]
    assert sentence in outcome.err.splitlines()
    assert f"{trouble.after} created" in outcome.summary
    assert f"{10 - trouble.after} not sent" in outcome.summary


async def test_a_refused_upload_ends_everything_as_well(server: ScriptedServer, cli: Cli, folder: Path) -> None:
    server.troubles.append(Trouble(end="hang", after=2))
    server.upload_troubles.append(Trouble(status=401, body={"error": error("authentication_error", "No key.")}))
    outcome = await cli(folder)
    assert (outcome.status, outcome.err) == (1, "No key.\n")


async def test_without_a_server_it_says_so_and_gives_up(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    outcome = await Cli(url, capsys)("--give-up-after", "0.5", folder)
    assert outcome.status == 1
    sentence = f"{url} cannot be reached: connection refused."
    assert outcome.err.splitlines() == [
        f"{sentence} Trying again for up to 0 s.",
        f"{sentence} Given up after 0.5 s without progress.",
    ]
    assert "11 not sent" in outcome.summary


async def test_it_waits_for_a_server_that_is_being_started(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    running = asyncio.create_task(Cli(f"http://127.0.0.1:{port}", capsys)(folder))
    await asyncio.sleep(0.2)
    async with scripted(ScriptedServer(), port) as server:
        assert (await running).status == 0
        assert set(server.documents) == ALL


async def test_a_server_that_hangs_is_given_up(server: ScriptedServer, cli: Cli, folder: Path) -> None:
    server.troubles.extend(Trouble(end="hang", after=after) for after in (3, 0, 0, 0, 0))
    outcome = await cli("--give-up-after", "0.3", folder)
    assert outcome.status == 1
    assert f"{server.url} does not answer. Given up after 0.3 s without progress." in outcome.err
    assert "not sent" in outcome.summary


async def test_what_speaks_another_language_is_no_server(server: ScriptedServer, cli: Cli, folder: Path) -> None:
    server.troubles.append(Trouble(status=404, body="<html>"))
    outcome = await cli(folder)
    assert (outcome.status, outcome.err) == (1, "The server answered 404 and no reason.\n")


async def test_failures_are_told_at_the_end_with_the_servers_words(
    server: ScriptedServer, cli: Cli, folder: Path
) -> None:
    (folder / "bin.txt").write_bytes(b"\x00\x01")
    (folder / "torn.txt").symlink_to("/proc/self/mem")
    (folder / "torn.pdf").symlink_to("/proc/self/mem")
    server.failures["d/2.md"] = deque([error("invalid_request_error", "The document has no text.")])
    server.failures["d/z.pdf"] = deque([error("invalid_request_error", "The PDF is \x1b[31mencrypted.")])
    outcome = await cli(folder)
    assert outcome.status == 1
    assert sorted(outcome.err.splitlines()) == [
        "d/2.md: The document has no text.",
        "d/bin.txt: is binary, not text",
        "d/torn.pdf: cannot be read: input/output error",
        "d/torn.txt: cannot be read: input/output error",
        "d/z.pdf: The PDF is \\x1b[31mencrypted.",
    ]
    assert outcome.summary.startswith("9 created, 0 updated, 0 unchanged, 5 failed in ")
    quiet = await cli("--quiet", folder)
    assert (quiet.status, quiet.out) == (1, "")
    assert len(quiet.err.splitlines()) == 3


async def test_what_failed_because_a_backend_was_down_is_sent_again(
    server: ScriptedServer, cli: Cli, folder: Path
) -> None:
    server.failures["d/1.md"] = deque([error("backend_unavailable", "Embedding is down.")] * 4)
    server.failures["d/z.pdf"] = deque([error("rate_limit_error", "Too many.")] * 4)
    outcome = await cli(folder)
    assert outcome.status == 0, outcome
    assert set(server.documents) == ALL
    assert [[document["id"] for document in stream] for stream in server.streams[1:]] == [["d/1.md"]] * 4


async def test_what_takes_too_long_three_times_is_a_failure(server: ScriptedServer, cli: Cli, folder: Path) -> None:
    server.failures["d/1.md"] = deque([error("timeout_error", "The deadline passed.")] * 9)
    server.failures["d/z.pdf"] = deque([error("timeout_error", "The deadline passed.")] * 9)
    outcome = await cli(folder)
    assert outcome.status == 1
    assert sorted(outcome.err.splitlines()[-2:]) == ["d/1.md: The deadline passed.", "d/z.pdf: The deadline passed."]
    assert len(server.streams) == 3
    assert len(server.uploads) == 3


async def test_a_file_that_is_refused_unread_is_one_failure(server: ScriptedServer, cli: Cli, folder: Path) -> None:
    (folder / "z.pdf").write_bytes(b"%PDF" + bytes(40 * 2**20))
    body = {"error": error("invalid_request_error", "The body is larger than 1 bytes.")}
    server.upload_troubles.append(Trouble(status=413, body=body))
    outcome = await cli(folder)
    assert (outcome.status, outcome.err) == (1, "d/z.pdf: The body is larger than 1 bytes.\n")
    assert outcome.summary.startswith("10 created")


async def test_a_busy_server_gets_an_upload_again(server: ScriptedServer, cli: Cli, folder: Path) -> None:
    down = {"error": error("backend_unavailable", "Down."), "documents": [{"status": "failed"}]}
    server.upload_troubles.extend(Trouble(status=status, body=down) for status in (503, 429, 507))
    outcome = await cli(folder)
    assert outcome.status == 0
    assert set(server.documents) == ALL


async def test_files_are_read_as_the_socket_takes_them(
    server: ScriptedServer, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "many"
    made.mkdir()
    for number in range(100):
        (made / f"{number}.txt").write_text("x" * 400_000)
    read: list[str] = []
    line = FileItem.line

    def counted(item: FileItem) -> bytes | None:
        read.append(item.shown)
        return line(item)

    monkeypatch.setattr(FileItem, "line", counted)
    server.troubles.append(Trouble(end="hang", after=1))
    running = asyncio.create_task(cli(made))
    await eventually(lambda: len(server.streams) == 1 and len(server.streams[0]) == 2)
    await asyncio.sleep(0.3)
    assert len(read) < 50
    server.released.set()
    assert (await running).status == 0
    assert len(server.documents) == 100


class Pipe:
    """Standard input in the tests' hands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ours, self._write = os.pipe()
        feed = sender_feed(ours)
        monkeypatch.setattr("hartonomous.sending.passes.StdinFeed", feed)

    def write(self, text: str) -> None:
        os.write(self._write, text.encode())

    def close(self) -> None:
        os.close(self._write)


def sender_feed(fd: int) -> object:
    from hartonomous.sending.stdin import StdinFeed

    return lambda tally: StdinFeed(tally, fd)


async def test_standard_input_is_passed_through_and_resent(
    server: ScriptedServer, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = Pipe(monkeypatch)
    pipe.write('{"id": "a", "text": "ä"}\n\n{"id": "b", "text": "x"}\n{"id": "c", "text": "y", "title": "T"}')
    pipe.close()
    server.troubles.append(Trouble(end="abort", after=1))
    server.failures["c"] = deque([error("invalid_request_error", "No.")])
    outcome = await cli("-")
    assert outcome.status == 1
    assert outcome.summary.startswith(("2 created, 0 updated, 0 unchanged, 1 failed", "1 created, 0 updated, 1 unch"))
    assert outcome.err.splitlines()[-1] == "line 4 (c): No."
    assert server.streams[-1][-1] == {"id": "c", "text": "y", "title": "T"}
    assert set(server.documents) == {"a", "b"}


async def test_silence_is_bridged_with_blank_lines(
    server: ScriptedServer, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "_SILENCE_S", 0.05)
    pipe = Pipe(monkeypatch)
    running = asyncio.create_task(cli("-"))
    pipe.write('{"id": "a", "text": "x"}\n')
    await eventually(lambda: "a" in server.documents)
    before = server.read_bytes
    await eventually(lambda: server.read_bytes >= before + 3)
    pipe.write('{"id": "b", "text": "x"}\n')
    pipe.close()
    assert (await running).summary.startswith("2 created")


async def test_prune_deletes_what_is_gone_and_nothing_else(server: ScriptedServer, cli: Cli, folder: Path) -> None:
    assert (await cli(folder)).status == 0
    for name, source in (("d/theirs.md", None), ("other/x.md", "other/x.md"), ("loose", "https://x/")):
        server.documents[name] = {"id": name, "source": source, "content": ""}
    (folder / "3.md").unlink()
    (folder / "z.pdf").unlink()
    shown = await cli("--prune", "--dry-run", "--collection", "docs", folder)
    assert "would delete d/3.md" in shown.out
    assert "would send d/4.md" in shown.out
    assert shown.summary == "9 would be sent, 2 deleted"
    assert server.deleted == []
    outcome = await cli("--prune", folder)
    assert outcome.status == 0
    assert sorted(server.deleted) == ["d/3.md", "d/z.pdf"]
    assert "deleted d/3.md" in outcome.err
    assert "2 deleted" in outcome.summary


async def test_prune_deletes_nothing_when_a_root_is_missing_or_empty(
    server: ScriptedServer, cli: Cli, folder: Path
) -> None:
    await cli(folder)
    (folder / "3.md").unlink()
    outcome = await cli("--prune", folder, folder.parent / "absent")
    assert outcome.status == 1
    assert "Nothing is deleted, because not everything could be looked at" in outcome.err
    shutil.rmtree(folder)
    os.mkdir(folder)  # noqa: PTH102 - pathlib's is refused in a coroutine
    outcome = await cli("--prune", "--collection", "docs", folder)
    assert outcome.status == 1
    assert "because there is no file at all in it" in outcome.err
    assert server.deleted == []


async def test_prune_deletes_nothing_when_sending_ended_early_or_the_listing_is_refused(
    server: ScriptedServer, cli: Cli, folder: Path
) -> None:
    await cli(folder)
    (folder / "3.md").unlink()
    server.troubles.append(Trouble(status=403, body={"error": error("permission_error", "Not yours.")}))
    assert (await cli("--prune", folder)).status == 1
    server.list_trouble = Trouble(status=403, body={"error": error("permission_error", "No scope query.")})
    outcome = await cli("--prune", folder)
    assert (outcome.status, outcome.err) == (1, "No scope query.\n")
    assert server.deleted == []


async def test_a_dry_run_needs_no_server(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = await Cli("http://127.0.0.1:9", capsys)("--dry-run", "--exclude", "[0-7].md", folder)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.splitlines() == [
        "would send d/8.md",
        "would send d/9.md",
        "would send d/z.pdf",
        "3 would be sent, 0 deleted",
    ]


async def test_ctrl_c_ends_cleanly_and_tells_what_was_answered(server: ScriptedServer, folder: Path) -> None:
    server.troubles.append(Trouble(end="hang", after=4))
    async with process("--url", server.url, folder) as running:
        await eventually(lambda: server.streams and len(server.streams[0]) > 4 and server.uploads, "the documents")
        running.interrupt()
        outcome = await running.outcome()
    assert outcome.status == 130
    assert "Traceback" not in outcome.err
    told = re.match(r"(\d+) created, 0 updated, 0 unchanged, 0 failed, (\d+) not sent in ", outcome.out)
    assert told is not None
    assert 1 <= int(told[1]) <= 5
    assert int(told[1]) + int(told[2]) == 11


async def test_watch_sends_what_changes_and_deletes_what_goes(server: ScriptedServer, folder: Path) -> None:
    async with process("--url", server.url, "--watch", "--prune", folder) as running:
        await eventually(lambda: running.out, "the first pass")
        assert set(server.documents) == ALL
        sent = len(server.streams)
        (folder / "3.md").write_text("Changed.")
        (folder / "sub").mkdir()
        (folder / "sub" / "new.md").write_text("New.")
        await eventually(lambda: "Changed." in server.documents["d/3.md"]["content"], "the change")
        await eventually(lambda: "d/sub/new.md" in server.documents, "the new file")
        (folder / "sub").rename(folder / "moved")
        await eventually(lambda: "d/moved/new.md" in server.documents, "the move")
        (folder / "4.md").unlink()
        await eventually(lambda: set(server.deleted) == {"d/4.md", "d/sub/new.md"}, "the deletion")
        again = {document["id"] for stream in server.streams[sent:] for document in stream}
        assert again == {"d/3.md", "d/moved/new.md", "d/sub/new.md"}
        assert len(server.deleted) == 2
        await eventually(lambda: {"deleted d/4.md\n", "deleted d/sub/new.md\n"} <= set(running.err), "the lines")
        running.interrupt()
        outcome = await running.outcome()
    assert outcome.status == 130
    assert "Traceback" not in outcome.err
    assert "updated d/3.md" in outcome.err.splitlines()
    assert "deleted d/4.md" in outcome.err.splitlines()


def put_aside_and_back(folder: Path, without: str) -> None:
    aside = folder.rename(folder.parent / "aside")
    (aside / without).unlink()
    aside.rename(folder)


async def test_watch_goes_on_after_the_server_was_away_and_its_folder_was_away(
    server: ScriptedServer, folder: Path
) -> None:
    arguments = ["--url", server.url, "--watch", "--prune", "--give-up-after", "0.2"]
    async with process(*arguments, folder) as running:
        await eventually(lambda: running.out, "the first pass")
        server.troubles.extend(Trouble(status=503, body={}) for _ in range(2))
        (folder / "3.md").write_text("Changed.")
        await eventually(lambda: any("Given up" in line for line in running.err), "giving up")
        server.troubles.clear()
        (folder / "4.md").write_text("Changed too.")
        await eventually(lambda: "Changed too." in server.documents["d/4.md"]["content"], "the next change")
        await eventually(lambda: "Changed." in server.documents["d/3.md"]["content"], "the change")
        put_aside_and_back(folder, without="5.md")
        await eventually(lambda: server.deleted == ["d/5.md"], "the deletion")


async def test_watch_sees_a_single_file_that_is_replaced(server: ScriptedServer, folder: Path) -> None:
    async with process("--url", server.url, "--watch", folder / "3.md") as running:
        await eventually(lambda: running.out, "the first pass")
        for text in ("One.", "Two."):
            (folder / "~3").write_text(text)
            (folder / "~3").replace(folder / "3.md")
            await eventually(lambda: text in server.documents["3.md"]["content"], text)  # noqa: B023 - awaited here
    assert set(server.documents) == {"3.md"}
