"""Trace headers read strictly, and what a block costs and hands out where nothing is recorded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest

from hartonomous import tracing
from hartonomous.core import trace
from hartonomous.core.call import Call
from hartonomous.core.deadline import Deadline

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


def test_a_trace_is_read_and_passed_on_as_it_came() -> None:
    found = trace.read([PARENT], ["a=1, b@c=2", "d=3"])
    assert found == trace.TraceContext(TRACE_ID, SPAN_ID, True, "a=1,b@c=2,d=3", PARENT)
    assert found.headers == {"traceparent": PARENT, "tracestate": "a=1,b@c=2,d=3"}
    assert found.exemplar == {"trace_id": TRACE_ID}


@pytest.mark.parametrize("flags", ["00", "02", "fe"])
def test_a_trace_that_is_not_sampled_has_no_exemplar(flags: str) -> None:
    found = trace.read([f"00-{TRACE_ID}-{SPAN_ID}-{flags}"])
    assert found is not None
    assert found.exemplar is None


@pytest.mark.parametrize("more", ["", "-", "-what-the-future-holds"])
def test_a_later_version_may_say_more(more: str) -> None:
    given = f"cc-{TRACE_ID}-{SPAN_ID}-01{more}"
    found = trace.read([given])
    assert found is not None
    assert (found.trace_id, found.span_id, found.is_sampled, found.given) == (TRACE_ID, SPAN_ID, True, given)


@pytest.mark.parametrize(
    "parents",
    [
        [],
        [""],
        [PARENT, PARENT],
        [f"{PARENT}-"],
        [f"{PARENT}-more"],
        [f"{PARENT} "],
        [PARENT.upper()],
        [f"ff-{TRACE_ID}-{SPAN_ID}-01"],
        [f"ff-{TRACE_ID}-{SPAN_ID}-01-more"],
        [f"cc-{TRACE_ID}-{SPAN_ID}-01.more"],
        [f"00-{'0' * 32}-{SPAN_ID}-01"],
        [f"00-{TRACE_ID}-{'0' * 16}-01"],
        [f"00-{TRACE_ID[:-1]}-{SPAN_ID}-01"],
        [f"00-{TRACE_ID}-{SPAN_ID}-1"],
        [f"00-{TRACE_ID}-{SPAN_ID}"],
        [f"00-{TRACE_ID[:-1]}x-{SPAN_ID}-01"],
        [f"00-{TRACE_ID[:-1]}\N{ARABIC-INDIC DIGIT ONE}-{SPAN_ID}-01"],
    ],
)
def test_what_is_no_trace_is_none(parents: Sequence[str]) -> None:
    assert trace.read(parents, ["a=1"]) is None


@pytest.mark.parametrize(
    ("states", "read"),
    [
        ([], ""),
        ([""], ""),
        (["a=1,,b=2,"], "a=1,b=2"),
        (["\ta=1 \t"], "a=1"),
        (["a= x y"], "a= x y"),
        (["1a@b=2"], "1a@b=2"),
        ([",".join(f"k{number}=v" for number in range(32))], ",".join(f"k{number}=v" for number in range(32))),
        ([",".join(f"k{number}=v" for number in range(33))], ""),
        (["a=1,a=2"], ""),
        (["a=1", "a=2"], ""),
        (["A=1"], ""),
        (["1a=2"], ""),
        (["a=1=2"], ""),
        (["a"], ""),
        (["a=\N{LATIN SMALL LETTER E WITH ACUTE}"], ""),
        ([f"{'k' * 257}=v"], ""),
        ([f"k={'v' * 257}"], ""),
    ],
)
def test_a_state_is_read_whole_or_not_at_all(states: Sequence[str], read: str) -> None:
    found = trace.read([PARENT], states)
    assert found is not None
    assert found.state == read


def test_a_state_that_is_too_long_loses_long_members_first_and_then_its_last_ones() -> None:
    long, short = f"l={'v' * 200}", [f"k{number}={'v' * 90}" for number in range(6)]
    found = trace.read([PARENT], [",".join([short[0], long, *short[1:]])])
    assert found is not None
    assert found.state == ",".join(short[:5])
    assert len(found.state) <= 512


def test_a_block_that_is_not_recorded_hands_out_the_call_that_it_was_given() -> None:
    call = Call("id", Deadline(1))
    with tracing.span(call, "search") as inner:
        tracing.attributed(inner, {"much": 1})
        tracing.link(inner, None)
    assert inner is call
    assert tracing.joint([call, Call("other", Deadline(1))]) is call


def test_without_tracing_nothing_of_opentelemetry_is_imported() -> None:
    """Redis' client would import its metrics, and is not there without Redis either."""
    script = (
        "import sys\n"
        "from hartonomous.app import create_app\n"
        "from hartonomous.config import Config\n"
        "url = {'urls': ('http://127.0.0.1:1',)}\n"
        "create_app(Config.model_validate({'backends': {'embedding': url, 'generative': url}}))\n"
        "dear = ('hartonomous.otlp', 'opentelemetry', 'redis', 'requests')\n"
        "assert not [name for name in sys.modules if name.startswith(dear)]\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_without_the_extra_the_configuration_says_what_to_install() -> None:
    script = (
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"  # as if it were not there
        "from hartonomous.config import Config\n"
        "from hartonomous.errors import ConfigError\n"
        "from hartonomous.settings import complete\n"
        "url = {'urls': ('http://127.0.0.1:1',)}\n"
        "services = {'embedding': url, 'generative': url}\n"
        "complete(Config.model_validate({'backends': services}))\n"
        "traced = {'endpoint': 'http://127.0.0.1:4318'}\n"
        "try:\n"
        "    complete(Config.model_validate({'backends': services, 'tracing': traced}))\n"
        "except ConfigError as error:\n"
        "    print(error.param, error.message)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout.startswith("tracing.endpoint ")
    assert "pip install 'hartonomous[otlp]'" in done.stdout
