"""A web page of some origin: what the Fetch standard (fetch.spec.whatwg.org) lets its script send and read.

The steps are those of a request with mode "cors" and credentials mode "same-origin": CORS-preflight fetch (4.8), CORS
check (4.9), CORS filtered response (2.2.6). Keys are headers that the script sets, so nothing is sent that it did not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from multidict import CIMultiDict

_SAFE_METHODS = frozenset(("GET", "HEAD", "POST"))
_SAFE_REQUEST_HEADERS = frozenset(("accept", "accept-language", "content-language", "range"))
_SAFE_TYPES = frozenset(("application/x-www-form-urlencoded", "multipart/form-data", "text/plain"))
_SAFE_RESPONSE_HEADERS = frozenset(
    ("cache-control", "content-language", "content-length", "content-type", "expires", "last-modified", "pragma")
)


class NetworkError(Exception):
    """What a script sees of an answer that it may not read; `preflight` tells whether the request was never sent."""

    def __init__(self, why: str, *, preflight: bool) -> None:
        super().__init__(why)
        self.preflight = preflight


@dataclass(slots=True)
class Seen:
    """What a script may read of an answer."""

    status: int
    headers: CIMultiDict[str]
    body: bytes


@dataclass(slots=True)
class Page:
    """A page; `preflights` counts what its browser asked before."""

    session: aiohttp.ClientSession
    url: str
    origin: str
    private_network: bool = False
    preflights: list[int] = field(default_factory=list)

    async def fetch(
        self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None, data: Any = None
    ) -> Seen:
        """Do what `fetch(url, {method, headers, body})` does. Raises NetworkError."""
        sent = CIMultiDict(headers or {})
        unsafe = sorted({name.lower() for name, value in sent.items() if not _is_safe(name, value)})
        if method not in _SAFE_METHODS or unsafe:
            await self._preflight(path, method, unsafe)
        sent["Origin"] = self.origin
        sent["Sec-Fetch-Site"], sent["Sec-Fetch-Mode"] = "cross-site", "cors"
        async with self.session.request(method, self.url + path, headers=sent, data=data) as response:
            if not self._passes(response):
                raise NetworkError("CORS check", preflight=False)
            exposed = _SAFE_RESPONSE_HEADERS | set(_list(response, "Access-Control-Expose-Headers"))
            headers_seen = [(name, value) for name, value in response.headers.items() if name.lower() in exposed]
            return Seen(response.status, CIMultiDict(headers_seen), await response.read())

    async def _preflight(self, path: str, method: str, names: list[str]) -> None:
        headers = {
            "Accept": "*/*",
            "Origin": self.origin,
            "Access-Control-Request-Method": method,
            "Sec-Fetch-Site": "cross-site",
            "Sec-Fetch-Mode": "cors",
        }
        if names:
            headers["Access-Control-Request-Headers"] = ",".join(names)
        if self.private_network:
            headers["Access-Control-Request-Private-Network"] = "true"
        async with self.session.options(self.url + path, headers=headers) as response:
            self.preflights.append(response.status)
            if not self._passes(response) or not 200 <= response.status < 300:
                raise NetworkError("preflight: CORS check", preflight=True)
            if method not in _SAFE_METHODS and method.lower() not in _list(response, "Access-Control-Allow-Methods"):
                raise NetworkError("preflight: method", preflight=True)
            # A star would not stand for Authorization, and there is none.
            if not set(names) <= set(_list(response, "Access-Control-Allow-Headers")):
                raise NetworkError("preflight: headers", preflight=True)
            if self.private_network and response.headers.get("Access-Control-Allow-Private-Network") != "true":
                raise NetworkError("preflight: private network", preflight=True)

    def _passes(self, response: aiohttp.ClientResponse) -> bool:
        """The CORS check."""
        return response.headers.getall("Access-Control-Allow-Origin", []) == [self.origin]


def _list(response: aiohttp.ClientResponse, name: str) -> list[str]:
    values = ",".join(response.headers.getall(name, []))
    return [value.strip().lower() for value in values.split(",") if value.strip()]


def _is_safe(name: str, value: str) -> bool:
    """Whether it is a CORS-safelisted request-header."""
    if len(value) > 128:
        return False
    if name.lower() == "content-type":
        return value.partition(";")[0].strip().lower() in _SAFE_TYPES
    return name.lower() in _SAFE_REQUEST_HEADERS
