"""Each fault of the proxy, over real sockets, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from tests.faults.kinds import (
    Faults,
    Way,
    bandwidth,
    blackhole,
    close,
    half_close,
    hang,
    latency,
    refuse,
    reset,
    sliced,
)
from tests.faults.proxy import FaultProxy
from tests.faults.rig import LIMIT_S, Client, Upstream
from tests.service.application import eventually
from tests.service.vector_store import free_port


async def test_without_a_fault_everything_passes_both_ways_to_its_end(proxy: FaultProxy, upstream: Upstream) -> None:
    data = bytes(range(256)) * 4_000
    async with Client(proxy) as one:
        assert await one.told(data) == data
        one.end()
        assert await one.rest() == b"bye"
    assert upstream.ends == ["clean"]
    await eventually(lambda: proxy.open == 0, "the connection's end")
    counts = proxy.counts
    assert (counts.connections, counts.bytes_up, counts.bytes_down) == (1, len(data), len(data) + 3)


async def test_refused_connections_are_refused_open_ones_reset_and_the_port_stays(proxy: FaultProxy) -> None:
    async with Client(proxy) as one:
        assert await one.told(b"hello") == b"hello"
        await proxy.set(refuse())
        assert proxy.open == 0
        with pytest.raises(ConnectionResetError):
            await one.rest()
        with pytest.raises(ConnectionRefusedError):
            await Client(proxy).__aenter__()
    await proxy.set()
    async with Client(proxy) as one:
        assert await one.told(b"again") == b"again"


async def test_a_hanging_proxy_accepts_and_goes_on_when_the_fault_is_lifted(
    proxy: FaultProxy, upstream: Upstream
) -> None:
    async with Client(proxy) as old:
        await old.told(b"old")
        await proxy.set(hang())
        async with Client(proxy) as new:
            await new.send(b"new")
            await old.send(b"more")
            await eventually(lambda: proxy.open == 2, "the accepted connection")
            assert (upstream.open, bytes(upstream.received)) == (1, b"old")
            await proxy.set()
            assert (await new.get(3), await old.get(4)) == (b"new", b"more")


async def test_a_blackhole_swallows_in_open_connections_too_and_they_stay_silent(
    proxy: FaultProxy, upstream: Upstream
) -> None:
    async with Client(proxy) as old:
        await old.told(b"old")
        await proxy.set(blackhole())
        async with Client(proxy) as new:
            await new.send(b"n" * 3_000_000)
            await old.send(b"lost")
            await eventually(lambda: proxy.counts.bytes_swallowed == 3_000_004, "everything swallowed")
            await proxy.set()
            await old.send(b"more")
            await eventually(lambda: proxy.counts.bytes_swallowed == 3_000_008, "this as well")
            assert (upstream.open, bytes(upstream.received)) == (1, b"old")
    async with Client(proxy) as newest:
        assert await newest.told(b"well") == b"well"


@pytest.mark.parametrize("fault", [hang(), blackhole()])
async def test_a_client_that_leaves_is_noticed_while_nothing_passes(
    proxy: FaultProxy, upstream: Upstream, fault: Faults
) -> None:
    async with Client(proxy) as old, Client(proxy) as new:
        await old.told(b"old")
        await proxy.set(fault)
        await new.send(b"new")
    await eventually(lambda: proxy.open == 0 and upstream.open == 0, "both ends gone")


@pytest.mark.parametrize("way", ["up", "down", "both"])
async def test_latency_delays_each_direction_that_it_is_set_for(proxy: FaultProxy, way: Way) -> None:
    await proxy.set(latency(0.2, 0.05, way))
    async with Client(proxy) as one:
        started = time.monotonic()
        assert await one.told(b"hello") == b"hello"
        assert time.monotonic() - started >= (0.3 if way == "both" else 0.15) - 0.01


async def test_latency_takes_no_throughput_and_keeps_the_order(proxy: FaultProxy) -> None:
    await proxy.set(latency(0.5, 0.1, "up"))
    data = bytes(range(256)) * 16_000
    async with Client(proxy) as one:
        assert await one.told(data) == data  # within LIMIT_S; 63 pieces one after the other would take half a minute


async def test_latency_that_is_lifted_lets_go_what_it_held(proxy: FaultProxy) -> None:
    await proxy.set(latency(3600))
    async with Client(proxy) as one:
        await one.send(b"hello")
        await eventually(lambda: proxy.open == 1, "the connection")
        await proxy.set()
        assert await one.get(5) == b"hello"


async def test_bandwidth_bounds_the_bytes_a_second(proxy: FaultProxy) -> None:
    await proxy.set(bandwidth(10_000, "down"))
    async with Client(proxy) as one:
        started = time.monotonic()
        await one.told(b"x" * 3_000)
        assert time.monotonic() - started >= 0.25


async def test_slices_come_one_at_a_time(proxy: FaultProxy) -> None:
    await proxy.set(sliced(4, 3600, "down"))
    async with Client(proxy) as one:
        await one.send(b"0123456789")
        assert await one.get(4) == b"0123"
        assert (proxy.counts.bytes_up, proxy.counts.bytes_down) == (10, 4)
        await proxy.set(sliced(3))
        assert await one.get(6) == b"456789"


@pytest.mark.parametrize("after", [0, 7, 100_000])
async def test_a_reset_comes_after_exactly_so_many_bytes(proxy: FaultProxy, upstream: Upstream, after: int) -> None:
    await proxy.set(reset(after))
    async with Client(proxy) as one:
        await one.send(b"x" * (after + 9))
        assert await one.get(after) == b"x" * after
        with pytest.raises(ConnectionResetError):
            await one.rest()
    await eventually(lambda: upstream.ends == ["reset"], "the upstream's reset")


async def test_a_slow_reader_gets_every_byte_before_the_reset(proxy: FaultProxy) -> None:
    size = 300_000
    await proxy.set(reset(size))
    async with Client(proxy, buffer=4_096) as one:
        sending = asyncio.create_task(one.send(b"x" * size))
        await eventually(_still(lambda: proxy.counts.bytes_down), "full buffers")
        assert await one.get(size) == b"x" * size
        await sending
        with pytest.raises(ConnectionResetError):
            await one.rest()


async def test_a_reset_of_the_request_lets_so_much_of_it_through(proxy: FaultProxy, upstream: Upstream) -> None:
    await proxy.set(reset(4, "up"))
    async with Client(proxy) as one:
        await one.send(b"0123456789")
        with pytest.raises(ConnectionResetError):
            await one.rest()
    await eventually(lambda: upstream.ends == ["reset"], "the upstream's reset")
    assert b"0123".startswith(bytes(upstream.received))
    assert proxy.counts.bytes_up == 4


async def test_bytes_are_counted_from_when_the_fault_is_set(proxy: FaultProxy) -> None:
    async with Client(proxy) as one:
        await one.told(b"x" * 100)
        await proxy.set(reset(50))
        assert await one.told(b"y" * 49) == b"y" * 49
        await one.send(b"z")
        assert await one.get(1) == b"z"
        with pytest.raises(ConnectionResetError):
            await one.rest()


@pytest.mark.parametrize("after", [0, 7])
async def test_a_clean_end_after_so_many_bytes_is_no_reset(proxy: FaultProxy, after: int) -> None:
    await proxy.set(close(after))
    async with Client(proxy) as one:
        await one.send(b"x" * 20)
        assert await one.rest() == b"x" * after
        await one.send(b"and more")  # heard out, not answered by a reset
        one.end()
        await eventually(lambda: proxy.open == 0, "the connection's end")
        assert await one.rest() == b""


async def test_after_a_half_close_the_other_direction_goes_on(proxy: FaultProxy, upstream: Upstream) -> None:
    await proxy.set(half_close(3))
    async with Client(proxy) as one:
        await one.send(b"012345")
        assert await one.rest() == b"012"
        await one.send(b"more")
        await eventually(lambda: upstream.received.endswith(b"more"), "the rest of the request")
        one.end()
        await eventually(lambda: proxy.open == 0, "the connection's end")
    assert upstream.ends == ["clean"]


async def test_a_half_closed_request_is_answered(proxy: FaultProxy) -> None:
    await proxy.set(half_close(3, "up"))
    async with Client(proxy) as one:
        await one.send(b"012345")
        assert await one.rest() == b"012bye"


async def test_faults_that_combine_act_together(proxy: FaultProxy) -> None:
    await proxy.set(latency(0.1, way="up"), sliced(2, way="down"), reset(5))
    async with Client(proxy) as one:
        started = time.monotonic()
        await one.send(b"0123456789")
        assert await one.get(5) == b"01234"
        assert time.monotonic() - started >= 0.09
        with pytest.raises(ConnectionResetError):
            await one.rest()


@pytest.mark.parametrize(
    "faults", [(refuse(), latency(1)), (hang(), blackhole()), (reset(1), close(2)), (latency(1), latency(2, way="up"))]
)
async def test_faults_that_do_not_combine_are_refused_and_change_nothing(
    proxy: FaultProxy, faults: tuple[Faults, ...]
) -> None:
    with pytest.raises(ValueError, match=r"stands alone|the same thing"):
        await proxy.set(*faults)
    async with Client(proxy) as one:
        assert await one.told(b"hello") == b"hello"


async def test_an_upstream_that_is_gone_resets_the_client() -> None:
    async with FaultProxy(f"127.0.0.1:{free_port()}") as proxy, Client(proxy) as one:
        with pytest.raises(ConnectionResetError):
            await one.rest()


@pytest.mark.parametrize("fault", [latency(3600), hang(), blackhole(), bandwidth(1), close(2), half_close(2)])
async def test_it_stops_at_once_whatever_is_under_way(
    upstream: Upstream, fault: Faults, caplog: pytest.LogCaptureFixture
) -> None:
    async with FaultProxy(f"127.0.0.1:{upstream.port}") as proxy, Client(proxy) as one:
        await one.told(b"hello")
        await proxy.set(fault)
        await one.send(b"x" * 100)
        async with asyncio.timeout(LIMIT_S):
            await proxy.stop()
        assert proxy.open == 0
    assert not caplog.records


async def test_a_client_that_reads_nothing_holds_nothing_up(upstream: Upstream) -> None:
    async with FaultProxy(f"127.0.0.1:{upstream.port}") as proxy, Client(proxy) as one:
        sending = asyncio.create_task(one.send(b"x" * 50_000_000))
        await eventually(_still(lambda: proxy.counts.bytes_down), "full buffers")
        async with asyncio.timeout(LIMIT_S):
            await proxy.stop()
        with pytest.raises(ConnectionError):
            await sending


def _still(number: Callable[[], int]) -> Callable[[], bool]:
    """Return whether a number has stopped growing, asked again and again."""
    seen: list[int] = []

    def still() -> bool:
        seen.append(number())
        return len(seen) > 20 and 0 < seen[-1] == seen[-20]

    return still
