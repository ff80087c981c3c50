"""`/admin/sweep`: what killed ingests left behind is removed. `/admin/config/reload`: the file is read again."""

from __future__ import annotations

from aiohttp import web

from hartonomous import codec
from hartonomous.errors import ConfigError, ValidationFailedError
from hartonomous.handlers import shapes, views
from hartonomous.handlers.answers import json_response, runtime_of
from hartonomous.handlers.body import read_bytes, validate
from hartonomous.handlers.operations import Operation
from hartonomous.handlers.schemas import SweepBody
from hartonomous.keys import RELOAD
from hartonomous.middleware.audit import note
from hartonomous.middleware.reloads import asked_reload_noted
from hartonomous.middleware.request_id import call_of


async def sweep(request: web.Request) -> web.Response:
    """Remove what is older than the grace time, of one collection or of all that the key may see."""
    runtime, call = runtime_of(request), call_of(request)
    # Clients that send no body may name a type for it all the same.
    data = await read_bytes(request) if request.body_exists else b""
    body = validate(SweepBody, codec.loads_request(data) if data.strip() else {})
    least = runtime.config.rag.ingest.sweep_after_s
    older_than_s = least if body.older_than_s is None else body.older_than_s
    if older_than_s < least:
        raise ValidationFailedError(
            f"older_than_s must be at least {least:g}: what is younger may be an ingest under way.",
            param="older_than_s",
        )
    note(request, collection=body.collection)
    swept = await runtime.sweeper.sweep(body.collection, older_than_s, call)
    return json_response(views.sweep_answer(swept, call.request_id))


async def reload(request: web.Request) -> web.Response:
    """Serve what the configuration file says now, or go on with the old one and say what is wrong."""
    try:
        reloaded = await request.app[RELOAD](asked_reload_noted(request))
    except ConfigError as error:
        raise ValidationFailedError(error.message, param=error.param, code=error.code) from error
    body = {"status": "reloaded", "changed": reloaded.changed, "restart_required": reloaded.restart_required}
    return json_response(body)


OPERATIONS = (
    Operation(
        "POST",
        "/admin/config/reload",
        reload,
        "Read the configuration file again",
        "administration",
        answer=shapes.ReloadAnswer,
        errors=(422,),
        scope="admin",
        event="reload",
    ),
    Operation(
        "POST",
        "/admin/sweep",
        sweep,
        "Remove what killed ingests and reindexes left behind",
        "administration",
        SweepBody,
        shapes.SweepAnswer,
        body_required=False,
        errors=(404, 409, 422, 429, 502, 503, 504),
        scope="admin",
        event="sweep",
    ),
)
