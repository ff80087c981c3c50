"""The routes of the application, and on which of two listeners each of them is found (`server.admin`).

What is not found on a listener is a path that there is not, whoever asks for it and by whatever method: the router
itself says so, before anything else looks at the request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable

from aiohttp import hdrs, web
from aiohttp.web_urldispatcher import MatchInfoError
from typing_extensions import override

from hartonomous.handlers.operations import Operation
from hartonomous.middleware.expectation import unanswered

Connections = Collection[web.RequestHandler]
_IsHere = Callable[[web.Request], bool]
_Resolved = tuple[web.UrlMappingMatchInfo | None, set[str]]


class _Somewhere(web.Resource):
    """A path that is found by some requests alone."""

    is_here: _IsHere

    @override
    async def resolve(self, request: web.Request) -> _Resolved:
        return await super().resolve(request) if self.is_here(request) else (None, set())


class _Plain(_Somewhere, web.PlainResource):
    """One without variable parts."""


class _Dynamic(_Somewhere, web.DynamicResource):
    """One with variable parts."""


class _UnaskedError(MatchInfoError):
    """A path that there is not, or not by this method, whose caller is not asked for a body."""

    @property
    @override
    def expect_handler(self) -> Callable[[web.Request], Awaitable[web.StreamResponse | None]]:
        return unanswered


class _Nowhere(web.PlainResource):
    """Whatever the other resources have not found, of callers that wait to be asked for a body: aiohttp would ask."""

    def __init__(self, router: web.UrlDispatcher) -> None:
        super().__init__("/")
        self._others = list(router.resources())

    @override
    async def resolve(self, request: web.Request) -> _Resolved:
        if hdrs.EXPECT not in request.headers:
            return None, set()
        allowed = {method for other in self._others for method in (await other.resolve(request))[1]}
        return _UnaskedError(
            web.HTTPMethodNotAllowed(request.method, allowed) if allowed else web.HTTPNotFound()
        ), set()


def add_routes(router: web.UrlDispatcher, operations: Iterable[Operation], operators: Connections | None) -> None:
    """Add the operations; `operators` are the connections where the operator's are found, None where all are alike."""
    resources: dict[str, web.Resource] = {}
    for operation in operations:
        path = _pattern(operation.path)
        if path not in resources:
            resources[path] = _resource(path, _place(operation, operators))
            router.register_resource(resources[path])
        for method in _methods(operation):
            resources[path].add_route(method, operation.handler, expect_handler=unanswered)
    router.register_resource(_Nowhere(router))


def _methods(operation: Operation) -> tuple[str, ...]:
    """Return its methods: what anyone may ask is asked by HEAD as well, as monitors do."""
    return (
        (hdrs.METH_GET, hdrs.METH_HEAD)
        if operation.method == "GET" and operation.scope is None
        else (operation.method,)
    )


def _place(operation: Operation, operators: Connections | None) -> _IsHere | None:
    """Return who finds the path of an operation, None for all: it is the same for all methods of the path."""
    if operators is None:
        return None
    return lambda request: operation.is_found(by_operators=request.protocol in operators)


def _resource(path: str, is_here: _IsHere | None) -> web.Resource:
    if is_here is None:
        return web.DynamicResource(path) if "{" in path else web.PlainResource(path)
    made = _Dynamic(path) if "{" in path else _Plain(path)
    made.is_here = is_here
    return made


def _pattern(path: str) -> str:
    """Return the router's form of a path: an id at the end may hold slashes."""
    return f"{path[:-4]}{{id:(?s:.+)}}" if path.endswith("{id}") else path
