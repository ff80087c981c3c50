"""The first floor: an id for every request, kept from the caller where it is well formed, on every response.

`X-Request-ID` goes on every response that leaves through the application (added when the response is prepared, so
that a stream has it as well), on every log line and on every backend call; so does the trace that the caller says the
request belongs to. A request's `Call`, with its deadline, is made here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from aiohttp import web
from multidict import istr

from hartonomous import log
from hartonomous.core import trace
from hartonomous.core.call import Call
from hartonomous.core.deadline import Deadline
from hartonomous.errors import InvalidRequestError
from hartonomous.keys import CALL, CALLER, REQUEST_ID, RUNTIME, SPAN, TRACE

HEADER = "X-Request-ID"
TIMEOUT_HEADER = "X-Request-Timeout-Ms"

# So spelled that headers need not find out each time how they compare.
ANSWERED = istr(HEADER)
_TIMEOUT, _PARENT = istr(TIMEOUT_HEADER), istr(trace.PARENT)
# What the log says of a request, from its beginning on.
_FACTS: web.RequestKey[Mapping[str, str]] = web.RequestKey("_FACTS")

_MILLISECONDS = re.compile("[0-9]{1,12}")
_WELL_FORMED = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")

_ID_BYTES = 16
_IDS_AT_ONCE = 256
# Of the process: ids that nobody has had yet, as digits; asking the system for each takes 1 µs.
_unused: list[str] = []
os.register_at_fork(after_in_child=_unused.clear)


def identify(request: web.Request) -> None:
    """Give the request its id and its trace, and both to what the log says of it: a request has a task of its own."""
    headers = request.headers
    given = headers.get(ANSWERED)
    request[REQUEST_ID] = name = given if given is not None and _WELL_FORMED.match(given) else new_id()
    if _PARENT in headers:
        found = trace.read(headers.getall(trace.PARENT), headers.getall(trace.STATE, ()))
        if found is not None:
            place_in(request, found)
            log.begin_about(request[_FACTS])
            return
    request[_FACTS] = facts = {"request_id": name}
    log.begin_about(facts)


def place_in(request: web.Request, place: trace.TraceContext) -> None:
    """Let the request belong to a trace."""
    request[TRACE] = place
    request[_FACTS] = {"request_id": request[REQUEST_ID]} | place.facts


def facts_of(request: web.Request) -> Mapping[str, str]:
    """Return what the log's records of a request say of it: its id and its trace."""
    return request[_FACTS]


def add_request_id(request: web.Request, response: web.StreamResponse) -> None:
    """Put the id on a response."""
    response.headers[ANSWERED] = request[REQUEST_ID]


def new_id() -> str:
    """Return 128 random bits as 32 hexadecimal digits."""
    if not _unused:
        _unused.extend(os.urandom(_ID_BYTES * _IDS_AT_ONCE).hex(" ", _ID_BYTES).split())
    return _unused.pop()


def call_of(request: web.Request) -> Call:
    """Return the `Call` of a request that was let in: its deadline is the server's limit, or the caller's lower one.

    Raises:
        InvalidRequestError: the timeout header is no positive whole number.
    """
    call = request.get(CALL)
    if call is None:
        name, deadline, grant = request[REQUEST_ID], Deadline(_seconds(request)), request[CALLER].grant
        if len(request[_FACTS]) == 1:  # without a trace there is no span either: to look for what is not there is slow
            call = Call(name, deadline, {HEADER: name}, grant)
        else:
            place = request[TRACE]
            call = Call(name, deadline, {HEADER: name} | place.headers, grant, trace=place, span=request.get(SPAN))
        request[CALL] = call
    return call


def _seconds(request: web.Request) -> float:
    limit = request[RUNTIME].config.server.request_timeout_s
    text = request.headers.get(_TIMEOUT)
    if text is None:
        return limit
    if _MILLISECONDS.fullmatch(text) is None or not (wanted := int(text)):
        raise InvalidRequestError(
            f"{TIMEOUT_HEADER} must be a positive whole number of milliseconds.",
            param=TIMEOUT_HEADER,
            code="invalid_header",
        )
    return min(limit, wanted / 1000)
