"""The address of a caller: that of the connection, or what proxies that are trusted say.

Each proxy appends to `X-Forwarded-For` whom it was asked by, so the list is believed from its end on, as far as those
who wrote it are trusted: whatever a caller put there before stays unread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

UNIX = "unix"
"""What stands for the address of a caller without one: of a unix socket."""

_KEPT = 4_096
# No request passes more proxies than these: a longer list is read no further.
_HOPS = 32
_V6_PREFIX = 64


class Proxies:
    """The networks of the proxies that are trusted."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks: list[IPv4Network | IPv6Network] = [ip_network(network) for network in networks]

    def caller(self, peer: str | None, forwarded_for: Sequence[str]) -> str:
        """Return the address of a caller: `peer` is the connection's, `forwarded_for` the header's lines in order."""
        if not self._networks or not forwarded_for:
            return _text(peer)
        here = _normal(peer) if peer else None
        if here is None or not self._trusts(here):
            return _text(peer)
        for said in reversed(",".join(forwarded_for).rsplit(",", _HOPS)[-_HOPS:]):
            address = _address(said.strip())
            if address is None:
                break  # who asked the one before is not known
            here = address
            if not self._trusts(here):
                break
        return str(here)

    def _trusts(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)


@lru_cache(maxsize=_KEPT)
def network_of(address: str) -> str:
    """Return what an address is counted as: itself, or its /64 where it is IPv6, as one household or host has those."""
    if ":" not in address:
        return address
    return str(ip_network((address, _V6_PREFIX), strict=False))


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether a host, by its name or its address (without a zone), is this one."""
    address = None if "%" in host else _normal(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


@lru_cache(maxsize=_KEPT)
def _normal(text: str) -> IPv4Address | IPv6Address | None:
    """Return an address without a zone; an IPv4 address within IPv6 is the former. None for what is none."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


@lru_cache(maxsize=_KEPT)
def _text(peer: str | None) -> str:
    address = _normal(peer) if peer else None
    return UNIX if address is None else str(address)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address of an entry: some proxies add a port, and brackets around IPv6."""
    if text.startswith("["):
        text, _, port = text[1:].partition("]")
        return _normal(text) if not port or (port[0] == ":" and _is_port(port[1:])) else None
    host, colon, port = text.rpartition(":")
    if colon and "." in host and ":" not in host and _is_port(port):
        text = host
    return _normal(text)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5
