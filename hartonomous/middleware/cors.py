"""The floor that lets the configured web pages in: preflights, and what a browser must be told with every answer.

aiohttp-cors decides what a preflight and an answer are told. By itself it knows the resources of a router, and so
nothing of a path that there is not or of a method that a path does not take, whose errors a page could not read; it
keeps the origins it began with, and it never says `Vary: Origin`. So it is asked through a router adapter of our own
(`origins.EveryPath`), for which every path is alike and the origins are those of the configuration that serves now, and
what varies is said here. A preflight is answered before anybody looks for a key: it never carries one.

What is an operator's (`Guard.is_closed_to_pages`) is not for web pages. Nothing is said to those of other origins:
the browser keeps the answer from them.
"""

from __future__ import annotations

from aiohttp import hdrs, web
from aiohttp_cors import CorsConfig

from hartonomous.errors import PermissionDeniedError
from hartonomous.middleware.origins import ALLOWED, PREFLIGHT, EveryPath, cors_of, is_closed, preflighted

_PRIVATE_NETWORK = "Access-Control-{}-Private-Network"


def setup(app: web.Application) -> None:
    """Let the application's answers say what browsers need; `preflight` and `add_allowed` say it."""
    CorsConfig(app, router_adapter=EveryPath(app)).add(app.router)
    app[ALLOWED] = app.on_response_prepare.pop()  # which it has just put there; `add_allowed` asks it


async def preflight(request: web.Request) -> web.StreamResponse | None:
    """Answer a preflight; None for whatever else it is.

    Raises:
        PermissionDeniedError: the origin, the method or a header is none that is allowed.
    """
    if not await _is_for_us(request):
        return None
    try:
        response = await request.app[PREFLIGHT](request)
    except web.HTTPForbidden as error:
        raise PermissionDeniedError(
            "Web pages of this origin may not send such a request.", code="cors_refused"
        ) from error
    # Who names the origin of a public page means it, also where this server stands in a private network.
    if request.headers.get(_PRIVATE_NETWORK.format("Request")) == "true":
        response.headers[_PRIVATE_NETWORK.format("Allow")] = "true"
    return response


async def _is_for_us(request: web.Request) -> bool:
    """Whether it is a preflight, for something that web pages may ask for."""
    method = preflighted(request)
    if method is None or not cors_of(request).origins:
        return False
    return not is_closed(request, await request.app.router.resolve(request.clone(method=method)))


async def add_allowed(request: web.Request, response: web.StreamResponse) -> None:
    """Say what a page of a configured origin may see, and that the answer is another one for another origin."""
    await request.app[ALLOWED](request, response)
    named = [name.strip() for value in response.headers.getall(hdrs.VARY, ()) for name in value.split(",")]
    if "*" not in named and hdrs.ORIGIN.lower() not in map(str.lower, named):
        response.headers[hdrs.VARY] = ", ".join([*named, hdrs.ORIGIN])
