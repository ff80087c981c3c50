"""The configuration is read again while the server serves: what changes, what stays, and what a request keeps."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from hartonomous import log
from hartonomous.core.kept import KeptRecord
from hartonomous.keys import RELOAD, STATE, TRAIL
from tests.redis import RedisServer
from tests.service import fault_backend as fault
from tests.service.application import eventually, merged
from tests.service.fault_backend import FaultBackend
from tests.service.keyed import Key, auth_section
from tests.service.rag import CHAT, EMBEDDINGS, Rig, RigMaker, check_answer, ingest, passed_on, sample, says

RELOADING = "/admin/config/reload"
LIME = {"query": "What does a lime weigh?", "rerank": False}
ANSWERS: dict[str, Any] = {"rag": {"cache": {"answers": {"enabled": True}}}}


class Reloads:
    """A rig, and the file that it is reloaded from."""

    def __init__(self, rig: Rig, file: Path) -> None:
        self.rig = rig
        self.file = file
        self.state = rig.app.app[STATE]
        self.written: dict[str, Any] = rig.config.model_dump(mode="json", exclude_none=True)
        self.write()

    def write(self, **changes: Any) -> None:
        """Put sections over what stands in the file."""
        self.written = merged(self.written, changes)
        self.file.write_text(yaml.safe_dump(self.written), encoding="utf-8")

    async def ask(self) -> tuple[int, Any]:
        """Ask for a reload; the answer is held against its description."""
        status, answer = await self.rig.app.post(RELOADING, None)
        check_answer(self.rig.app, "post", RELOADING, status, answer)
        return status, answer

    async def to(self, **changes: Any) -> list[str]:
        """Write changes and reload; return what is said to have changed, when nothing needs a restart."""
        self.write(**changes)
        status, answer = await self.ask()
        assert (status, answer["status"], answer["restart_required"]) == (200, "reloaded", []), answer
        changed: list[str] = answer["changed"]
        return changed

    def count(self, outcome: str) -> float:
        """How many reloads ended so."""
        return sample(self.rig.app, "hartonomous_config_reloads_total", outcome=outcome)

    async def alone(self) -> None:
        """Wait until no runtime of before is left."""
        await eventually(lambda: not self.state.retired, "the old runtime is closed")


@pytest.fixture
def reloads(rigs: RigMaker, tmp_path: Path) -> Callable[..., Any]:
    """A maker of rigs that can be reloaded."""

    @asynccontextmanager
    async def make(**changes: Any) -> AsyncIterator[Reloads]:
        file = tmp_path / "config.yaml"
        async with rigs.make(file, **changes) as rig:
            yield Reloads(rig, file)

    return make


@pytest.fixture
async def reloaded(reloads: Callable[..., Any]) -> AsyncIterator[Reloads]:
    """A rig that can be reloaded."""
    async with reloads() as made:
        yield made


def up(service: fault.FaultBackend) -> dict[str, Any]:
    return {"urls": [service.url]}


async def chat(rig: Rig, stream: bool = False) -> Any:
    return await rig.app.session.post(rig.app.url + CHAT, json={"messages": [], "stream": stream, "max_tokens": 1})


async def test_row_32_a_broken_file_leaves_the_old_configuration_serving(reloaded: Reloads) -> None:
    rig, before = reloaded.rig, reloaded.rig.app.runtime
    told: list[Any] = []
    sink = log.logger.add(lambda message: told.append(message.record), level="ERROR", diagnose=False)
    broken = [
        ("server:\n  prot: 1\n", "backends", "1: backends: this key is required"),
        ("backends: [\n", None, "not valid YAML"),
        (reloaded.file.read_text().replace("top_k: 5", "top_k: many"), "rag.retrieval.top_k", "rag.retrieval.top_k: "),
        (reloaded.file.read_text().replace("english", "klingon"), None, "unknown language 'klingon'"),
    ]
    try:
        for text, param, sentence in broken:
            reloaded.file.write_text(text, encoding="utf-8")
            status, answer = await reloaded.ask()
            error = answer["error"]
            assert (status, error["param"], error["code"]) == (422, param, "bad_configuration"), answer
            assert sentence in error["message"]
            assert rig.app.runtime is before
            assert sample(rig.app, "hartonomous_config_last_reload_successful") == 0
            assert (await chat(rig)).status == 200
    finally:
        log.logger.remove(sink)
    assert len([record for record in told if "the old one serves on" in record["message"]]) == len(broken)
    assert reloaded.count("failed") == len(broken)
    assert await reloaded.to(rag={"retrieval": {"top_k": 3}}) == ["rag.retrieval.top_k"]
    assert sample(rig.app, "hartonomous_config_last_reload_successful") == 1
    assert sample(rig.app, "hartonomous_config_last_reload_success_timestamp_seconds") > 1.7e9
    await reloaded.alone()


async def test_a_reload_tells_what_changed_and_new_requests_have_it(reloaded: Reloads) -> None:
    async with FaultBackend() as other:
        other.on(CHAT, fault.json_reply({"from": "the other"}))
        changed = await reloaded.to(
            backends={"generative": up(other)}, health={"ready": []}, server={"max_body_bytes": 2_000}
        )
        assert changed == ["backends.generative.urls", "health.ready", "server.max_body_bytes"]
        assert await (await chat(reloaded.rig)).json() == {"from": "the other"}
        status, _ = await reloaded.rig.app.post("/rag/search", {"query": "x" * 2_000})
        assert status == 413
        async with reloaded.rig.app.session.get(reloaded.rig.app.url + "/openapi.json") as response:
            assert "2000 bytes" in await response.text()
        await reloaded.alone()


async def test_a_reload_changes_how_many_records_of_the_log_and_of_the_trail_are_kept(reloaded: Reloads) -> None:
    kept = reloaded.rig.app.app[TRAIL].kept
    try:
        assert await reloaded.to(log={"kept_records": 100}) == ["log.kept_records"]
        for number in range(101):
            kept.append(KeptRecord(number, 0, None, "{}"))
            log.logger.warning("a record")
        assert (len(kept), len(log.kept)) == (100, 100)
    finally:
        log.configure("WARNING", io.StringIO())
    await reloaded.alone()


async def test_nothing_changed_makes_nothing_anew(reloaded: Reloads) -> None:
    before = reloaded.rig.app.runtime
    assert await reloaded.to() == []
    assert reloaded.rig.app.runtime is before
    assert (reloaded.count("unchanged"), reloaded.count("reloaded")) == (1, 0)


async def test_what_only_a_restart_changes_is_named_and_keeps_its_value(reloaded: Reloads) -> None:
    before = reloaded.rig.app.runtime.config.server
    reloaded.write(server={"port": 1, "admin": "127.0.0.1:1", "drain_s": 7.0})
    for changed in (["server.drain_s"], []):
        _, answer = await reloaded.ask()
        fixed = ["server.admin", "server.port"]
        assert answer == {"status": "reloaded", "changed": changed, "restart_required": fixed}
    server = reloaded.rig.app.runtime.config.server
    assert server == before.model_copy(update={"drain_s": 7.0})


async def test_what_did_not_change_is_kept_with_its_connections_and_what_is_known_of_it(reloaded: Reloads) -> None:
    before = reloaded.rig.app.runtime
    await before.monitor.first_round.wait()
    polls = len(reloaded.rig.generative.calls("/health"))
    await reloaded.to(rag={"retrieval": {"top_k": 3}}, backends={"reranking": {"concurrency": 3}})
    after = reloaded.rig.app.runtime
    assert {name for name in after.pools if after.pools[name] is not before.pools[name]} == {"reranking"}
    assert not after.monitor.missing()
    assert await reloaded.to(rag={"retrieval": {"top_k": 4}}) == ["rag.retrieval.top_k"]
    assert reloaded.rig.app.runtime.monitor is after.monitor
    assert len(reloaded.rig.generative.calls("/health")) == polls + 1
    await reloaded.alone()


async def test_a_stream_keeps_the_runtime_that_it_began_with(reloaded: Reloads) -> None:
    released, events = asyncio.Event(), fault.sse(["a", "b"])

    async def slow(exchange: fault.Exchange) -> None:
        await exchange.head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        await exchange.chunk(events[0])
        await released.wait()
        await exchange.chunk(b"".join(events[1:]))
        await exchange.raw(b"0\r\n\r\n")

    rig, old = reloaded.rig, reloaded.rig.app.runtime
    rig.generative.on(CHAT, slow)
    async with FaultBackend() as other, await chat(rig, stream=True) as streamed:
        assert await streamed.content.readexactly(len(events[0])) == events[0]
        await reloaded.to(backends={"generative": up(other)})
        assert [tenure.runtime for tenure in reloaded.state.retired] == [old]
        async with await chat(rig) as answer:
            assert answer.status == 200
        released.set()
        assert await streamed.read() == b"".join(events[1:])
        await reloaded.alone()
        assert len(other.calls(CHAT)) == len(rig.generative.calls(CHAT)) == 1
        await eventually(lambda: not rig.generative.open_connections, "the old connections are closed")


async def test_reloads_at_the_same_time_come_one_after_the_other(reloaded: Reloads) -> None:
    """The first one waits for a poll: the second, which need not, must not be overtaken by it at the end."""
    rig, released = reloaded.rig, asyncio.Event()
    interval_s = reloaded.written["health"]["interval_s"]
    assert rig.generative.upstream is not None
    rig.generative.on("/health", fault.after(passed_on(rig.generative.upstream), released))
    polls = len(rig.generative.calls("/health"))
    reloaded.write(health={"interval_s": 50.0}, rag={"retrieval": {"top_k": 3}})
    first = asyncio.create_task(reloaded.ask())
    await eventually(lambda: len(rig.generative.calls("/health")) > polls, "the new monitor polls")
    reloaded.write(health={"interval_s": interval_s}, rag={"retrieval": {"top_k": 4}})
    second = asyncio.create_task(reloaded.ask())
    await asyncio.wait({second}, timeout=0.2)
    released.set()
    assert [status for status, _ in await asyncio.gather(first, second)] == [200, 200]
    assert rig.app.runtime.config.rag.retrieval.top_k == 4
    await reloaded.alone()


async def test_a_reload_whose_caller_leaves_is_finished(reloaded: Reloads) -> None:
    before = reloaded.rig.app.runtime
    reloaded.rig.generative.on("/health", fault.hang())
    reloaded.write(health={"interval_s": 50.0})
    leaving = asyncio.create_task(reloaded.rig.app.app[RELOAD]())
    await eventually(lambda: len(reloaded.rig.generative.calls("/health")) > 1, "the new monitor polls")
    leaving.cancel()
    await asyncio.wait({leaving})
    assert leaving.cancelled()
    assert reloaded.rig.app.runtime is before
    assert (await chat(reloaded.rig)).status == 200
    reloaded.rig.generative.on("/health", fault.DEFAULT)
    await eventually(lambda: reloaded.rig.app.runtime is not before, "what was begun is done")
    assert reloaded.rig.app.runtime.config.health.interval_s == 50.0
    assert (await chat(reloaded.rig)).status == 200
    await reloaded.alone()


async def test_a_key_that_is_taken_opens_nothing_while_the_new_backends_are_polled(
    reloads: Callable[..., Any],
) -> None:
    stays, goes = Key("stays", ("query", "admin")), Key("goes", ("query",))
    async with reloads(auth=auth_section(stays, goes)) as made:
        made.rig.generative.on("/health", fault.hang())
        made.write(auth=auth_section(stays), health={"interval_s": 50.0})
        before = made.rig.app.runtime
        reloading = asyncio.create_task(made.rig.app.app[RELOAD]())
        await eventually(lambda: len(made.rig.generative.calls("/health")) > 1, "the new monitor polls")
        statuses = [(await made.rig.app.get("/v1/models", headers=key.headers))[0] for key in (stays, goes)]
        assert (statuses, made.rig.app.runtime is before) == ([200, 401], True)
        made.rig.generative.on("/health", fault.DEFAULT)
        await reloading
        assert [(await made.rig.app.get("/v1/models", headers=key.headers))[0] for key in (stays, goes)] == [200, 401]
        await made.alone()


async def test_a_key_that_changes_has_neither_more_nor_less_than_both_say_until_it_has_changed(
    reloads: Callable[..., Any],
) -> None:
    operator = Key("operator", ("query", "ingest", "admin"), ("*",))
    before, after = Key("other", ("query",), ("a", "b")), Key("other", ("query", "admin"), ("b*",))

    async def asks(rig: Rig) -> list[int]:
        searches = [
            (await rig.app.post("/rag/search", {"query": "x", "collection": name}, headers=after.headers))[0]
            for name in ("a", "b", "bc")
        ]
        return [*searches, (await rig.app.get("/admin/logs", headers=after.headers))[0]]

    async with reloads(auth=auth_section(operator, before)) as made:
        assert await asks(made.rig) == [404, 404, 403, 403]
        made.rig.generative.on("/health", fault.hang())
        made.write(auth=auth_section(operator, after), health={"interval_s": 50.0})
        reloading = asyncio.create_task(made.rig.app.app[RELOAD]())
        await eventually(lambda: len(made.rig.generative.calls("/health")) > 1, "the new monitor polls")
        assert await asks(made.rig) == [403, 404, 403, 403]
        made.rig.generative.on("/health", fault.DEFAULT)
        await reloading
        assert await asks(made.rig) == [403, 404, 404, 200]
        await made.alone()


async def test_a_changed_secret_is_read_again_and_never_shown(reloaded: Reloads, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("first-of-all\n")
    secret = {"api_key": f"file:{key}"}
    assert await reloaded.to(backends={"generative": secret}) == ["backends.generative.api_key"]
    key.write_text("canary-of-keys\n")
    status, answer = await reloaded.ask()
    assert (status, answer["changed"]) == (200, ["backends.generative.api_key"])
    assert (await chat(reloaded.rig)).status == 200
    assert reloaded.rig.generative.calls(CHAT)[-1].headers["Authorization"] == "Bearer canary-of-keys"
    key.write_text("canary of keys with blanks\n")
    status, answer = await reloaded.ask()
    assert (status, answer["error"]["param"]) == (422, "backends.generative.api_key")
    assert "canary" not in str(answer)


async def test_a_changed_prompt_file_counts_as_a_change(reloads: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "prompt.yaml"
    file.write_text("system: Be brief.\n")
    async with reloads(rag={"generation": {"template": file}}) as made:
        made.write(rag={"generation": {"template": str(file)}})
        assert await made.to() == []
        file.write_text("system: Be long.\n")
        assert await made.to() == ["rag.generation.template"]
        file.write_text("sistem: Be long.\n")
        assert (await made.ask())[0] == 422


async def cached(rig: Rig) -> str:
    """Ask; return whether the answer was kept, and from which text it is."""
    rig.generative.on(CHAT, says("A lime weighs something."))
    async with rig.app.session.post(rig.app.url + "/rag/query", json=LIME) as response:
        answer = await response.json()
        assert response.status == 200, answer
        text = answer["sources"][0]["text"]
        return f"{response.headers.get('X-Hartonomous-Cache')}: {'old' if '67' in text else 'new'}"


@pytest.mark.parametrize(
    ("first", "change"),
    [
        pytest.param(ANSWERS, {"rag": {"ingest": {"share_beside_queries": 0.5}}}, id="an ingestor of its own"),
        pytest.param(ANSWERS, {"rag": {"cache": {"answers": {"ttl_s": 60.0}}}}, id="a cache of its own"),
        pytest.param(ANSWERS, {"backends": {"qdrant": {"concurrency": 7}}}, id="a store client of its own"),
        pytest.param({}, ANSWERS, id="no cache before"),
    ],
)
async def test_an_ingest_from_before_the_reload_leaves_no_stale_answer_after_it(
    reloads: Callable[..., Any], first: dict[str, Any], change: dict[str, Any]
) -> None:
    await _change_across_a_reload(reloads, first, change)


async def test_an_ingest_from_before_the_reload_reaches_the_answers_in_redis(
    reloads: Callable[..., Any], redis_server: RedisServer
) -> None:
    await _change_across_a_reload(reloads, ANSWERS, {"redis": {"url": redis_server.url}})


async def _change_across_a_reload(reloads: Callable[..., Any], first: dict[str, Any], change: dict[str, Any]) -> None:
    async with reloads(**first) as made:
        rig = made.rig
        await ingest(rig.app, {"id": "lime", "text": "Limes are green. A lime weighs 67 grams."})
        released = asyncio.Event()
        assert rig.embedding.upstream is not None
        forward = passed_on(rig.embedding.upstream)
        rig.embedding.on(EMBEDDINGS, fault.after(forward, released), forward)
        asked = len(rig.embedding.calls(EMBEDDINGS))
        # As many points as before: the count alone would not show it.
        again = {"id": "lime", "text": "Limes are green. A lime weighs 89 grams."}
        changing = asyncio.create_task(ingest(rig.app, again))
        await eventually(lambda: len(rig.embedding.calls(EMBEDDINGS)) > asked, "the text is embedded")
        assert await made.to(**change)
        assert [await cached(rig), await cached(rig)] == ["miss: old", "hit: old"]
        released.set()
        await changing
        assert [await cached(rig), await cached(rig)] == ["miss: new", "hit: new"]
        await made.alone()


async def test_what_changed_while_no_answers_were_kept_is_new_when_they_are_again(
    reloads: Callable[..., Any], redis_server: RedisServer
) -> None:
    async with reloads(**ANSWERS, redis={"url": redis_server.url}) as made:
        await ingest(made.rig.app, {"id": "lime", "text": "A lime weighs 67 grams."})
        assert [await cached(made.rig), await cached(made.rig)] == ["miss: old", "hit: old"]
        await made.to(rag={"cache": {"answers": {"enabled": False}}})
        await ingest(made.rig.app, {"id": "lime", "text": "A lime weighs 89 grams."})
        await made.to(**ANSWERS)
        assert [await cached(made.rig), await cached(made.rig)] == ["miss: new", "hit: new"]


async def test_a_reload_that_fails_leaves_the_metrics_to_what_serves_on(reloaded: Reloads, tmp_path: Path) -> None:
    """Another pool of the embedding service was made for it and thrown away, with a circuit of its own."""
    rig, broken = reloaded.rig, tmp_path / "tokenizer.json"
    broken.write_text("{}")
    rig.embedding.on(EMBEDDINGS, fault.reply(500, b"{}"))
    await eventually(lambda: rig.app.runtime.pools["embedding"].addresses.standing == "up", "it is up")
    for number in range(5):
        await rig.app.post("/v1/embeddings", {"input": f"lime {number}"})
    state = {"service": "embedding", "address": rig.embedding.url}
    assert sample(rig.app, "hartonomous_breaker_state", **state) == 2
    reloaded.write(backends={"embedding": {"tokenizer": str(broken)}})
    assert (await reloaded.ask())[0] == 422
    assert sample(rig.app, "hartonomous_breaker_state", **state) == 2


async def test_kept_answers_outlive_a_reload_that_does_not_touch_them(reloads: Callable[..., Any]) -> None:
    async with reloads(**ANSWERS) as made:
        await ingest(made.rig.app, {"id": "lime", "text": "A lime weighs 67 grams."})
        assert await cached(made.rig) == "miss: old"
        await made.to(health={"interval_s": 50.0})
        assert await cached(made.rig) == "hit: old"
        await made.to(rag={"retrieval": {"top_k": 3}})
        assert await cached(made.rig) == "miss: old"


async def test_another_model_service_begins_without_answers(reloads: Callable[..., Any]) -> None:
    """Even if it says that its model has the same name."""
    async with reloads(**ANSWERS) as made, FaultBackend(upstream=made.rig.generative.upstream) as other:
        await ingest(made.rig.app, {"id": "lime", "text": "A lime weighs 67 grams."})
        assert [await cached(made.rig), await cached(made.rig)] == ["miss: old", "hit: old"]
        other.on(CHAT, says("A lime weighs nothing."))
        await made.to(backends={"generative": up(other)})
        assert await cached(made.rig) == "miss: old"


async def test_another_store_begins_without_answers(reloads: Callable[..., Any]) -> None:
    await _another_store(reloads)


async def test_another_store_begins_without_the_answers_in_redis(
    reloads: Callable[..., Any], redis_server: RedisServer
) -> None:
    await _another_store(reloads, redis={"url": redis_server.url})


async def _another_store(reloads: Callable[..., Any], **shared: Any) -> None:
    async with reloads(**ANSWERS, **shared) as made:
        await ingest(made.rig.app, {"id": "lime", "text": "A lime weighs 67 grams."})
        assert [await cached(made.rig), await cached(made.rig)] == ["miss: old", "hit: old"]
        async with FaultBackend(upstream=made.rig.qdrant.upstream) as other:
            await made.to(backends={"qdrant": {"url": other.url}})
            assert [await cached(made.rig), await cached(made.rig)] == ["miss: old", "hit: old"]
            await made.alone()


async def test_a_server_without_a_file_says_so(rigs: RigMaker) -> None:
    async with rigs.make() as rig:
        status, answer = await rig.app.post(RELOADING, None)
        assert (status, answer["error"]["code"]) == (422, "bad_configuration")
