"""What a backend call inherits from the request it serves: an id, a deadline, headers to pass on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hartonomous.core.cachecontrol import ANYTHING, CacheControl
from hartonomous.core.deadline import Deadline


@dataclass(slots=True, frozen=True)
class Call:
    """The context of one request, given to pipelines and clients.

    `headers` go to every backend: `X-Request-ID`, and `traceparent` where the caller sent one. `grant` stands for what
    the caller may see: answers are shared only between callers with the same one. `cache` says which stored answers the
    caller takes.
    """

    request_id: str
    deadline: Deadline
    headers: Mapping[str, str] = field(default_factory=dict)
    grant: str = ""
    cache: CacheControl = ANYTHING
