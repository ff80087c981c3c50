"""The gateway and the RAG query against their floors, as fast as answers come."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from statistics import median
from urllib.request import Request, urlopen

from tests.bench import rounds
from tests.bench.plan import Plan
from tests.bench.processes import Program
from tests.bench.rig import HEADERS, Rig
from tests.bench.rounds import Contender, Samples
from tests.bench.table import TARGETS, Row

_ASKED = re.compile(r'^hartonomous_backend_requests_total\{.*service="(\w+)".*\} (\S+)$', re.MULTILINE)
_QUESTIONS = re.compile(r'^hartonomous_http_requests_total\{.*"/rag/query".*\} (\S+)$', re.MULTILINE)
_FLOOR, _OURS, _LIMIT = "bare aiohttp", "hartonomous", "nginx"


def gateway(rig: Rig, plan: Plan) -> Row:
    """Measure whole chats that are passed through."""
    with ExitStack() as stack:
        floor = stack.enter_context(rig.gateway_floor())
        ours = stack.enter_context(rig.application())
        contenders = {
            _FLOOR: Contender(rig.chat(floor.url), floor),
            _OURS: Contender(rig.chat(ours.url), ours),
            _LIMIT: Contender(rig.chat(rig.proxy)),
        }
        return _row("gateway", _play(contenders, plan))


def rag(rig: Rig, plan: Plan) -> Row:
    """Measure questions that are embedded, searched for, reranked and answered."""
    with ExitStack() as stack:
        floor = stack.enter_context(rig.rag_floor())
        ours = stack.enter_context(rig.application())
        contenders = {
            _FLOOR: Contender(rig.questions(floor.url), floor),
            _OURS: Contender(rig.questions(ours.url), ours),
        }
        samples = _play(contenders, plan)
        row = _row("rag", samples)
        return replace(row, notes=[*row.notes, _calls(ours)])


def added(rig: Rig, plan: Plan) -> Row:
    """Measure one question after the other, and the four calls that each of them makes."""
    with ExitStack() as stack:
        floor = stack.enter_context(rig.rag_floor())
        ours = stack.enter_context(rig.application())
        contenders = {
            _FLOOR: Contender(rig.questions(floor.url), floor),
            _OURS: Contender(rig.questions(ours.url), ours),
        }
        calls = {call.url.split("/", 3)[3]: Contender(call) for call in rig.calls()}
        seconds = min(plan.seconds, 2)
        samples = rounds.play(contenders | calls, 1, seconds, plan.added_rounds, 1)
    backends = sum(_p50(samples, name) for name in calls)
    values = {name: _p50(samples, name) - backends for name in contenders}
    notes = rounds.described(samples)
    notes.append(f"the four calls together {backends:.3f} ms; added by bare aiohttp {values[_FLOOR]:.3f} ms")
    return Row(TARGETS["added"], values[_OURS], notes, rounds.figures(samples))


def _play(contenders: Mapping[str, Contender], plan: Plan) -> Samples:
    return rounds.play(contenders, plan.connections, plan.seconds, plan.rounds, plan.warm_up_s)


def _row(key: str, samples: Samples) -> Row:
    ratios = rounds.ratios(samples, _OURS, _FLOOR)
    cpu = [ours.cpu_us / floor.cpu_us for ours, floor in zip(samples[_OURS], samples[_FLOOR], strict=True)]
    told = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    notes = [*rounds.described(samples), f"ratio of each round: {told}; by processor time {1 / median(cpu):.3f}"]
    return Row(TARGETS[key], median(ratios), notes, rounds.figures(samples))


def _calls(ours: Program) -> str:
    """Return how often each backend was asked for a question, which must be once: no cache answers any."""
    with urlopen(Request(f"{ours.url}/metrics", headers=dict(HEADERS)), timeout=30) as response:
        text = response.read().decode()
    asked: defaultdict[str, float] = defaultdict(float)
    for service, count in _ASKED.findall(text):
        asked[service] += float(count)
    questions = sum(float(count) for count in _QUESTIONS.findall(text))
    told = ", ".join(f"{service} {count / questions:.2f}" for service, count in asked.items())
    return f"calls a question, with what is looked up every two seconds: {told}"


def _p50(samples: Samples, name: str) -> float:
    return median(sample.seen.p50_ms for sample in samples[name])
