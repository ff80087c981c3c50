"""Answers that are read by what is known of their heads: the same as the parser reads them, and never more than it."""

from __future__ import annotations

import asyncio

import pytest

from hartonomous.clients.heads import Heads
from hartonomous.errors import BackendError
from tests.clients.test_exchange import Serve, answering, call, served

PLAIN = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: %d\r\nX-Last: 1\r\n\r\n%b"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the parser was given to read."""
    given: list[bytes] = []
    learn = Heads.learn

    def note(self: Heads, data: bytes, *rest: object) -> None:
        given.append(data)
        learn(self, data, *rest)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(Heads, "learn", note)
    return given


def in_turn(*answers: bytes) -> Serve:
    """Give one answer after the other, each in one piece."""
    left = list(answers)

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(left.pop(0))
        await writer.drain()

    return serve


async def test_the_parser_reads_a_head_once_whatever_the_length_of_the_body(parsed: list[bytes]) -> None:
    bodies = [b"", b"a", b"b" * 1_000, b"c" * 20]
    async with served(in_turn(*(PLAIN % (len(body), body) for body in bodies))) as (pool, backend):
        answers = [await pool.request("GET", "/x", call()) for _ in bodies]
    assert [answer.body for answer in answers] == bodies
    assert [answer.headers["Content-Length"] for answer in answers] == ["0", "1", "1000", "20"]
    assert [dict(answer.headers) for answer in answers] == [
        {"Server": "x", "Content-Length": str(len(body)), "X-Last": "1"} for body in bodies
    ]
    assert len(parsed) == backend.connections == 1


async def test_an_error_is_read_as_one_again() -> None:
    refusal = b"HTTP/1.1 400 Bad\r\nContent-Length: 2\r\n\r\nno"
    async with served(in_turn(refusal, refusal, PLAIN % (2, b"ok"))) as (pool, backend):
        for _ in range(2):
            with pytest.raises(BackendError, match="status 400"):
                await pool.request("GET", "/x", call())
        assert (await pool.request("GET", "/x", call())).body == b"ok"
    assert backend.connections == 1


async def test_what_is_poured_or_taken_in_pieces_is_handed_out_once() -> None:
    async with served(answering(PLAIN % (3, b"abc"))) as (pool, backend):
        for _ in range(2):
            async with pool.open("POST", "/x", call(), b"{}") as opened:
                assert [piece async for piece in opened.pieces()] == [b"abc"]
        taken: list[bytes] = []
        async with pool.open("POST", "/x", call(), b"{}") as opened:
            await opened.pour(taken.append)
    assert taken == [b"abc"]
    assert backend.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        PLAIN % (2, b"ok") + PLAIN % (2, b"no"),
        PLAIN % (2, b"ok") + b"x",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 102 Wait\r\nContent-Length: 40\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
    ids=["another behind", "more than told", "closes", "HTTP/1.0", "chunked", "interim with a length"],
)
async def test_an_answer_out_of_the_ordinary_is_read_by_the_parser_each_time(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[object] = []
    read = Heads.read

    def note(self: Heads, data: bytes) -> object:
        found = read(self, data)
        known.append(found)
        return found

    monkeypatch.setattr(Heads, "read", note)
    async with served(answering(answer)) as (pool, _):
        for _ in range(3):
            await asyncio.wait({asyncio.ensure_future(pool.request("GET", "/x", call()))})
    assert len(known) >= 3
    assert set(known) == {None}


@pytest.mark.parametrize(
    "like",
    [
        b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 2\r\nContent-Length: 3\r\nX-Last: 1\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: +2\r\nX-Last: 1\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 2\r\nX-Last: 1\x00\r\n\r\nok",
        PLAIN % (2, b"ok") + b"HTTP?",
    ],
    ids=["two lengths", "a sign", "a null", "more behind"],
)
async def test_what_the_parser_refuses_is_refused_also_after_one_like_it(like: bytes) -> None:
    async with served(in_turn(PLAIN % (2, b"ok"), PLAIN % (2, b"ok"), *[like] * 3)) as (pool, _):
        assert [(await pool.request("GET", "/x", call())).body for _ in range(2)] == [b"ok"] * 2
        with pytest.raises(BackendError, match="broke the connection off"):
            await pool.request("POST", "/x", call(), b"{}", is_idempotent=False)


async def test_a_known_head_whose_body_comes_later_is_read_as_it_comes() -> None:
    whole = PLAIN % (6, b"abcdef")
    async with served(answering(whole)) as (pool, backend):
        assert (await pool.request("GET", "/x", call())).body == b"abcdef"
        backend_serve = answering(whole[:-3], whole[-3:])
        backend._serve = backend_serve
        assert (await pool.request("GET", "/x", call())).body == b"abcdef"
        backend._serve = answering(whole[:30], whole[30:])
        assert (await pool.request("GET", "/x", call())).body == b"abcdef"
    assert backend.connections == 1


async def test_an_interim_answer_in_front_is_skipped_each_time() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    async with served(in_turn(*[interim + PLAIN % (2, b"ok")] * 2, interim + PLAIN % (3, b"yes"))) as (pool, backend):
        answers = [await pool.request("GET", "/x", call()) for _ in range(3)]
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"ok"), (200, b"ok"), (200, b"yes")]
    assert backend.connections == 1


async def test_the_answer_to_head_has_no_body() -> None:
    head = PLAIN % (2, b"")
    async with served(in_turn(PLAIN % (2, b"ok"), head, head)) as (pool, _):
        assert (await pool.request("GET", "/x", call())).body == b"ok"
        for _ in range(2):
            assert (await pool.request("HEAD", "/x", call())).body == b""


def test_heads_are_not_kept_for_ever() -> None:
    heads = Heads()
    for number in range(1_000):
        data = b"HTTP/1.1 200 OK\r\nX-Id: %d\r\nContent-Length: 2\r\n\r\nok" % number
        heads.learn(data, 200, {"X-Id": str(number), "Content-Length": "2"}, 2)
        assert heads.read(data) is not None
    assert len(heads._known) <= 64


def test_a_long_head_is_not_kept() -> None:
    heads = Heads()
    data = b"HTTP/1.1 200 OK\r\nX-Long: %b\r\nContent-Length: 2\r\n\r\nok" % (b"x" * 4_000)
    heads.learn(data, 200, {"Content-Length": "2"}, 2)
    assert heads.read(data) is None
