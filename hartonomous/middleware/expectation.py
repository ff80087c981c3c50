"""`Expect: 100-continue`: a caller that waits to be asked for its body is asked when the body is wanted.

aiohttp's applications ask for it before anything else, so that also somebody without a key would send all of it. The
entrance (`routing`) does not; who reads the body calls `invite` first, and whoever has been refused by then never sends
it.
"""

from __future__ import annotations

from aiohttp import HttpVersion11, hdrs, web

from hartonomous.errors import ExpectationFailedError

_CONTINUE = "100-continue"
_INVITED = web.RequestKey("_INVITED", bool)


def check_expectation(request: web.Request) -> None:
    """Raise ExpectationFailedError where what a request expects is nothing that a server knows."""
    if request.version >= HttpVersion11:
        for expected in request.headers.getall(hdrs.EXPECT):
            if expected.lower() != _CONTINUE:
                raise ExpectationFailedError(f"{_CONTINUE} is all that can be expected.")


async def invite(request: web.Request) -> None:
    """Ask for the body, once, if the caller waits for that. To be called before the body is read."""
    if _waits(request):
        request[_INVITED] = True
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer has not begun


def end_uninvited(request: web.Request, response: web.StreamResponse) -> None:
    """Say that the connection closes where the body is not wanted any more: whether it comes cannot be known.

    See RFC 9110, section 10.1.1.
    """
    if _waits(request):
        response.force_close()
        response.headers[hdrs.CONNECTION] = "close"  # aiohttp has made up its mind about the header before


def _waits(request: web.Request) -> bool:
    return (
        hdrs.EXPECT in request.headers
        and request.version >= HttpVersion11
        and request.body_exists
        and _INVITED not in request
    )
