"""`rag:` models under LangChain and LlamaIndex, unchanged: `make clients` installs and runs them."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from tests.service.rag import CHAT, Rig, ingest, says

PYTHON = os.environ.get("HARTONOMOUS_TEST_CLIENTS")


@pytest.mark.skipif(PYTHON is None, reason="LangChain and LlamaIndex are not installed: make clients")
async def test_a_rag_model_answers_langchain_and_llamaindex_streamed_and_whole(rig: Rig) -> None:
    await ingest(rig.app, {"id": "flask", "text": "The flask holds two litres."})
    rig.generative.on(CHAT, says("The flask holds two litres. It is blue [7]."))
    script = Path(__file__).with_name("frameworks.py")
    model = f"rag:{rig.config.rag.default_collection}"
    process = await asyncio.create_subprocess_exec(
        str(PYTHON), str(script), rig.app.url, model, "What does the flask hold?", stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    answers = json.loads(output)
    expected = "The flask holds two litres [1]. It is blue."
    assert answers["langchain"] == {"whole": expected, "streamed": expected, "usage": 1}
    assert answers["llama_index"] == {"whole": expected, "streamed": expected, "completed": expected}
