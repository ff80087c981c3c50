"""Which collection a request is about, and whether its caller reaches it: asked before any work is begun.

The answer follows from the name alone. So it is the same whether there is such a collection or not, and no backend is
asked for it.
"""

from __future__ import annotations

from hartonomous import tracing
from hartonomous.core.call import Call
from hartonomous.keys import Runtime


def reached(name: str | None, runtime: Runtime, call: Call) -> str:
    """Return the collection that a request names, the default one when it names none.

    Raises PermissionDeniedError when the caller may not see it.
    """
    collection = name or runtime.config.rag.default_collection
    call.grant.check(collection)
    tracing.attributed(call, {"hartonomous.collection": collection})
    return collection
