"""Whose request it is: the connection's address, or what trusted proxies say, and nothing that a caller made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.core.addresses import UNIX, Proxies, is_loopback, network_of

TRUSTED = Proxies(["10.0.0.0/8", "2001:db8:ffff::/48"])


@pytest.mark.parametrize(
    ("peer", "lines", "caller"),
    [
        ("198.51.100.7", [], "198.51.100.7"),
        ("198.51.100.7", ["203.0.113.9"], "198.51.100.7"),  # not a proxy of ours
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1, 203.0.113.9"], "203.0.113.9"),  # the caller made up the first
        ("10.0.0.1", ["1.1.1.1", "203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9, 10.0.0.2,10.0.0.3"], "203.0.113.9"),  # three proxies
        ("10.0.0.1", ["10.0.0.9, 10.0.0.8"], "10.0.0.9"),  # the caller is in the network as well
        ("10.0.0.1", ["203.0.113.9, garbage"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9, , 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["unknown, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9:4711"], "203.0.113.9"),
        ("10.0.0.1", ["[2001:db8::7]:4711"], "2001:db8::7"),
        ("10.0.0.1", ["[2001:db8::7]"], "2001:db8::7"),
        ("10.0.0.1", ["2001:DB8:0::7"], "2001:db8::7"),
        ("10.0.0.1", ["203.0.113.9:port"], "10.0.0.1"),
        ("10.0.0.1", ["[2001:db8::7]garbage"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.009"], "10.0.0.1"),
        ("::ffff:10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("::ffff:198.51.100.7", [], "198.51.100.7"),
        ("2001:db8:ffff::1", ["::ffff:203.0.113.9"], "203.0.113.9"),
        ("fe80::1%eth0", [], "fe80::1"),
        (None, ["203.0.113.9"], UNIX),
        ("", [], UNIX),
    ],
)
def test_the_caller(peer: str | None, lines: list[str], caller: str) -> None:
    assert TRUSTED.caller(peer, lines) == caller


def test_without_trusted_proxies_nobody_is_believed() -> None:
    assert Proxies().caller("127.0.0.1", ["203.0.113.9"]) == "127.0.0.1"


@given(st.lists(st.text(max_size=30)))
def test_whatever_a_caller_makes_up_the_address_is_the_one_that_the_proxy_saw(lines: list[str]) -> None:
    assert TRUSTED.caller("10.0.0.1", [*lines, "203.0.113.9"]) == "203.0.113.9"


@given(st.lists(st.text(max_size=30)))
def test_garbage_is_no_error(lines: list[str]) -> None:
    assert TRUSTED.caller("10.0.0.1", lines)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "localhost", "LOCALHOST"])
def test_this_host(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "::ffff:10.0.0.1", "0.0.0.0", "::", "localhost.example", "127.0.0.1%x", ""]
)
def test_another_host(host: str) -> None:
    assert not is_loopback(host)


def test_a_list_that_is_longer_than_any_way_is_read_from_its_end_alone() -> None:
    ways = [f"10.0.{number >> 8}.{number & 255}" for number in range(60_000)]
    assert TRUSTED.caller("10.0.0.1", [", ".join(ways)]) == ways[-32]
    assert TRUSTED.caller("10.0.0.1", ["203.0.113.1", ",".join(ways[:31])]) == "203.0.113.1"
    assert TRUSTED.caller("10.0.0.1", ["203.0.113.1", ",".join(ways[:32])]) == ways[0]


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        (UNIX, UNIX),
    ],
)
def test_addresses_that_count_as_one(address: str, network: str) -> None:
    assert network_of(address) == network
