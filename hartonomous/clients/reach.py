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

from hartonomous.clients.marks import name_of
from hartonomous.core.call import Call

__all__ = ["name_of", "path_to"]


def path_to(collection: str, call: Call, what: str = "") -> str:
    """Return the path of a call about a collection, by its name or a physical one's.

    Raises PermissionDeniedError when the caller may not see it.
    """
    call.grant.check(name_of(collection))
    return f"/collections/{collection}{what}"
