"""The faults of a connection: what each is called, what it does to the bytes of a direction, which combine.

`up` is from the client to the upstream, `down` is back. Times are seconds, sizes are bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Literal

State = Literal["open", "refuse", "hang", "blackhole"]
Way = Literal["up", "down", "both"]
End = Literal["reset", "close", "half-close"]


@dataclass(frozen=True, slots=True)
class Flow:
    """What happens to the bytes of one direction."""

    latency_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float = math.inf
    slice_bytes: int = 1 << 16
    gap_s: float = 0.0
    end: End | None = None
    end_after: int = 0


@dataclass(frozen=True, slots=True)
class Faults:
    """Everything that is wrong with a proxy's connections at one time."""

    state: State = "open"
    up: Flow = field(default_factory=Flow)
    down: Flow = field(default_factory=Flow)


NONE = Faults()


def refuse() -> Faults:
    """Stop listening: connections are refused, open ones are reset, as when the process has died."""
    return Faults("refuse")


def hang() -> Faults:
    """Accept, then pass nothing on in either direction; what was held goes its way when the fault is lifted."""
    return Faults("hang")


def blackhole() -> Faults:
    """Swallow what comes and say nothing; a connection that lost bytes stays silent when the fault is lifted."""
    return Faults("blackhole")


def latency(seconds: float, jitter_s: float = 0.0, way: Way = "both") -> Faults:
    """Deliver everything so much later, by up to `jitter_s` more or less, in order; throughput stays."""
    return _flowing(way, Flow(latency_s=seconds, jitter_s=jitter_s))


def bandwidth(bytes_per_s: float, way: Way = "both") -> Faults:
    """Pass so many bytes a second on in each direction of a connection."""
    return _flowing(way, Flow(bytes_per_s=bytes_per_s))


def sliced(size: int, gap_s: float = 0.0, way: Way = "both") -> Faults:
    """Pass everything on in pieces of `size` bytes, `gap_s` after each."""
    return _flowing(way, Flow(slice_bytes=size, gap_s=gap_s))


def reset(after: int, way: Way = "down") -> Faults:
    """Reset both ends (RST) after so many bytes; 0: when the first byte comes, which is not passed on.

    Bytes are counted from when the fault is set, or the connection made if that is later.
    """
    return _flowing(way, Flow(end="reset", end_after=after))


def close(after: int, way: Way = "down") -> Faults:
    """End the connection in the normal way (FIN) after so many bytes, counted as `reset` does."""
    return _flowing(way, Flow(end="close", end_after=after))


def half_close(after: int, way: Way = "down") -> Faults:
    """End one direction (FIN) after so many bytes, counted as `reset` does; the other one goes on."""
    return _flowing(way, Flow(end="half-close", end_after=after))


def combine(*faults: Faults) -> Faults:
    """Return all of them in one. ValueError: two set the same thing, or something goes with what passes nothing."""
    real = [fault for fault in faults if fault != NONE]
    if len(real) > 1 and any(fault.state != "open" for fault in real):
        raise ValueError("a fault that lets nothing pass stands alone")
    whole = NONE
    for fault in real:
        up, down = _merged(whole.up, fault.up), _merged(whole.down, fault.down)
        whole = replace(fault, up=up, down=down)
    return whole


def _flowing(way: Way, flow: Flow) -> Faults:
    return Faults(up=Flow() if way == "down" else flow, down=Flow() if way == "up" else flow)


def _merged(one: Flow, other: Flow) -> Flow:
    if _set(one) & _set(other):
        raise ValueError("two faults set the same thing of one direction")
    return replace(one, **{name: getattr(other, name) for name in _set(other)})


def _set(flow: Flow) -> set[str]:
    return {entry.name for entry in fields(Flow) if getattr(flow, entry.name) != entry.default}


@dataclass(frozen=True, slots=True)
class Kind:
    """A fault as the command line names it: how it is made of numbers, how many, and what it does."""

    make: Callable[..., Faults]
    values: str
    line: str
    least: int = 0
    most: int = 0
    wholes: int = 0
    zero: bool = True


KINDS = {
    "none": Kind(Faults, "", "everything passes"),
    "refuse": Kind(refuse, "", "connections are refused, open ones reset"),
    "hang": Kind(hang, "", "connections are accepted, nothing passes"),
    "blackhole": Kind(blackhole, "", "what comes is swallowed, nothing is said"),
    "latency": Kind(latency, ":SECONDS[,JITTER]", "everything comes later", 1, 2),
    "bandwidth": Kind(bandwidth, ":BYTES_PER_S", "so many bytes a second pass", 1, 1, zero=False),
    "slice": Kind(sliced, ":BYTES[,GAP_SECONDS]", "everything comes in small pieces", 1, 2, 1, zero=False),
    "reset": Kind(reset, ":BYTES", "reset (RST) after so many bytes of the answers", 1, 1, wholes=1),
    "close": Kind(close, ":BYTES", "ended cleanly (FIN) after so many bytes of the answers", 1, 1, wholes=1),
    "half-close": Kind(half_close, ":BYTES", "answers end (FIN) after so many bytes, requests go on", 1, 1, wholes=1),
}


def parse(text: str) -> Faults:
    """Return the fault that `NAME[-up|-down][:VALUE[,VALUE]]` names. ValueError says in one sentence what is wrong."""
    written, colon, values = text.partition(":")
    name, way = _direction(written)
    kind = KINDS.get(name)
    if kind is None or (way and not kind.most):
        raise ValueError(f"There is no fault {written!r}; --list names them.")
    numbers = [_number(value, place < kind.wholes) for place, value in enumerate(values.split(","))] if colon else []
    if not kind.least <= len(numbers) <= kind.most or (not kind.zero and not numbers[0]):
        raise ValueError(f"The fault {text!r} is written {written}{kind.values}.")
    return kind.make(*numbers, **way)


def _direction(written: str) -> tuple[str, dict[str, str]]:
    for way in ("up", "down"):
        if written.endswith(f"-{way}"):
            return written.removesuffix(f"-{way}"), {"way": way}
    return written, {}


def _number(value: str, whole: bool) -> float:
    try:
        number = int(value) if whole else float(value)
    except ValueError:
        number = -1
    if not 0 <= number < math.inf:
        raise ValueError(f"{value!r} is no {'whole ' if whole else ''}number from 0.")
    return number
