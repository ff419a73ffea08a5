"""How several adapters get in each other's way, as figures and as lines, and the method that is advised.

`engine.interference` measures; the advice is by rules whose numbers docs/combining.md justifies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: |cosine| from which on two updates say much the same, or much the contrary.
ALIKE = 0.3
#: Times the share of inputs that two adapters of these ranks would share by chance, from which on they are entangled.
ENTANGLED = 3.0
#: How many times as large as the other an update is that drowns it.
DROWNING = 3.0


@dataclass(frozen=True)
class Pair:
    """Two adapters on one group of tensors.

    Attributes:
        cosine: <Δ₁, Δ₂> / (‖Δ₁‖·‖Δ₂‖).
        conflicts: of the elements that both change, the share that they change in opposite directions; None where
            there are none.
        shared: of the inputs that the smaller of two products reads, the share of the space that the other reads as
            well: ‖Q₁ᵀQ₂‖² / min(r₁, r₂) with orthonormal rows Q; None where the updates are no products.
        by_chance: what `shared` would be of random factors: max(r₁, r₂) / inputs.
    """

    adapters: tuple[int, int]
    cosine: float
    conflicts: float | None
    shared: float | None
    by_chance: float | None


@dataclass(frozen=True)
class GroupInterference:
    """Tensors of one pattern that several adapters change.

    Attributes:
        count, looked: how many there are, and how many were looked at.
        sizes: ‖w·Δ‖ / ‖W‖ by adapter number.
        exact: whether cosine and size are of all elements; else of some rows, as conflicts always are.
    """

    pattern: str
    count: int
    looked: int
    sizes: dict[int, float]
    pairs: tuple[Pair, ...]
    exact: bool


@dataclass(frozen=True)
class Interference:
    """All groups; `alone` tensors are changed by one adapter only. `advice` are whole sentences."""

    groups: tuple[GroupInterference, ...]
    alone: int
    advice: tuple[str, ...]


def advice(groups: Sequence[GroupInterference]) -> tuple[str, ...]:
    """Which method, and why."""
    return ()
