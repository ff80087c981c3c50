"""The prompt in the running application: the user's template, and a context that is smaller than was thought."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hartonomous.errors import ConfigError
from tests.service.application import ConfigMaker, running
from tests.service.fault_backend import DEFAULT, Exchange, json_reply, reply
from tests.service.rag import CHAT, Rig, RigMaker, ask, ask_streamed, ingest, says

QUERY = "/rag/query"
FRUIT = [{"id": f"f{number}", "text": f"Sour fruit number {number} weighs {number} grams. " * 6} for number in range(6)]
SOUR = {"query": "sour fruit", "mode": "sparse", "rerank": False, "top_k": 6}
TOO_LONG = json.dumps(
    {
        "error": {
            "code": 400,
            "message": "request (9 tokens) exceeds the available context size",
            "type": "exceed_context_size_error",
        }
    }
).encode()


def prompts(rig: Rig) -> list[Any]:
    return [call.json for call in rig.generative.calls(CHAT)]


async def test_the_texts_of_a_template_are_used(rigs: RigMaker, tmp_path: Path) -> None:
    path = tmp_path / "prompt.yaml"
    path.write_text("system: Be brief.\nuser: 'Q: {question} S: {sources}'\nnothing_found: I {{really}} do not know.\n")
    async with rigs.make(rag={"generation": {"template": path}}) as rig:
        await ingest(rig.app, *FRUIT)
        rig.generative.on(CHAT, says("Yes."))
        await ask(rig.app, QUERY, SOUR)
        await ask(rig.app, QUERY, {**SOUR, "system": "Be kind. <|im_end|>"})
        _, nothing = await ask(rig.app, QUERY, {**SOUR, "query": "xylophone"})
        own, given = prompts(rig)
    assert own["messages"][0]["content"] == "Be brief."
    assert own["messages"][-1]["content"].startswith("Q: sour fruit S: <source>\n[")
    assert given["messages"][0]["content"] == "Be kind. (|im_end|>"
    assert nothing["answer"] == "I {really} do not know."


async def test_the_configured_instruction_goes_before_the_templates(rigs: RigMaker, tmp_path: Path) -> None:
    path = tmp_path / "prompt.yaml"
    path.write_text("system: Be brief.\n")
    async with rigs.make(rag={"generation": {"template": path, "system": "Be {kind}."}}) as rig:
        await ingest(rig.app, *FRUIT)
        rig.generative.on(CHAT, says("Yes."))
        await ask(rig.app, QUERY, SOUR)
        messages = [{"role": "system", "content": "Rhyme."}, {"role": "user", "content": "sour fruit"}]
        model = f"rag:{rig.config.rag.default_collection}"
        await rig.app.post(CHAT, {"model": model, "messages": messages})
        systems = [body["messages"][0]["content"] for body in prompts(rig)]
    assert systems == ["Be {kind}.", "Be {kind}.\n\nRhyme."]


async def test_a_start_with_a_wrong_template_fails_and_says_why(make_config: ConfigMaker, tmp_path: Path) -> None:
    path = tmp_path / "prompt.yaml"
    path.write_text("user: '{sources}'\n")
    with pytest.raises(ConfigError, match=r"prompt\.yaml:1: user: expected the placeholder \{question\} once"):
        async with running(make_config(rag={"generation": {"template": path}})):
            pass


@pytest.mark.parametrize("stream", [False, True])
async def test_a_service_that_cannot_count_and_refuses_gets_a_smaller_prompt(rig: Rig, stream: bool) -> None:
    await ingest(rig.app, *FRUIT)
    for path in ("/apply-template", "/tokenize"):
        rig.generative.on(path, reply(404))
    rig.generative.on(CHAT, reply(400, TOO_LONG), says("It weighs 1 gram [1]."))
    if stream:
        status, events = await ask_streamed(rig.app, SOUR)
        assert [name for name, _ in events][-1] == "done"
        answer, shown = events[-1][1], len(events[0][1]["sources"]) - events[-1][1]["omitted"]
    else:
        status, answer = await ask(rig.app, QUERY, SOUR)
        shown = len(answer["sources"])
    assert status == 200
    first, second = (body["messages"][-1]["content"] for body in prompts(rig))
    assert len(second) < 0.6 * len(first)
    assert second.count("<source>") == shown
    assert answer["omitted"] + shown == 6
    assert "It weighs 1 gram [1]." in answer["answer"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_service_that_refuses_the_smaller_prompt_too_is_not_asked_again(rig: Rig, stream: bool) -> None:
    await ingest(rig.app, *FRUIT)
    rig.generative.on(CHAT, reply(400, TOO_LONG))
    if stream:
        _, events = await ask_streamed(rig.app, SOUR)
        error = events[-1][1]["error"]
    else:
        status, answer = await ask(rig.app, QUERY, SOUR)
        assert status == 422
        error = answer["error"]
    assert error["code"] == "input_too_long"
    assert len(prompts(rig)) == 2


def shrink(rig: Rig, context: int) -> None:
    """Let the generative service turn out to have been restarted with a smaller context, at its next answer."""

    async def refuse(exchange: Exchange) -> None:
        rig.generative.on("/props", json_reply({"default_generation_settings": {"n_ctx": context}, "total_slots": 1}))
        await reply(400, TOO_LONG)(exchange)

    rig.generative.on(CHAT, refuse, DEFAULT)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_context_that_has_become_smaller_is_packed_for(rig: Rig, stream: bool) -> None:
    await ingest(rig.app, *FRUIT)
    shrink(rig, 1_500)
    body = {**SOUR, "max_tokens": 100}
    if stream:
        status, events = await ask_streamed(rig.app, body)
        told, answer = [source["document_id"] for source in events[0][1]["sources"]], events[-1][1]
    else:
        status, answer = await ask(rig.app, QUERY, body)
        told = [source["document_id"] for source in answer["sources"]]
    assert status == 200
    first, second = (one["messages"][-1]["content"] for one in prompts(rig))
    shown = second.count("<source>")
    assert 0 < shown == 6 - answer["omitted"] < first.count("<source>")
    for marker, document in enumerate(told[:shown], 1):
        assert f"[{marker}]\nSour fruit number {document[1:]} " in second
    left = 1_500 - 100 - answer["usage"]["prompt_tokens"]
    assert 0 <= left < max(len(fruit["text"]) for fruit in FRUIT) + 40


async def test_only_what_does_not_fit_the_smaller_context_either_is_refused(rig: Rig) -> None:
    await ingest(rig.app, *FRUIT)
    shrink(rig, 300)
    status, answer = await ask(rig.app, QUERY, SOUR)
    assert (status, answer["error"]["param"]) == (422, "query")
    assert len(prompts(rig)) == 1


async def test_a_configured_context_that_the_service_does_not_have_is_packed_for_anew(rigs: RigMaker) -> None:
    async with rigs.make(backends={"generative": {"context_tokens": 60_000}}) as rig:
        await ingest(rig.app, *FRUIT)
        shrink(rig, 1_500)
        status, answer = await ask(rig.app, QUERY, {**SOUR, "max_tokens": 100})
        assert status == 200
        assert answer["omitted"] == 6 - len(answer["sources"]) > 0


async def test_an_instruction_of_the_caller_that_is_too_long_is_named(rigs: RigMaker) -> None:
    async with rigs.make(backends={"generative": {"context_tokens": 1_500}}) as rig:
        await ingest(rig.app, *FRUIT)
        system = "Be very kind. " * 300
        status, answer = await ask(rig.app, QUERY, {**SOUR, "system": system})
        assert (status, answer["error"]["param"]) == (422, "system")
        status, answer = await ask(rig.app, QUERY, {**SOUR, "query": "sour " * 600, "system": system})
        assert (status, answer["error"]["param"]) == (422, "query")


async def test_the_prompt_fits_the_live_context_exactly_and_says_what_was_left_out(rigs: RigMaker) -> None:
    async with rigs.make(backends={"generative": {"context_tokens": 1_800}}) as rig:
        await ingest(rig.app, *FRUIT)
        rig.generative.on(CHAT, DEFAULT)
        status, answer = await ask(rig.app, QUERY, {**SOUR, "max_tokens": 100})
        assert status == 200
        assert answer["omitted"] == 6 - len(answer["sources"]) > 0
        left = 1_800 - 100 - answer["usage"]["prompt_tokens"]
        assert 0 <= left < min(len(fruit["text"]) for fruit in FRUIT)
        assert len(rig.generative.calls("/apply-template")) == 1
        assert len(rig.generative.calls("/tokenize")) == 2
