"""What two runtimes share: equal settings make one part, which ends with its last user."""

from __future__ import annotations

from contextlib import AsyncExitStack

from hartonomous.parts import Parts


class Maker:
    """Makes numbered parts and remembers which have ended."""

    def __init__(self) -> None:
        self.made = 0
        self.ended: list[int] = []

    def __call__(self, stack: AsyncExitStack) -> int:
        self.made += 1
        stack.callback(self.ended.append, self.made)
        return self.made


async def test_equal_settings_share_a_part_until_the_last_user_has_gone() -> None:
    parts, make = Parts(), Maker()
    async with AsyncExitStack() as old:
        assert parts.take("pool", ("a", 1), make, old) == 1
        async with AsyncExitStack() as new:
            assert parts.take("pool", ("a", 1), make, new) == 1
            assert parts.take("parser", ("a", 1), make, new) == 2
        assert make.ended == [2]
    assert (make.ended, parts.count("pool")) == ([2, 1], 0)


async def test_other_settings_make_another_part_and_the_first_is_found_again_while_it_lives() -> None:
    parts, make = Parts(), Maker()
    async with AsyncExitStack() as first:
        assert parts.take("pool", "a", make, first) == 1
        async with AsyncExitStack() as second:
            assert parts.take("pool", "b", make, second) == 2
            async with AsyncExitStack() as third:
                assert parts.take("pool", "a", make, third) == 1
    assert make.ended == [2, 1]
    async with AsyncExitStack() as fourth:
        assert parts.take("pool", "a", make, fourth) == 3


class Part:
    """A part that says when it is shown."""

    def __init__(self, name: str, shown: list[str]) -> None:
        self._name = name
        self._shown = shown

    def show(self) -> None:
        self._shown.append(self._name)


async def test_the_metrics_show_the_part_that_was_taken_last_or_else_the_one_that_is_left() -> None:
    parts, shown = Parts(), list[str]()

    def take(name: str, stack: AsyncExitStack) -> None:
        parts.take("pool", name, lambda _: Part(name, shown), stack)

    async with AsyncExitStack() as first:
        take("a", first)
        async with AsyncExitStack() as failing:
            take("b", failing)
        assert shown == ["a", "b", "a"]
        async with AsyncExitStack() as second, AsyncExitStack() as undone:
            take("b", second)
            take("a", undone)
            assert shown[-1] == "a"
        assert shown[-1] == "a"


async def test_parts_end_in_the_reverse_order_of_their_making() -> None:
    parts, make = Parts(), Maker()
    async with AsyncExitStack() as stack:
        for name in ("pool", "client", "ingestor"):
            parts.take(name, None, make, stack)
    assert make.ended == [3, 2, 1]
