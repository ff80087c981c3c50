"""A batch of questions against the same number of them one by one, before services that take their time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from http.client import HTTPConnection
from itertools import count
from statistics import median
from typing import Any

import orjson

from tests.bench.plan import Plan
from tests.bench.processes import Program
from tests.bench.rig import HEADERS, QUERY_PATH, Rig
from tests.bench.table import TARGETS, Row
from tests.bench.texts import question

_QUESTIONS = 64
_PACES: dict[str, dict[str, float]] = {
    "embedding": {"call_s": 0.020, "text_s": 0.001, "slots": 1},
    "search": {"call_s": 0.005, "slots": 32},
    "reranking": {"call_s": 0.020, "slots": 8},
    "chat": {"call_s": 0.100, "slots": 8},
}


def batch(rig: Rig, plan: Plan) -> Row:
    """Measure both ways in turn."""
    paces = {name: _scaled(pace, plan.time_scale) for name, pace in _PACES.items()}
    singly, at_once = [], []
    numbers = count(1_000_000)
    with rig.beside(paces) as paced, _application(rig, paced) as ours:
        _ask(ours, QUERY_PATH, {"query": question(next(numbers))})
        for _ in range(plan.batch_rounds):
            singly.append(_one_by_one(ours, numbers))
            at_once.append(_together(ours, numbers))
    ratios = [slow / fast for slow, fast in zip(singly, at_once, strict=True)]
    times = ", ".join(
        f"{name} {pace['call_s'] * 1000:g} ms ({pace['slots']:g} at a time)" for name, pace in paces.items()
    )
    notes = [
        f"{_QUESTIONS} one by one {median(singly):.2f} s, at once {median(at_once):.2f} s",
        f"a call takes: {times}; an embedding {paces['embedding']['text_s'] * 1000:g} ms more for each text",
        f"the chat's slots allow {_bound(paces):.1f} times",
    ]
    return Row(TARGETS["batch"], median(ratios), notes, {"singly_s": singly, "at_once_s": at_once, "paces": paces})


def _application(rig: Rig, paced: Program) -> Program:
    addresses = dict.fromkeys(("embedding", "reranking", "generative", "store"), paced.url)
    return rig.application(addresses, slots=int(_PACES["chat"]["slots"]))


def _one_by_one(ours: Program, numbers: Iterator[int]) -> float:
    began = time.monotonic()
    for _ in range(_QUESTIONS):
        _ask(ours, QUERY_PATH, {"query": question(next(numbers))})
    return time.monotonic() - began


def _together(ours: Program, numbers: Iterator[int]) -> float:
    began = time.monotonic()
    answered = _ask(
        ours, "/rag/batch-query", {"queries": [{"query": question(next(numbers))} for _ in range(_QUESTIONS)]}
    )
    if any(result["status"] != 200 for result in answered["results"]):
        raise RuntimeError(f"questions of a batch failed: {answered['counts']}")
    return time.monotonic() - began


def _ask(ours: Program, path: str, body: Any) -> Any:
    connection = HTTPConnection("127.0.0.1", ours.port, timeout=120)
    headers = {**HEADERS, "Content-Type": "application/json", "X-Request-Timeout-Ms": "120000"}
    connection.request("POST", path, orjson.dumps(body), headers)
    response = connection.getresponse()
    answered = response.read()
    connection.close()
    if response.status != 200:
        raise RuntimeError(f"{path} answered {response.status}: {answered[:500]!r}")
    return orjson.loads(answered)


def _scaled(pace: dict[str, float], scale: float) -> dict[str, float]:
    return {name: value if name == "slots" else value * scale for name, value in pace.items()}


def _bound(paces: dict[str, dict[str, float]]) -> float:
    """Return how many times faster a batch can be, if nothing else counts than the slots of the chat."""
    one = sum(pace["call_s"] + pace.get("text_s", 0.0) for pace in paces.values())
    return one * paces["chat"]["slots"] / paces["chat"]["call_s"]
