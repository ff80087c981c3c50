"""The gateway and the RAG query against their floors, as fast as answers come."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from statistics import median
from urllib.request import Request, urlopen

import orjson

from tests.bench import rounds
from tests.bench.plan import Plan
from tests.bench.processes import Program
from tests.bench.rig import HEADERS, Rig
from tests.bench.rounds import Contender, Samples
from tests.bench.table import TARGETS, Row

_ASKED = re.compile(r'^hartonomous_backend_requests_total\{.*service="(\w+)".*\} (\S+)$', re.MULTILINE)
_QUESTIONS = re.compile(r'^hartonomous_http_requests_total\{.*"/rag/query".*\} (\S+)$', re.MULTILINE)
_FLOOR, _OURS, _LIMIT = "bare aiohttp", "hartonomous", "nginx"
_STREAMED, _WIDE = "streamed", "many sources"
_NEAR = ", from the backends' core"
_AGAINST_NEAR = "  the same against calls from the backends' core (shown alone)"
_VARIANTS = {
    _STREAMED: "  the same where the answer comes to us as a stream (shown alone)",
    _WIDE: "  the same where most sources were not seen before (shown alone)",
}


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
        for name, addresses in ((_STREAMED, {"generative": rig.streaming}), (_WIDE, {"store": rig.wide})):
            program = stack.enter_context(rig.application(addresses, name=name))
            contenders[name] = Contender(rig.questions(program.url), program)
        samples = _play(contenders, plan)
        row = _row("rag", samples)
        notes = [*row.notes, *(f"{name}: {_ratios(samples, name)}" for name in _VARIANTS), _calls(ours), _asked(rig)]
        return replace(row, notes=notes, beside=[_variant(row, samples, name) for name in _VARIANTS])


def added(rig: Rig, plan: Plan) -> Row:
    """Measure one question after the other, and the four calls that each of them makes.

    The calls are made from the core of what is measured: to wake a backend on another core, and to be woken by it, is
    part of what a call takes there, whoever makes it.
    """
    with ExitStack() as stack:
        floor = stack.enter_context(rig.rag_floor())
        ours = stack.enter_context(rig.application())
        contenders = {
            _FLOOR: Contender(rig.questions(floor.url), floor),
            _OURS: Contender(rig.questions(ours.url), ours),
        }
        server = rig.maker.cores.server
        calls = {call.url.split("/", 3)[3]: Contender(replace(call, cores=server)) for call in rig.calls()}
        near = {f"{name}{_NEAR}": Contender(replace(call.load, cores=None)) for name, call in calls.items()}
        seconds = min(plan.seconds, 2)
        samples = rounds.play(contenders | calls | near, 1, seconds, plan.added_rounds, 1)
    notes = rounds.described(samples)
    values = []
    for title, backends in (("", calls), (_NEAR, near)):
        took = sum(median(_p50s(samples, name)) for name in backends)
        bare, added_ms = (_added(samples, name, backends) for name in (_FLOOR, _OURS))
        notes.append(f"the four calls together{title} {took:.3f} ms; added by bare aiohttp {median(bare):.3f} ms")
        notes.append(f"added in each round: {', '.join(f'{ms:.3f}' for ms in added_ms)}")
        values.append(median(added_ms))
    shown = Row(replace(TARGETS["added"], title=_AGAINST_NEAR), values[1])
    return Row(TARGETS["added"], values[0], notes, rounds.figures(samples), beside=[shown])


def _play(contenders: Mapping[str, Contender], plan: Plan) -> Samples:
    return rounds.play(contenders, plan.connections, plan.seconds, plan.rounds, plan.warm_up_s)


def _row(key: str, samples: Samples) -> Row:
    value = median(rounds.ratios(samples, _OURS, _FLOOR))
    notes = [*rounds.described(samples), f"ratio of each round: {_ratios(samples, _OURS)}"]
    return Row(TARGETS[key], value, notes, rounds.figures(samples))


def _ratios(samples: Samples, name: str) -> str:
    """Return the ratios to the bare program, by requests a second and by processor time."""
    told = ", ".join(f"{ratio:.3f}" for ratio in rounds.ratios(samples, name, _FLOOR))
    cpu = [floor.cpu_us / ours.cpu_us for ours, floor in zip(samples[name], samples[_FLOOR], strict=True)]
    return f"{told}; by processor time {median(cpu):.3f}"


def _variant(row: Row, samples: Samples, name: str) -> Row:
    target = replace(row.target, title=_VARIANTS[name])
    return Row(target, median(rounds.ratios(samples, name, _FLOOR)))


def _asked(rig: Rig) -> str:
    """Return how many candidates each side asks the store for, and how many it is answered."""
    asked = next(
        orjson.loads(body) for path, body in rig.recorded.asked.items() if path.endswith("/points/query/batch")
    )
    limits = [f"{search['limit']} ({search['using']})" for search in asked["searches"]]
    found = orjson.loads(rig.recorded.static["batch.json"])["result"]
    counts = ", ".join(str(len(ranking["points"])) for ranking in found)
    bare = len(orjson.loads(rig.recorded.static["query.json"])["result"]["points"])
    return f"candidates: asked for {', '.join(limits)} and answered {counts}; bare aiohttp is answered {bare}"


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


def _added(samples: Samples, name: str, backends: Iterable[str]) -> list[float]:
    """Return for each round by how many ms the median of `name` is above those of the backends together."""
    took = zip(*(_p50s(samples, backend) for backend in backends), strict=True)
    return [p50 - sum(calls) for p50, calls in zip(_p50s(samples, name), took, strict=True)]


def _p50s(samples: Samples, name: str) -> list[float]:
    return [sample.seen.p50_ms for sample in samples[name]]
