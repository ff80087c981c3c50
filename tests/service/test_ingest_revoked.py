"""A stream of documents whose key loses the right to write while it goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.service.application import WAIT_S, merged
from tests.service.keyed import Key, keyed
from tests.service.ndjson import NDJSON, PATH, line
from tests.service.rag import RigMaker

CODES = {"key": "invalid_api_key", "scope": "scope_missing", "collection": "collection_denied"}


def _left(key: Key, lost: str) -> list[dict[str, Any]]:
    """What a reload leaves of a key's entry."""
    changes = {"scope": {"scopes": ("query",)}, "collection": {"collections": ("elsewhere",)}}
    return [] if lost == "key" else [key.entry | changes[lost]]


@pytest.mark.parametrize("sends_on", [True, False])
@pytest.mark.parametrize("lost", list(CODES))
async def test_a_stream_writes_nothing_more_when_a_reload_takes_the_right_to_it(
    rigs: RigMaker, tmp_path: Path, lost: str, sends_on: bool
) -> None:
    file = tmp_path / "config.yaml"
    async with keyed(rigs, file) as it:
        collection = it.keys.a.collection
        revoked = asyncio.Event()

        async def documents() -> AsyncIterator[bytes]:
            yield line("before")
            await revoked.wait()
            if sends_on:
                yield line("after") + line("later")
            await asyncio.Event().wait()

        path = f"{it.a.url}{PATH}?collection={collection}"
        async with asyncio.timeout(WAIT_S), it.a.session.post(path, data=documents(), headers=NDJSON) as response:
            first = json.loads(await response.content.readline())
            assert (first["id"], first["status"]) == ("before", "created")
            keys = [key.entry for key in it.keys if key is not it.keys.a] + _left(it.keys.a, lost)
            written = it.rig.config.model_dump(mode="json", exclude_none=True)
            auth = json.loads(json.dumps({"auth": it.keys.section(keys=keys)}))
            file.write_text(yaml.safe_dump(merged(written, auth)), encoding="utf-8")
            assert (await it.operator.post("/admin/config/reload", None))[0] == 200
            revoked.set()
            last = json.loads(await response.content.readline())
            assert (last["error"]["code"], last["counts"]["created"]) == (CODES[lost], 1)
        status, listed = await it.operator.get(f"/rag/collections/{collection}/documents")
        assert (status, [document["id"] for document in listed["documents"]]) == (200, ["before"])
