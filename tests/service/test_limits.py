"""Limits of keys and addresses, asked over real sockets of the running application."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
from pydantic import ValidationError
from yarl import URL

from hartonomous import log
from hartonomous.errors import RateLimitedError
from hartonomous.limiting.memory import MemoryStore
from hartonomous.limiting.policy import Cost, Kind
from hartonomous.metrics import Metrics
from hartonomous.parts import Parts
from hartonomous.wiring import open_limiter
from tests.redis import RedisServer
from tests.service.application import WAIT_S, ConfigMaker, RunningApp, eventually
from tests.service.fault_backend import DEFAULT, completion, hang, json_reply, sse, stream
from tests.service.keyed import Key, asking, keyed
from tests.service.rag import CHAT, EMBEDDINGS, RigMaker, events_of, ingest, sample, says

MODELS = "/v1/models/none"
SLOW = 0.001


def limited(key_id: str, **limits: Any) -> Key:
    return Key(key_id, ("query", "ingest"), ("*",), options={"limits": limits})


async def statuses(app: RunningApp, count: int, path: str = MODELS) -> list[int]:
    found = []
    for _ in range(count):
        async with app.session.get(app.url + path) as response:
            found.append(response.status)
    return found


async def test_a_key_has_its_burst_and_is_then_told_when_to_come_again(rigs: RigMaker) -> None:
    key = limited("limited", requests_per_s=SLOW, burst=3)
    async with keyed(rigs, more=(key,)) as it, asking(it.rig.app, key) as app:
        async with app.session.get(app.url + MODELS) as response:
            assert (response.headers["RateLimit-Limit"], response.headers["RateLimit-Remaining"]) == ("3", "2")
        assert await statuses(app, 3) == [404, 404, 429]
        async with app.session.get(app.url + MODELS) as response:
            error = (await response.json())["error"]
            assert (error["type"], error["code"]) == ("rate_limit_error", "too_many_requests")
            assert int(response.headers["Retry-After"]) >= 1
            assert response.headers["RateLimit-Remaining"] == "0"
            assert int(response.headers["RateLimit-Reset"]) > 1
        assert await statuses(it.a, 5) == [404] * 5
        assert sample(app, "hartonomous_limit_refusals_total", whose="key", limit="too_many_requests") == 2
        assert await statuses(app, 3, "/health") == [200] * 3


async def test_wrong_keys_are_refused_with_429_after_a_while_and_right_ones_go_on(rigs: RigMaker) -> None:
    limits = {"address": {"failed_authentications_per_minute": 4}}
    async with keyed(rigs, limits=limits) as it:
        wrong = Key("tenant-a", secret="another")
        unknown = Key("nobody")
        async with asking(it.rig.app, wrong) as a, asking(it.rig.app, unknown) as b:
            assert await statuses(a, 2) + await statuses(b, 2) == [401] * 4
            assert await statuses(a, 2) + await statuses(b, 2) == [429] * 4
            async with a.session.get(a.url + MODELS) as response:
                assert int(response.headers["Retry-After"]) >= 1
                assert (await response.json())["error"]["code"] == "too_many_failed_authentications"
        assert await statuses(it.a, 2) == [404] * 2
        assert await statuses(it.rig.app, 3) == [401] * 3
        async with it.rig.app.session.get(
            it.rig.app.url + MODELS, headers={"Authorization": "Basic dGVuYW50LWE6d3Jvbmc="}
        ) as response:
            assert response.status == 401


@pytest.mark.parametrize("path", [MODELS, "/nowhere"])
async def test_an_address_has_its_burst_before_anybody_looks_for_a_key(rigs: RigMaker, path: str) -> None:
    limits = {"address": {"requests_per_s": SLOW, "burst": 3}}
    async with keyed(rigs, limits=limits) as it:
        assert await statuses(it.rig.app, 5, path) == [401] * 3 + [429] * 2
        assert await statuses(it.a, 1, path) == [429]
        assert 429 not in await statuses(it.rig.app, 3, "/ready")


async def chat(app: RunningApp, **fields: Any) -> tuple[int, bytes]:
    body = {"messages": [{"role": "user", "content": "Hi"}], **fields}
    async with app.session.post(app.url + CHAT, json=body) as response:
        return response.status, await response.read()


async def test_tokens_are_used_when_they_are_known_and_then_the_key_waits(rigs: RigMaker) -> None:
    """50 tokens, of which each answer takes 13: the fourth leaves a debt, and nothing is answered until it is paid."""
    key = limited("limited", tokens_per_minute=50)
    async with keyed(rigs, more=(key,)) as it, asking(it.rig.app, key) as app:
        it.rig.generative.on(CHAT, json_reply(completion(["a"] * 4)), stream(sse(["a"] * 4)))
        before = completion(["a"] * 4)
        assert [(await chat(app))[0], (await chat(app, stream=True))[0]] == [200, 200]
        for _ in range(2):
            status, body = await chat(app, stream=True)
            assert (status, body) == (200, b"".join(sse(["a"] * 4)))
        assert before["usage"]["total_tokens"] == 13
        status, body = await chat(app)
        assert status == 429
        assert json.loads(body)["error"]["code"] == "too_many_tokens"
        assert (await chat(it.a))[0] == 200


async def test_every_kind_of_work_takes_the_tokens_that_it_reports(
    rigs: RigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = limited("limited", tokens_per_minute=1_000_000)
    kept = {"rag": {"cache": {"answers": {"enabled": True}}}}
    async with keyed(rigs, more=(key,), **kept) as it, asking(it.rig.app, key) as app:
        it.rig.generative.on(CHAT, says("A lime weighs some grams."))
        taken = tokens_taken(app, monkeypatch)
        name = it.keys.a.collection
        reported = (await ingest(app, "A lime weighs 67 grams.", collection=name))["usage"]["embedding_tokens"]
        assert 0 < reported == taken()

        async with app.session.post(
            f"{app.url}/rag/ingest?collection={name}",
            data=b'{"text": "Lemons are yellow."}\n{"text": "Plums are blue."}\n',
            headers={"Content-Type": "application/x-ndjson"},
        ) as response:
            last = json.loads((await response.text()).splitlines()[-1])
        assert last["usage"]["embedding_tokens"] == round(taken())

        question = {"query": "What does a lime weigh?", "collection": name}
        _, answer = await app.post("/rag/query", question)
        assert 0 < answer["usage"]["total_tokens"] == taken()
        assert (await app.post("/rag/query", question))[1]["usage"] == answer["usage"]
        assert taken() == 0, "an answer from the cache takes none"

        async with app.session.post(
            app.url + "/rag/query", json={**question, "query": "A lime?", "stream": True}
        ) as ok:
            done = events_of(await ok.text())[-1]
        assert (done[0], done[1]["usage"]["total_tokens"]) == ("done", taken())

        _, answer = await app.post(
            "/rag/batch-query", {"queries": [{**question, "query": "L?"}, {**question, "top_k": 1}]}
        )
        assert sum(item["result"]["usage"]["total_tokens"] for item in answer["results"]) == taken()

        model = {"model": f"rag:{name}", "messages": [{"role": "user", "content": "Is it a lime?"}]}
        _, answer = await app.post("/v1/chat/completions", model)
        assert 0 < answer["usage"]["total_tokens"] == taken()

        _, answer = await app.post("/v1/rerank", {"query": "lime", "documents": ["a lime", "a plum"]})
        assert 0 < answer["usage"]["total_tokens"] == taken()

        _, answer = await app.post("/v1/embeddings", {"input": "a lime", "model": "any"})
        assert 0 < answer["usage"]["total_tokens"] == taken()


def tokens_taken(app: RunningApp, monkeypatch: pytest.MonkeyPatch) -> Callable[[], float]:
    """Return what says how many tokens were used since it was last asked."""
    store, used = app.runtime.limiter._store, [0.0]
    settle = store.settle

    def recorded(name: str, place: str | None, costs: Sequence[Cost] = ()) -> None:
        used.extend(cost for kind, _, cost in costs if kind is Kind.TOKENS)
        settle(name, place, costs)

    def taken() -> float:
        total = sum(used)
        used.clear()
        return total

    monkeypatch.setattr(store, "settle", recorded)
    return taken


async def test_a_client_that_leaves_a_stream_pays_for_what_was_generated(rigs: RigMaker) -> None:
    key = limited("limited", tokens_per_minute=30)
    async with keyed(rigs, more=(key,)) as it, asking(it.rig.app, key) as app:
        it.rig.generative.on(CHAT, stream(sse(["a"] * 60, done=False)[:50], end="hang"), DEFAULT)
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
        async with app.session.post(app.url + CHAT, json=body) as response:
            read = b""
            while read.count(b"data:") < 50:
                read += await response.content.readany()
        await eventually_refused(app, "too_many_tokens")


LONG = "What does a lime weigh? " * 8
WORK = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": LONG}]}),
    ("/v1/chat/completions", {"model": "rag:{name}", "messages": [{"role": "user", "content": LONG}]}),
    ("/rag/query", {"query": LONG, "collection": "{name}"}),
    ("/rag/batch-query", {"queries": [{"query": LONG, "collection": "{name}"}]}),
]


@pytest.mark.parametrize("is_kept", [False, True])
@pytest.mark.parametrize(("path", "body"), WORK)
async def test_a_client_that_leaves_before_an_answer_in_one_piece_pays_for_the_prompt(
    rigs: RigMaker, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any], is_kept: bool
) -> None:
    key = limited("limited", tokens_per_minute=100_000, concurrent=1)
    kept = {"rag": {"cache": {"answers": {"enabled": is_kept}}}}
    async with keyed(rigs, more=(key,), **kept) as it, asking(it.rig.app, key) as app:
        name = it.keys.a.collection
        await ingest(app, "A lime weighs 67 grams.", collection=name)
        it.rig.generative.on(CHAT, hang())
        taken = tokens_taken(app, monkeypatch)
        text = json.dumps(body).replace("{name}", name)
        leaving = asyncio.create_task(app.post(path, json.loads(text)))
        await eventually(lambda: it.rig.generative.calls(CHAT), "it is generated")
        leaving.cancel()
        await asyncio.wait({leaving})
        await eventually(lambda: not held(app, key.id), "the place is given back")
        assert 48 <= taken() < 100


@pytest.mark.parametrize(("path", "body"), WORK[:3])
async def test_what_a_backend_refuses_takes_no_tokens_and_what_takes_too_long_does(
    rigs: RigMaker, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    key = limited("limited", tokens_per_minute=100_000)
    async with keyed(rigs, more=(key,)) as it, asking(it.rig.app, key) as app:
        name = it.keys.a.collection
        await ingest(app, "A lime weighs 67 grams.", collection=name)
        taken = tokens_taken(app, monkeypatch)
        asked = json.loads(json.dumps(body).replace("{name}", name))
        it.rig.generative.on(CHAT, json_reply({"error": "wrong"}, status=401))
        assert (await app.post(path, asked))[0] == 502
        assert taken() == 0
        it.rig.generative.on(CHAT, hang())
        async with app.session.post(app.url + path, json=asked, headers={"X-Request-Timeout-Ms": "700"}) as response:
            assert response.status == 504
        assert 48 <= taken() < 100


async def eventually_refused(app: RunningApp, code: str) -> None:
    for _ in range(500):
        async with app.session.get(app.url + MODELS) as response:
            if response.status == 429:
                assert (await response.json())["error"]["code"] == code
                return
        await asyncio.sleep(0.02)
    raise AssertionError("it is never refused")


async def test_bytes_over_what_is_left_are_refused_before_they_are_read(rigs: RigMaker) -> None:
    key = limited("limited", bytes_per_day=1_000)
    async with keyed(rigs, more=(key,)) as it, asking(it.rig.app, key) as app:
        head = (
            f"POST /rag/search HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key.text}\r\nContent-Length: 1001\r\n\r\n"
        )
        status, text = await said(app, head.encode())
        assert (status, b"too_many_bytes" in text) == (429, True)
        # What was announced and did not come is not counted; what came is.
        status, _ = await app.post("/rag/search", {"query": "x" * 800, "unknown": 1})
        assert status == 422
        status, answer = await app.post("/rag/search", {"query": "x" * 300})
        assert (status, answer["error"]["code"]) == (429, "too_many_bytes")
        assert (await statuses(app, 1)) == [404]


async def test_a_body_of_unknown_length_is_cut_at_the_limit(rigs: RigMaker) -> None:
    key = limited("limited", bytes_per_day=3_000)
    async with keyed(rigs, more=(key,)) as it, asking(it.rig.app, key) as app:
        chunk = b"%x\r\n%b\r\n" % (1_000, b" " * 1_000)
        head = (
            f"POST /rag/search HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key.text}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n"
        ).encode()
        status, text = await said(app, head + chunk * 2 + b"0\r\n\r\n")
        assert status == 400, text
        status, text = await said(app, head + chunk * 2)
        assert (status, b"too_many_bytes" in text) == (429, True)


async def said(app: RunningApp, data: bytes) -> tuple[int, bytes]:
    """Send bytes and return the status and the answer."""
    reader, writer = await connected(app)
    try:
        writer.write(data)
        line = await asyncio.wait_for(reader.readline(), WAIT_S)
        text = await asyncio.wait_for(reader.readuntil(b"request_id"), WAIT_S) if b"429" in line else b""
        return int(line.split()[1]), text
    finally:
        writer.close()


async def connected(app: RunningApp) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", URL(app.url).port)


async def test_a_place_is_held_to_the_end_of_a_stream(rigs: RigMaker) -> None:
    key = limited("limited", concurrent=1)
    async with keyed(rigs, more=(key,)) as it, asking(it.rig.app, key) as app:
        it.rig.generative.on(CHAT, stream(sse(["a"]), end="hang"), DEFAULT)
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
        async with app.session.post(app.url + CHAT, json=body) as response:
            assert response.headers["RateLimit-Limit"] == "1"
            await response.content.readany()
            async with app.session.get(app.url + MODELS) as refused:
                assert refused.status == 429
                assert refused.headers["Retry-After"] == "1"
                assert (await refused.json())["error"]["code"] == "too_many_concurrent_requests"
        await eventually(lambda: not held(app, key.id), "the place is given back")
        assert await statuses(app, 3) == [404] * 3


async def test_a_place_is_held_until_a_slow_reader_has_taken_the_answer(rigs: RigMaker) -> None:
    """The answer is whole and there at once, and larger than what fits between us."""
    key = limited("limited", concurrent=1)
    async with keyed(rigs, more=(key,)) as it, asking(it.rig.app, key) as app:
        reader, writer = await connected(app)
        results = [{"index": index, "relevance_score": 1.0} for index in range(4)]
        it.rig.reranking.on("/v1/rerank", json_reply({"model": "m", "results": results}))
        body = json.dumps({"query": "x", "documents": ["x" * 2_000_000] * 4, "return_documents": True}).encode()
        writer.write(
            f"POST /v1/rerank HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key.text}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        assert (await asyncio.wait_for(reader.readline(), WAIT_S)).split()[1] == b"200"
        assert held(app, key.id) == 1
        while held(app, key.id):
            assert await asyncio.wait_for(reader.read(65_536), WAIT_S)
        writer.close()
        assert await statuses(app, 1) == [404]


def held(app: RunningApp, key_id: str) -> int:
    """How many requests of a key are under way, by what the memory has counted."""
    store = app.runtime.limiter._store
    assert isinstance(store, MemoryStore)
    return store.under_way(f"key {key_id}")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/rag/query", "/rag/ingest"])
async def test_a_thousand_clients_that_vanish_leave_no_place_taken(rigs: RigMaker, path: str) -> None:
    """Before the body, in its middle, before the answer and in the middle of it: 1,008 over the three paths."""
    key = limited("limited", concurrent=4)
    async with (
        keyed(rigs, more=(key,), limits={"address": {"concurrent": 1_000}}) as it,
        asking(it.rig.app, key) as app,
    ):
        it.rig.generative.on(CHAT, stream(sse(["a"])[:2], end="hang"))
        it.rig.embedding.on(EMBEDDINGS, hang())
        body = json.dumps(
            {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
            if path == CHAT
            else {"query": "x", "stream": True}
            if path == "/rag/query"
            else {"documents": [{"text": "x"}]}
        ).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key.text}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        seen: Counter[str] = Counter()

        async def vanish(number: int) -> None:
            reader, writer = await connected(app)
            cut = (0, len(body) // 2, len(body), len(body))[number % 4]
            writer.write(head + body[:cut])
            await writer.drain()
            if number % 4 == 3:
                line = b""  # who is let in may get no answer as long as he stays
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.05 if seen["refused"] else 2.0):
                        line = await reader.readline()
                seen["refused" if b"429" in line else "let in"] += 1
            writer.transport.abort()

        for start in range(0, 336, 24):
            await asyncio.gather(*(vanish(start + number) for number in range(24)))
        assert seen["refused"], "so many were under way"
        assert seen["let in"], "and places were given back in between"
        await eventually(lambda: not held(app, key.id), "every place is given back")
        await eventually(lambda: not address_held(app), "every place of the address is given back")
        assert await statuses(app, 3) == [404] * 3


def address_held(app: RunningApp) -> int:
    store = app.runtime.limiter._store
    assert isinstance(store, MemoryStore)
    return store.under_way("address 127.0.0.1")


async def test_behind_a_trusted_proxy_each_caller_has_a_limit(rigs: RigMaker) -> None:
    limits = {"address": {"requests_per_s": SLOW, "burst": 2}}
    async with keyed(rigs, limits=limits, server={"trusted_proxies": ("127.0.0.0/8",)}) as it:
        for caller in ("203.0.113.1", "203.0.113.2", "2001:db8::1"):
            assert await from_(it.a, caller, 3) == [404, 404, 429]
        assert await from_(it.a, "2001:db8::2", 1) == [429]
        assert await from_(it.a, "7.7.7.7, 203.0.113.1", 1) == [429]


async def from_(app: RunningApp, address: str, count: int) -> list[int]:
    found = []
    for _ in range(count):
        async with app.session.get(app.url + MODELS, headers={"X-Forwarded-For": address}) as response:
            found.append(response.status)
    return found


async def test_without_trusted_proxies_nobody_can_give_himself_another_address(rigs: RigMaker) -> None:
    async with keyed(rigs, limits={"address": {"requests_per_s": SLOW, "burst": 2}}) as it:
        found = [(await from_(it.a, f"203.0.113.{number}", 1))[0] for number in range(4)]
        assert found == [404, 404, 429, 429]


async def test_the_keys_of_one_owner_share_their_limits(rigs: RigMaker) -> None:
    one, other = (
        Key(name, ("query",), ("*",), options={"owner": "team", "limits": {"requests_per_s": SLOW, "burst": 3}})
        for name in ("one", "other")
    )
    async with keyed(rigs, more=(one, other)) as it, asking(it.rig.app, one) as a, asking(it.rig.app, other) as b:
        assert await statuses(a, 2) + await statuses(b, 2) == [404, 404, 404, 429]


async def test_three_applications_with_one_redis_let_exactly_the_burst_through(
    rigs: RigMaker, redis_server: RedisServer
) -> None:
    key = limited("limited", requests_per_s=SLOW, burst=40, concurrent=1_000)
    shared = {"server": {"processes": 3}, "redis": {"url": redis_server.url, "timeout_s": 10.0}}
    async with AsyncExitStack() as stack:
        its = [await stack.enter_async_context(keyed(rigs, more=(key,), **shared)) for _ in range(3)]
        apps = [await stack.enter_async_context(asking(it.rig.app, key)) for it in its]
        found = await asyncio.gather(*(statuses(apps[number % 3], 1) for number in range(200)))
        assert Counter(status for one in found for status in one) == {404: 40, 429: 160}
        redis_server.kill()
        alone = [await statuses(app, 20) for app in apps]
        assert [Counter(one) for one in alone] == [{404: 13, 429: 7}] * 3
        assert [sample(app, "hartonomous_limits_counted_alone") for app in apps] == [1, 1, 1]
        await redis_server.start()
        await eventually(lambda: not any(sample(app, "hartonomous_limits_counted_alone") for app in apps), "it is back")
        found = await asyncio.gather(*(statuses(apps[number % 3], 1) for number in range(60)))
        assert Counter(status for one in found for status in one) == {404: 40, 429: 20}


@pytest.mark.parametrize(
    "limits",
    [
        {"address": {"requests_per_s": 5.0}},
        {"address": {"concurrent": 5}},
        {"key": {"tokens_per_minute": 5}},
        {"key": {"bytes_per_day": 5}},
    ],
)
def test_limits_over_several_processes_need_redis(make_config: ConfigMaker, limits: Any) -> None:
    several = {"server": {"processes": 2}}
    with pytest.raises(ValidationError, match=r"limits over several processes \(server\.processes\) need redis\.url"):
        make_config(limits=limits, **several)
    make_config(limits=limits)
    make_config(limits=limits, **several, redis={"url": "redis://127.0.0.1:1"})
    make_config(limits={"address": {"failed_authentications_per_minute": 5}}, **several)


async def test_several_processes_without_redis_share_the_wrong_keys(rigs: RigMaker) -> None:
    limits = {"address": {"failed_authentications_per_minute": 9}}
    async with keyed(rigs, limits=limits, server={"processes": 3}) as it, asking(it.rig.app, Key("nobody")) as wrong:
        assert await statuses(wrong, 5) == [401] * 3 + [429] * 2


async def test_without_keys_only_addresses_have_limits(rigs: RigMaker) -> None:
    limits = {"address": {"requests_per_s": SLOW, "burst": 3}, "key": {"requests_per_s": SLOW, "burst": 1}}
    async with rigs.make(limits=limits) as rig:
        assert await statuses(rig.app, 5) == [404] * 3 + [429] * 2


async def test_what_a_key_may_not_do_counts_against_its_limits(rigs: RigMaker) -> None:
    key = limited("limited", requests_per_s=SLOW, burst=2)
    async with keyed(rigs, more=(key,)) as it, asking(it.rig.app, key) as app:
        assert await statuses(app, 5, "/admin/logs") == [403, 403, 429, 429, 429]
        wrong = {"X-API-Key": Key("limited", secret="another").text}
        async with it.rig.app.session.get(app.url + "/admin/logs", headers=wrong) as response:
            assert response.status == 401


async def test_lines_over_what_is_left_end_the_stream_and_what_came_before_is_stored(rigs: RigMaker) -> None:
    key = limited("limited", bytes_per_day=20_000)
    async with keyed(rigs, more=(key,)) as it, asking(it.rig.app, key) as app:
        path = f"{app.url}/rag/ingest?collection={it.keys.a.collection}"
        told = asyncio.Event()

        async def lines() -> AsyncIterator[bytes]:
            yield b'{"id": "lime", "text": "A lime is green."}\n'
            await told.wait()
            for _ in range(100):
                yield b'{"text": "%b"}\n' % (b"x" * 1_000)

        headers = {"Content-Type": "application/x-ndjson"}
        async with app.session.post(path, data=lines(), headers=headers) as response:
            first = json.loads(await response.content.readline())
            assert (first["id"], first["status"]) == ("lime", "created")
            told.set()
            last = json.loads((await response.text()).splitlines()[-1])
            assert last["error"]["code"] == "too_many_bytes"


async def test_what_was_used_stays_used_when_the_limits_are_read_again(make_config: ConfigMaker) -> None:
    parts, metrics = Parts(), Metrics()
    async with AsyncExitStack() as stack:
        for burst, is_let_in in ((3, True), (1, False), (2, True), (2, False)):
            config = make_config(limits={"address": {"requests_per_s": SLOW, "burst": burst}})
            limiter = open_limiter(config, metrics, parts, stack)
            entering = limiter.enter("address 203.0.113.1", limiter.address, None)
            if is_let_in:
                await entering
            else:
                with pytest.raises(RateLimitedError):
                    await entering


async def test_the_log_tells_the_address_that_a_trusted_proxy_tells(rigs: RigMaker) -> None:
    text = io.StringIO()
    log.configure("INFO", text)
    try:
        async with keyed(rigs, server={"trusted_proxies": ("127.0.0.0/8",)}) as it:
            await from_(it.a, "6.6.6.6, 2001:DB8::7", 1)
    finally:
        log.logger.remove()
    told = [json.loads(line).get("remote") for line in text.getvalue().splitlines()]
    assert "2001:db8::7" in told
