"""The audit trail's line of a reload, which the reload itself writes: whoever asked for it may have left by then."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from hartonomous.audit import Trail
from hartonomous.errors import HartonomousError
from hartonomous.keys import CALLER, NOTES, REQUEST_ID, TRAIL, Noted, Reloaded
from hartonomous.middleware.access import method_of, template_of
from hartonomous.middleware.limited import address_of


def asked_reload_noted(request: web.Request) -> Noted:
    """Let the reload that a request asks for write the request's line, which has no other; it may leave before."""
    request[NOTES]["is_told"] = True
    return reload_noted(
        request.app[TRAIL],
        key=request[CALLER].key_id,
        remote=address_of(request),
        method=method_of(request),
        route=template_of(request),
        request_id=request[REQUEST_ID],
    )


def reload_noted(trail: Trail, *, key: str | None = None, remote: str | None = None, **facts: Any) -> Noted:
    """Return what writes the line of a reload; without a request its `cause` says why there was one."""
    facts = {"key": key, "remote": remote, "request_id": None} | facts

    def write(ended: Reloaded | Exception) -> None:
        if isinstance(ended, Reloaded):
            trail.write("reload", **facts, outcome="ok", changed=ended.changed, restart_required=ended.restart_required)
        else:
            code = ended.error_code if isinstance(ended, HartonomousError) else HartonomousError.code
            trail.write("reload", **facts, outcome="failed", code=code)

    return write
