"""Which model the addresses of one service serve together, and which of them serves another. Pure.

The model that a service has stays its model as long as any of its addresses is known to serve it, also one that is down
at the moment: where one of two addresses has come back with another model, a pause of the other must not make that one
the service's. When nobody serves it any more it is what most of the others do, by weight; of two with as much the one
whose address stands first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class Served:
    """A model as a server tells of it: its name, and the width of its embeddings if it says so."""

    name: str
    dimension: int | None

    def is_like(self, other: Served) -> bool:
        """Whether both can be the same model."""
        widths = {self.dimension, other.dimension} - {None}
        return self.name == other.name and len(widths) < 2

    def __str__(self) -> str:
        return self.name if self.dimension is None else f"{self.name} ({self.dimension} dimensions)"


def agreed(before: Served | None, told: Sequence[tuple[Served, int]]) -> Served | None:
    """Return the service's model: `before` it was that, and its addresses say `told`, each with its weight."""
    if not told or (before is not None and any(model.is_like(before) for model, _ in told)):
        return before
    return max(
        (model for model, _ in told), key=lambda model: sum(weight for other, weight in told if other.is_like(model))
    )
