"""Limits of keys and addresses, asked over real sockets of the running application."""

from __future__ import annotations

from typing import Any

import pytest

from tests.service.application import RunningApp
from tests.service.keyed import Key, asking, keyed
from tests.service.rag import RigMaker, sample

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


@pytest.mark.parametrize("path", [MODELS, "/nowhere"])
async def test_an_address_has_its_burst_before_anybody_looks_for_a_key(rigs: RigMaker, path: str) -> None:
    limits = {"address": {"requests_per_s": SLOW, "burst": 3}}
    async with keyed(rigs, limits=limits) as it:
        assert await statuses(it.rig.app, 5, path) == [401] * 3 + [429] * 2
        assert await statuses(it.a, 1, path) == [429]
        assert await statuses(it.rig.app, 3, "/ready") != [429] * 3
