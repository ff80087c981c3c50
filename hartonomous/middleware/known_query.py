"""The floor that refuses what a query string says and the path does not know, as a body's unknown fields are refused.

What paths know stands in their `Guard`; those of OpenAI's contract ignore what they do not know.
"""

from __future__ import annotations

from aiohttp import web

from hartonomous.errors import ValidationFailedError
from hartonomous.handlers.body import shown
from hartonomous.keys import Guard


def check_query(request: web.Request, guard: Guard | None) -> None:
    """Let the request through when each of its parameters is known, and there once.

    Raises:
        ValidationFailedError: one is not; `param` is its name.
    """
    if guard is not None and guard.parameters is not None and "?" in request.raw_path:
        for name in request.query:
            if name not in guard.parameters:
                raise ValidationFailedError(f"{shown(name)} is not a known parameter.", param=shown(name))
            if len(request.query.getall(name)) > 1:
                raise ValidationFailedError(f"{shown(name)} is given twice.", param=shown(name))
