"""Streamed chats: how much later a token comes than it would come from the backend itself.

The row is that of as many streams as the table says, once all of them have begun, with their ticks spread evenly.
Shown below it are the same where all are asked for in one moment, so that tokens wait for what begins and ends beside
them; and fewer streams, where neither the programs beside nor the application's core come near to what they can do.
"""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack
from dataclasses import replace
from statistics import median

from tests.bench.plan import Plan
from tests.bench.processes import Maker
from tests.bench.rig import CHAT_PATH, HEADERS, Rig, chat_body
from tests.bench.table import TARGETS, Row

_STREAMS, _TOKENS, _INTERVAL_S = 200, 100, 0.005
_FEWER = 50
_BELOW = f"  the same with {_FEWER} streams (shown alone)"
_AT_ONCE = "  the same where all begin at once (shown alone)"
# Between two requests, where nobody gets a token before all have come.
_APART_S = 0.002
_OURS, _FLOOR, _DIRECT = "hartonomous", "bare aiohttp", "direct"
_LIMIT_S = 300


def streams(rig: Rig, plan: Plan) -> Row:
    """Measure as many streams as the table says, those that begin at once, and fewer of them."""
    target = TARGETS["stream"]
    seen = _measure(rig, _STREAMS, plan.stream_rounds, plan.waves)
    at_once = _measure(rig, _STREAMS, 1, plan.waves, at_once=True)
    fewer = _measure(rig, _FEWER, 1, plan.waves)
    below = [
        Row(replace(target, title=title), _added(others, _OURS), figures={"streams": others})
        for title, others in ((_AT_ONCE, at_once), (_BELOW, fewer))
    ]
    notes = _described(seen)
    for title, others in (("all at once", at_once), (f"{_FEWER} streams", fewer)):
        notes += [f"{title}:", *(f"  {line}" for line in _described(others))]
    return Row(target, _added(seen, _OURS), notes, {"streams": seen}, beside=below)


def _measure(
    rig: Rig, count: int, rounds: int, waves: int, *, at_once: bool = False
) -> dict[str, list[dict[str, float]]]:
    together = 0 if at_once else count
    with ExitStack() as stack:
        command = rig.maker.python("tests.bench.pacer", "{port}", str(together), str(_TOKENS), str(_INTERVAL_S))
        pacer = stack.enter_context(rig.maker.beside(*command, name="pacer", ready="/health"))
        ours = stack.enter_context(rig.application({"generative": pacer.url}, slots=2 * _STREAMS))
        floor = stack.enter_context(rig.gateway_floor(pacer.url))
        ports = {_DIRECT: pacer.port, _FLOOR: floor.port, _OURS: ours.port}
        load = [str(count), str(waves), _request(rig), str(0 if at_once else _APART_S)]
        seen: dict[str, list[dict[str, float]]] = {name: [] for name in ports}
        for turn in range(rounds):
            for name in list(ports)[:: -1 if turn % 2 else 1]:
                seen[name].append(_read(rig.maker, ports[name], load, count * _TOKENS * waves))
    return seen


def _request(rig: Rig) -> str:
    body = chat_body(stream=True)
    headers = {"Host": "bench", "Content-Type": "application/json", "Content-Length": str(len(body)), **HEADERS}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    path = rig.folder / "stream.request"
    path.write_bytes(f"POST {CHAT_PATH} HTTP/1.1\r\n{head}\r\n".encode() + body)
    return str(path)


def _read(maker: Maker, port: int, load: list[str], tokens: int) -> dict[str, float]:
    command = maker.python("tests.bench.reader", str(port), *load)
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"the streams could not be read:\n{done.stderr[-2_000:]}")
    told = json.loads(done.stdout)
    if told["tokens"] != tokens:
        raise RuntimeError(f"{told['tokens']} tokens came of {tokens}")
    return {"p50_ms": told["steps"][500], "p99_ms": told["steps"][990], "max_ms": told["steps"][1_000]}


def _added(seen: dict[str, list[dict[str, float]]], name: str, key: str = "p99_ms", to: str = _DIRECT) -> float:
    """Return the median over the rounds of what `name` adds to `to`, as a rule at the 99th percentile."""
    return median(ours[key] - others[key] for ours, others in zip(seen[name], seen[to], strict=True))


def _described(seen: dict[str, list[dict[str, float]]]) -> list[str]:
    lines = []
    for name, rounds in seen.items():
        p50, p99, most = (median(one[key] for one in rounds) for key in ("p50_ms", "p99_ms", "max_ms"))
        lines.append(f"{name:<12} p50 {p50:.2f} ms, p99 {p99:.2f} ms, longest {most:.1f} ms")
    for name, to in ((_OURS, _DIRECT), (_OURS, _FLOOR), (_FLOOR, _DIRECT)):
        half, most = (_added(seen, name, key, to) for key in ("p50_ms", "p99_ms"))
        lines.append(f"{name} against {to}: p50 {half:+.2f} ms, p99 {most:+.2f} ms")
    return lines
