"""The floor that notes in the audit trail what was done and who was refused, once for each request, after the answer.

It stands outside `errors`, so that it sees the answer that the caller had. Handlers add what only they know by `note`:
names, ids and counts, never a text of a prompt or a document.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from hartonomous.audit import Trail
from hartonomous.core.denied import note_collection
from hartonomous.errors import HartonomousError, PermissionDeniedError
from hartonomous.keys import CALLER, NOTES, REQUEST_ID, TRACE, TRAIL, Guard, guard_of
from hartonomous.middleware.access import method_of, template_of
from hartonomous.middleware.limited import address_of

_DENIED = frozenset((401, 403, 429))
_REFUSALS = {401: "authentication_failed", 403: "permission_denied"}


def note(request: web.Request, **facts: Any) -> None:
    """Add facts to what the trail will say of this request. `failed=True`: it failed, whatever its status is."""
    request[NOTES].update(facts)


def note_error(request: web.Request, error: HartonomousError) -> None:
    """Add why a request, or a part of it, was refused or failed."""
    notes = request[NOTES]
    notes["code"] = error.error_code
    if isinstance(error, PermissionDeniedError):
        notes["denied"] = True
        note_collection(notes, error.collection)


def tell(request: web.Request, status: int) -> None:
    """Write the line of a request, the first time that it is called for it; for an answer without end at its start."""
    tell_of(request, status, guard_of(request), request.app[TRAIL])


def tell_of(request: web.Request, status: int, guard: Guard | None, trail: Trail) -> None:
    """The same, for a request that needs what `guard` says."""
    notes = request[NOTES]
    event = _event(request, status, guard, notes)
    if event is None or notes.get("is_told"):
        return
    caller, outcome = request.get(CALLER), _outcome(status, notes)
    trail.write(
        event,
        key=None if caller is None else caller.key_id,
        remote=address_of(request),
        method=method_of(request),
        route=template_of(request),
        outcome=outcome,
        status=status,
        request_id=request[REQUEST_ID],
        **({} if TRACE not in request else {"trace_id": request[TRACE].trace_id}),
        **notes,
    )
    notes["is_told"] = True


def _event(request: web.Request, status: int, guard: Guard | None, notes: dict[str, Any]) -> str | None:
    """Return the word for what happened; None when it is none of the trail's business.

    Who was turned away before it was known who that is (429) does not fill the trail.
    """
    if status in _REFUSALS:
        return _REFUSALS[status]
    if notes.get("denied"):
        return "permission_denied"
    return None if guard is None or guard.event is None or CALLER not in request else guard.event


def _outcome(status: int, notes: dict[str, Any]) -> str:
    has_failed, is_denied = notes.pop("failed", False), notes.pop("denied", False)
    if is_denied or status in _DENIED:
        return "denied"
    return "failed" if has_failed or status >= 400 else "ok"
