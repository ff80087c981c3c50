"""The commands that work on the backends, as processes of their own, and what a collection holds past all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from hartonomous.config import Config
from tests.forked import PIPE, Forked, hartonomous


@dataclass(slots=True, frozen=True)
class Ended:
    """A command that has ended."""

    status: int
    out: str
    err: str


class Commands:
    """Runs `hartonomous COMMAND … --config` with one configuration."""

    def __init__(self, config: Config, folder: Path) -> None:
        self._file = folder / "hartonomous.yaml"
        self._file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))

    async def start(self, *arguments: object) -> Forked:
        """Start a command, its standard streams being pipes."""
        return await hartonomous(*arguments, "--config", self._file, stdin=PIPE, stdout=PIPE, stderr=PIPE)

    async def run(self, *arguments: object, stdin: bytes = b"") -> Ended:
        """Run a command to its end."""
        process = await self.start(*arguments)
        out, err = await process.communicate(stdin)
        assert process.returncode is not None
        return Ended(process.returncode, out.decode(), err.decode())

    async def do(self, *arguments: object, stdin: bytes = b"") -> str:
        """Run a command that must succeed; return what it printed on standard output."""
        ended = await self.run(*arguments, stdin=stdin)
        assert ended.status == 0, ended
        return ended.out


class Points:
    """The points of a vector store, past all clients."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request and return the result."""
        async with aiohttp.ClientSession() as session, session.request(method, self._url + path, json=body) as response:
            return (await response.json())["result"]

    async def all(self, collection: str, but: Sequence[str] = ("sequence", "updated_at")) -> dict[str, Any]:
        """Return all points, unseen ones included, with their vectors and without some fields of their payload."""
        body: dict[str, Any] = {"limit": 1_000, "with_payload": True, "with_vector": True}
        found = {}
        while True:
            page = await self.ask("POST", f"/collections/{collection}/points/scroll", body)
            for point in page["points"]:
                payload = {key: value for key, value in point["payload"].items() if key not in but}
                found[point["id"]] = {"vector": point["vector"], "payload": payload}
            body["offset"] = page["next_page_offset"]
            if body["offset"] is None:
                return found

    async def physical(self, collection: str) -> list[str]:
        """Return the physical collections of one."""
        names = [entry["name"] for entry in (await self.ask("GET", "/collections"))["collections"]]
        return sorted(name for name in names if name.partition("@")[0] == collection)

    async def behind(self, collection: str) -> str:
        """Return what an alias stands for."""
        aliases = (await self.ask("GET", "/aliases"))["aliases"]
        return {alias["alias_name"]: str(alias["collection_name"]) for alias in aliases}[collection]

    async def mark(self, name: str) -> dict[str, Any]:
        """Return what Hartonomous wrote about a collection."""
        mark: dict[str, Any] = (await self.ask("GET", f"/collections/{name}"))["config"]["metadata"]["hartonomous"]
        return mark
