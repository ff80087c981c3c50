"""Which address gets the next call: by share, and in turn."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random

import pytest

from hartonomous.core.balancing import Balance


@dataclass(eq=False)
class Address:
    """An address with calls under way."""

    name: str
    weight: int = 1
    active: int = 0


def made(*weights: int) -> list[Address]:
    return [Address(name, weight) for name, weight in zip("abcdefgh", weights, strict=False)]


def one_by_one(balance: Balance[Address], among: list[Address], calls: int) -> str:
    """Make calls one after the other; return who got them."""
    got = ""
    for _ in range(calls):
        chosen = balance.choose(among)
        balance.took(chosen)
        got += chosen.name
    return got


def held(balance: Balance[Address], among: list[Address], calls: int) -> dict[str, int]:
    """Make calls that do not end; return how many are at each."""
    for _ in range(calls):
        chosen = balance.choose(among)
        balance.took(chosen)
        chosen.active += 1
    return {one.name: one.active for one in among}


def test_calls_one_after_the_other_spread() -> None:
    assert one_by_one(Balance(), made(1, 1, 1), 9) == "abcabcabc"


@pytest.mark.parametrize("weights", [(3, 1), (1, 3), (5, 2, 1), (7, 7, 1), (1_000, 1)])
def test_calls_one_after_the_other_are_shared_out_by_weight(weights: tuple[int, ...]) -> None:
    addresses = made(*weights)
    got = Counter(one_by_one(Balance(), addresses, 10 * sum(weights)))
    assert all(abs(got[one.name] - 10 * one.weight) <= 1 for one in addresses), got


def test_calls_one_after_the_other_alternate_as_far_as_weights_let_them() -> None:
    assert one_by_one(Balance(), made(3, 1), 12) == "aaabaaabaaab"
    assert one_by_one(Balance(), made(1, 1_000), 999) == "b" * 999


@pytest.mark.parametrize(("weights", "calls"), [((3, 1), 8), ((1, 1), 8), ((2, 3, 5), 30), ((1, 1, 1, 1), 4)])
def test_calls_that_are_held_are_shared_out_by_weight(weights: tuple[int, ...], calls: int) -> None:
    addresses = made(*weights)
    share = calls // sum(weights)
    assert held(Balance(), addresses, calls) == {one.name: share * one.weight for one in addresses}


def test_with_equal_weights_it_is_the_one_with_the_fewest_calls() -> None:
    dice = Random(7)
    balance = Balance[Address]()
    addresses = made(1, 1, 1, 1)
    for _ in range(500):
        for one in addresses:
            one.active = dice.randrange(6)
        chosen = balance.choose(addresses)
        balance.took(chosen)
        assert chosen.active == min(one.active for one in addresses)


def test_a_small_address_is_not_preferred_because_it_is_idle() -> None:
    """With two calls at once one of a thousandth of the weight must not get half of them."""
    balance, (big, small) = Balance[Address](), made(1_000, 1)
    got: Counter[str] = Counter()
    for _ in range(500):
        big.active, small.active = 1, 0
        chosen = balance.choose([big, small])
        balance.took(chosen)
        got[chosen.name] += 1
    assert got["b"] <= 1


def test_beside_a_small_address_two_large_ones_still_share_by_how_busy_they_are() -> None:
    addresses = made(1_000, 1_000, 1)
    addresses[0].active = 7
    assert Balance[Address]().choose(addresses).name == "b"


def test_who_was_not_there_for_a_while_is_owed_one_call_at_most() -> None:
    balance, (first, second) = Balance[Address](), made(1, 1)
    assert one_by_one(balance, [first, second], 4) == "abab"
    assert one_by_one(balance, [first], 100) == "a" * 100
    assert one_by_one(balance, [first, second], 6) in {"bababa", "bbabab"}


def test_who_joins_gets_its_share_and_no_more() -> None:
    balance, (first, second, new) = Balance[Address](), made(1, 1, 2)
    one_by_one(balance, [first, second], 101)
    got = Counter(one_by_one(balance, [first, second, new], 40))
    assert abs(got["c"] - 20) <= 1
    assert abs(got["a"] - 10) <= 1


def test_whom_to_avoid_gets_a_call_only_where_nobody_else_is_there() -> None:
    balance, (first, second) = Balance[Address](), made(1, 1)
    second.active = 50
    assert balance.choose([first, second], [first]) is second
    assert balance.choose([first], [first]) is first


def test_what_was_removed_is_not_remembered() -> None:
    balance, addresses = Balance[Address](), made(1, 1)
    one_by_one(balance, addresses, 10)
    addresses.clear()
    assert len(balance._finished) == 0
