"""Five times as many requests as can be answered: how many still are, in time.

Once the generative service is the limit, by which the row is judged; once the process itself, which is shown below it.
Load comes at its rate, whatever becomes of it; who has no answer in two seconds goes away.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from typing import Any

import orjson

from tests.bench import wrk
from tests.bench.plan import Plan
from tests.bench.processes import Program
from tests.bench.rig import CHAT_PATH, HEADERS, QUERY_PATH, Rig, chat_body
from tests.bench.table import TARGETS, Row
from tests.bench.texts import question

_TIMES = 5
_DEADLINE_S = 2.0
_SLOTS = 8
_CHAT_S = 0.1
_PROCESS = "  the same where the process is the limit (shown alone)"


def overload(rig: Rig, plan: Plan) -> Row:
    """Measure chats before a slow service, and questions before fast ones."""
    paces = {"chat": {"call_s": _CHAT_S, "slots": _SLOTS}}
    with rig.beside(paces) as paced, rig.application({"generative": paced.url}, slots=_SLOTS) as ours:
        chats = _flooded(rig, plan, ours, rig.chat(ours.url), _request(rig, CHAT_PATH, chat_body()))
    with rig.application() as ours:
        body = orjson.dumps({"query": question(0).replace("station 0", "station %08d")})
        questions = _flooded(rig, plan, ours, rig.questions(ours.url), _request(rig, QUERY_PATH, body))
    notes = [
        f"chats, service of {_SLOTS} slots and {_CHAT_S * 1000:g} ms: {_told(chats)}",
        f"questions, services that answer at once: {_told(questions)}",
    ]
    target = TARGETS["overload"]
    process = Row(replace(target, title=_PROCESS), questions["kept"], figures=questions)
    return Row(target, chats["kept"], notes, chats, beside=[process])


def _flooded(rig: Rig, plan: Plan, ours: Program, load: wrk.Load, request: str) -> dict[str, Any]:
    wrk.run(load, plan.connections, plan.warm_up_s)
    peak = wrk.run(load, plan.connections, plan.seconds).per_second
    seconds = max(plan.overload_s, 2 * _DEADLINE_S)
    rate = _TIMES * peak
    arguments = (str(ours.port), request, str(rate), str(seconds), str(_DEADLINE_S))
    command = rig.maker.python("tests.bench.flood", *arguments)
    done = subprocess.run(command, capture_output=True, text=True, timeout=10 * seconds + 60, check=False)
    if done.returncode:
        raise RuntimeError(f"the flood ended:\n{done.stderr[-2_000:]}")
    told = json.loads(done.stdout)
    return {"peak_per_s": peak, "offered_per_s": rate, "kept": told["good_per_s"] / peak, **told}


def _request(rig: Rig, path: str, body: bytes) -> str:
    headers = {"Host": "bench", "Content-Type": "application/json", "Content-Length": str(_length(body)), **HEADERS}
    headers["X-Request-Timeout-Ms"] = str(round(_DEADLINE_S * 1_000))
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    file = rig.folder / "flood.request"
    file.write_bytes(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
    return str(file)


def _length(body: bytes) -> int:
    return len(body.replace(b"%08d", b"00000000"))


def _told(seen: dict[str, Any]) -> str:
    ends = ", ".join(
        f"{seen[name]} {name}" for name in ("refused", "late", "broken", "failed", "unsent") if name in seen
    )
    return (
        f"{seen['good_per_s']:,.0f}/s of a peak of {seen['peak_per_s']:,.0f}/s with {seen['sent_per_s']:,.0f}/s sent"
        f" ({ends or 'nothing else'})"
    )
