"""The one way to a collection in the vector store, which asks the caller's grant before it leads anywhere.

Nothing is read or written of a collection but by a path, and every such path is made here: who forgets to ask has
nowhere to send a call to. What answers from memory without one (what is known of a collection, kept answers) asks the
grant by itself, and so do handlers, before they begin any work.

Each collection is a physical one of its own in the store, so the path is the filter. An alias that a hand or a restored
snapshot has pointed at another collection's points would still lead astray. Therefore what we make says whose it is:
the mark of a physical collection, which is compared whenever it is looked at (`clients.marks`), and every point. A
search or a listing wants no point that says something else, and what comes back is looked at once more. What was made
before that says nothing, and is taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hartonomous.clients.marks import collection_of
from hartonomous.core.call import Call
from hartonomous.errors import BackendError
from hartonomous.log import logger

FIELD = "collection"
"""The payload field that says whose a point is."""


def name_of(collection: str) -> str:
    """Return the name by which grants know a collection: of a physical one that of the collection it belongs to."""
    return collection_of(collection) or collection


def path_to(collection: str, call: Call, what: str = "") -> str:
    """Return the path of a call about a collection, by its name or a physical one's.

    Raises PermissionDeniedError when the caller may not see it.
    """
    call.grant.check(name_of(collection))
    return f"/collections/{collection}{what}"


def names_another(collection: str) -> dict[str, Any]:
    """Return the condition that a point says that it is another collection's."""
    return {"key": FIELD, "match": {"except": [name_of(collection)]}}


def refuse_others(collection: str, payloads: Iterable[object]) -> None:
    """Raise BackendError when one of these payloads says that it is another collection's."""
    name = name_of(collection)
    for payload in payloads:
        if isinstance(payload, dict) and (payload.get(FIELD) or name) != name:
            logger.bind(collection=collection).error("the vector store answered points of another collection")
            raise BackendError("The vector store answered what is not of this collection.", code="foreign_points")
