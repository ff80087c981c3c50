"""What the audit trail says of the collections that one request was denied: each of them once, up to a bound."""

from __future__ import annotations

from typing import Any

MOST_COLLECTIONS = 100


def note_collection(notes: dict[str, Any], collection: str | None) -> None:
    """Add a collection that was denied; where it is not the only one, all of them stand as `collections`."""
    if collection is None or notes.setdefault("collection", collection) == collection:
        return
    names = notes.setdefault("collections", [notes["collection"]])
    if collection in names:
        return
    if len(names) < MOST_COLLECTIONS:
        names.append(collection)
    else:
        notes["more_collections"] = True
