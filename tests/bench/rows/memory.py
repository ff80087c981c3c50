"""The memory of an API process after a great many requests, and how long a process takes until it is ready."""

from __future__ import annotations

import time
from statistics import median

from tests.bench import wrk
from tests.bench.plan import WHOLE, Plan
from tests.bench.rig import Rig
from tests.bench.table import TARGETS, Row

# Of the second half of the requests: caches are full by then.
_FLAT_MB = 4.0
# Seconds of chats, and of questions, in turn.
_CHATS_S, _QUESTIONS_S = 3, 2
_SHARES = (0.1, 0.5, 1.0)


def rss(rig: Rig, plan: Plan) -> Row:
    """Send chats and questions in turn until there were enough; look at the memory on the way."""
    with rig.application() as ours:
        kinds = [(rig.chat(ours.url), _CHATS_S), (rig.questions(ours.url), _QUESTIONS_S)]
        course = [(0, ours.memory_mb)]
        turn = 0
        ends = time.monotonic() + plan.memory_limit_s
        while course[-1][0] < plan.memory_requests and time.monotonic() < ends:
            load, seconds = kinds[turn % 2]
            sent = course[-1][0] + wrk.run(load, plan.connections, seconds).requests
            course.append((sent, ours.memory_mb))
            turn += 1
    looked = [_at(course, share * course[-1][0]) for share in _SHARES]
    told = ", ".join(f"{memory:.1f} MB after {sent:,}" for sent, memory in (course[0], *looked))
    grown = looked[-1][1] - looked[1][1]
    notes = [f"{told} requests (chats and questions)", f"{grown:+.1f} MB in the second half of them"]
    whole = course[-1][0] >= WHOLE.memory_requests
    if not whole:
        notes.append("too few requests to say whether it is flat: caches still fill")
    fails = f"it is not flat: more than {_FLAT_MB:g} MB" if whole and grown > _FLAT_MB else ""
    return Row(TARGETS["rss"], course[-1][1], notes, {"course": course}, fails)


def ready(rig: Rig, plan: Plan) -> Row:
    """Start the application several times, and once before that, which compiles what is not compiled yet."""
    times, processor = [], []
    with rig.application(bound=False):
        pass
    for _ in range(plan.starts):
        with rig.application(bound=False) as ours:
            times.append(ours.started_s)
            processor.append(ours.cpu_s)
    told = ", ".join(f"{took:.2f} s" for took in times)
    notes = [f"{told}; {median(processor):.2f} s of the processor"]
    return Row(TARGETS["ready"], median(times), notes, {"seconds": times, "processor_s": processor})


def _at(course: list[tuple[int, float]], requests: float) -> tuple[int, float]:
    return next((one for one in course if one[0] >= requests), course[-1])
