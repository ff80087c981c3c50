"""Keys on a server of its own: a list in a file, servers that lose their keys, and secrets that nobody gets to see."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import yaml

from hartonomous.core import apikey
from tests.service.application import eventually, merged
from tests.service.fault_backend import FaultBackend
from tests.service.ingest_cli import Cli
from tests.service.keyed import PEPPER, Key, auth_section, keyed
from tests.service.rag import CHAT, RigMaker
from tests.service.serving import Served, backends, serving

OPERATOR = Key("operator", ("admin", "metrics", "query", "ingest"), ("*",))
TENANT = Key("tenant", ("query",), ("docs",))
WRONG = Key("tenant", secret="of somebody who guesses")
LOCKED = "the last key is gone: nobody comes in before there are keys again, or a restart"
NO_KEYS = "there are no keys: only this host is served, without any proxy"


def _write(folder: Path, *keys: Key, name: str = "keys.yaml") -> None:
    listed = [key.entry | {"scopes": list(key.scopes), "collections": list(key.collections)} for key in keys]
    made = folder / "next.yaml"
    made.write_text(yaml.safe_dump(listed), encoding="utf-8")
    made.replace(folder / name)


@asynccontextmanager
async def _listed(folder: Path, faulty: FaultBackend, *keys: Key) -> AsyncIterator[Served]:
    """A server whose keys stand in a file of their own."""
    _write(folder, *keys)
    (folder / "pepper").write_text(f"{PEPPER}\n", encoding="utf-8")
    auth = {"pepper": f"file:{folder}/pepper", "keys": f"file:{folder}/keys.yaml"}
    async with serving(folder, backends=backends(faulty.url), auth=auth) as served:
        yield served


async def _status(served: Served, key: Key | None, method: str = "GET", path: str = "/v1/models") -> int:
    headers = {} if key is None else key.headers
    async with aiohttp.request(method, served.url + path, headers=headers) as response:
        await response.read()
        return response.status


async def _reload(served: Served) -> tuple[int, Any]:
    async with aiohttp.request("POST", served.url + "/admin/config/reload", headers=OPERATOR.headers) as response:
        return response.status, await response.json()


async def test_keys_in_a_file_of_their_own_come_and_go_with_a_reload(tmp_path: Path, faulty: FaultBackend) -> None:
    async with _listed(tmp_path, faulty, OPERATOR) as served:
        assert [await _status(served, key) for key in (OPERATOR, TENANT)] == [200, 401]
        _write(tmp_path, OPERATOR, TENANT)
        assert (await _reload(served))[1]["changed"] == ["auth.keys"]
        assert [await _status(served, key) for key in (OPERATOR, TENANT)] == [200, 200]
        assert (await _reload(served))[1]["changed"] == []
        _write(tmp_path, OPERATOR)
        assert (await _reload(served))[1]["changed"] == ["auth.keys"]
        assert [await _status(served, key) for key in (OPERATOR, TENANT)] == [200, 401]


async def test_a_broken_file_of_keys_leaves_the_old_keys_serving(tmp_path: Path, faulty: FaultBackend) -> None:
    async with _listed(tmp_path, faulty, OPERATOR, TENANT) as served:
        for text in ("- {id: x", "", "- {id: tenant, hash: nonsense}", None):
            if text is None:
                (tmp_path / "keys.yaml").unlink()
            else:
                (tmp_path / "keys.yaml").write_text(text, encoding="utf-8")
            status, answer = await _reload(served)
            assert (status, answer["error"]["type"]) == (422, "invalid_request_error")
            assert [await _status(served, key) for key in (OPERATOR, TENANT, WRONG)] == [200, 200, 401]
        _write(tmp_path, OPERATOR)
        (tmp_path / "pepper").write_text("another-pepper-of-tests", encoding="utf-8")
        assert (await _reload(served))[1]["changed"] == ["auth.keys", "auth.pepper"]
        assert await _status(served, OPERATOR) == 401  # its hash is of another pepper


async def test_who_takes_the_last_key_away_locks_everybody_out_and_lets_nobody_in(
    tmp_path: Path, faulty: FaultBackend
) -> None:
    async with _listed(tmp_path, faulty, OPERATOR) as served:
        (tmp_path / "keys.yaml").write_text("[]", encoding="utf-8")
        assert (await _reload(served))[0] == 200
        assert (served.told(NO_KEYS), served.told(LOCKED)) == (0, 1)
        assert [await _status(served, key) for key in (None, OPERATOR)] == [401, 401]
        _write(tmp_path, OPERATOR)
        served.process.send_signal(signal.SIGHUP)
        await eventually(lambda: served.told("the configuration was read again") == 2, "the keys are back")
        assert await _status(served, OPERATOR) == 200
        assert await _status(served, None) == 401


async def test_a_server_without_keys_says_so_at_start(tmp_path: Path, faulty: FaultBackend) -> None:
    async with serving(tmp_path, backends=backends(faulty.url)) as served:
        assert served.told(NO_KEYS) == 1
        assert next(line for line in served.lines if line["message"] == NO_KEYS)["level"] == "WARNING"


async def test_with_keys_another_address_than_loopback_is_served(tmp_path: Path, faulty: FaultBackend) -> None:
    sections: dict[str, Any] = {"auth": auth_section(OPERATOR), "server": {"host": "0.0.0.0"}}
    async with serving(tmp_path, backends=backends(faulty.url), **sections) as served:
        assert [await _status(served, OPERATOR), await _status(served, None)] == [200, 401]


async def test_openais_client_comes_in_with_its_key(rigs: RigMaker) -> None:
    async with rigs.make(auth=auth_section(TENANT)) as rig:
        url = f"{rig.app.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key=TENANT.text, max_retries=0) as client:
            assert (await client.models.list()).data
        async with openai.AsyncOpenAI(base_url=url, api_key=WRONG.text, max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()


async def test_hartonomous_ingest_comes_in_with_its_key_and_says_so_when_it_does_not(
    rigs: RigMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.txt").write_text(f"Lime {number} is green. " * 20, encoding="utf-8")
    async with keyed(rigs) as it:
        command, collection = Cli(it.rig.app.url, capsys), it.keys.a.collection
        for key, says in (
            (None, "A valid API key is required."),
            (WRONG, "A valid API key is required."),
            (it.keys.b, "The key does not reach this collection."),
            (it.keys.metrics, "The key lacks the scope 'ingest'."),
        ):
            monkeypatch.setenv("HARTONOMOUS_API_KEY", "" if key is None else key.text)
            ended = await command("--collection", collection, folder)
            assert (ended.status, ended.err) == (1, f"{says}\n")
        monkeypatch.setenv("HARTONOMOUS_API_KEY", it.keys.a.text)
        ended = await command("--collection", collection, "--prune", folder)
        assert ended.status == 0, ended
        assert "20 created" in ended.summary


async def test_no_key_no_pepper_and_no_hash_is_seen_anywhere(tmp_path: Path, faulty: FaultBackend) -> None:
    """Not in the log at its most talkative, in no answer, in no metric, and no backend gets one."""
    sections: dict[str, Any] = {"auth": auth_section(OPERATOR, TENANT), "log": {"level": "DEBUG"}}
    sections["backends"] = backends(faulty.url)
    seen = []
    async with serving(tmp_path, **sections) as served:
        for key in (OPERATOR, TENANT, WRONG):
            for headers in (key.headers, {"X-API-Key": key.text}, {"Cookie": key.text, "X-Request-ID": f"!{key.text}"}):
                seen += [await _seen(served, method, path, headers) for method, path in _paths(key)]
        broken = merged(sections, {"auth": {"keys": [OPERATOR.entry | {"hash": f"{TENANT.entry['hash']} "}]}})
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(broken), encoding="utf-8")
        seen.append(await _seen(served, "POST", "/admin/config/reload", OPERATOR.headers))
        assert '"auth.keys.0.hash"' in seen[-1]
        served.process.send_signal(signal.SIGHUP)
        await eventually(lambda: served.told("the configuration is wrong: the old one serves on") == 2, "the complaint")
        seen.append(served.log.read_text(encoding="utf-8"))
        seen.append(repr(faulty.requests))
    secrets = {PEPPER, os.fsencode(PEPPER).hex()}
    for key in (OPERATOR, TENANT, WRONG):
        secrets |= {key.text, key.text.rpartition("_")[2], key.entry["hash"].removeprefix("hmac-sha256:")}
        secrets.add(apikey.digest(key.text, PEPPER.encode()).hex())
    assert not [text[:200] for text in seen if any(secret in text for secret in secrets)]


def _paths(key: Key) -> list[tuple[str, str]]:
    query = f"?api_key={key.text}&access_token={key.text}"
    return [
        ("GET", f"/v1/models{query}"),
        ("GET", f"/v1/models/{key.text}"),
        ("GET", f"/{key.text}{query}"),
        ("GET", "/metrics"),
        ("DELETE", f"/health{query}"),
        ("POST", f"/rag/search{query}"),
        ("POST", CHAT),
    ]


async def _seen(served: Served, method: str, path: str, headers: dict[str, str]) -> str:
    """Return all of an answer."""
    body: Any = {"messages": []} if method == "POST" else None
    async with aiohttp.request(method, served.url + path, headers=headers, json=body) as response:
        return f"{response.status} {response.headers} {await response.text()}"
