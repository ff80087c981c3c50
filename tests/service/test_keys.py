"""Who comes in with a key, and who does not."""

from __future__ import annotations

from tests.service.keyed import keyed
from tests.service.rag import RigMaker, ingest


async def test_a_tenant_reaches_its_own_collections_and_no_others(rigs: RigMaker) -> None:
    async with keyed(rigs) as it:
        for app, key in ((it.a, it.keys.a), (it.b, it.keys.b), (it.c, it.keys.c)):
            await ingest(app, "Limes are green.", collection=key.collection)
            status, answer = await app.post("/rag/search", {"query": "limes", "collection": key.collection})
            assert (status, len(answer["results"])) == (200, 1)
        assert (await it.rig.app.post("/rag/search", {"query": "limes"}))[0] == 401
