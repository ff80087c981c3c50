"""A service that has no list of models, as text-embeddings-inference: its name is given, its width is found out."""

from __future__ import annotations

import pytest

from hartonomous.clients import models
from tests.service import fault_backend as fault
from tests.service.application import ConfigMaker, running
from tests.service.fault_backend import FaultBackend

DOCUMENTS = {"documents": [{"id": "a", "text": "The pump weighs 3 kg."}]}
QUESTION = {"query": "What does the pump weigh?"}


def _without_lists(backend: FaultBackend, status: int) -> None:
    for path in ("/v1/models", "/props"):
        backend.on(path, fault.json_reply({"error": "no such path"}, status))


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_service_without_a_list_of_models_is_used_under_the_name_that_is_given(
    make_config: ConfigMaker, faulty: FaultBackend, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_TTL_S", 0.0)  # asked again each time
    _without_lists(faulty, status)
    config = make_config(backends={"embedding": {"urls": (faulty.url,), "model": "given"}})
    async with running(config) as app:
        assert (await app.post("/rag/ingest", DOCUMENTS))[0] == 200
        before = len(faulty.calls("/v1/embeddings"))
        answers = [await app.post("/rag/search", {**QUESTION, "mode": "dense"}) for _ in range(3)]
        assert [status for status, _ in answers] == [200] * 3
        assert [answer["results"][0]["document_id"] for _, answer in answers] == ["a"] * 3
        assert len(faulty.calls("/v1/embeddings")) == before + 1  # the question; the width is known


async def test_without_a_name_such_a_service_is_told_of(make_config: ConfigMaker, faulty: FaultBackend) -> None:
    _without_lists(faulty, 404)
    async with running(make_config(backends={"embedding": {"urls": (faulty.url,)}})) as app:
        status, answer = await app.post("/rag/ingest", DOCUMENTS)
    assert status == 502
    assert "embedding" in answer["error"]["message"]
