"""How several adapters get in each other's way, as figures and as lines, and the method that is advised.

`engine.interference` measures. The advice is by rules, whose numbers docs/combining.md justifies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ingot.plan.figures import counted, labelled, table

#: |cosine| from which on two updates say much the same, or much the contrary.
ALIKE = 0.2
#: How many times as much as by chance two adapters answer to the same inputs that are entangled.
ENTANGLED = 1.5
#: How many times as large as the other an update is that drowns it.
DROWNING = 2.0


@dataclass(frozen=True)
class Pair:
    """Two adapters on one group of tensors.

    Attributes:
        cosine: <Δ₁, Δ₂> / (‖Δ₁‖·‖Δ₂‖).
        conflicts: of the elements that both change, the share that they change in opposite directions; None where
            there are none.
        shared: how much they answer to the same inputs: the cosine of Δ₁ᵀΔ₁ and Δ₂ᵀΔ₂, from 0 where they read nothing
            in common to 1; None where the updates are no products. Inputs are the columns of the tensor as stored.
        by_chance: what `shared` would be on average if one of them read its inputs turned at random.
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
    sizes: Mapping[int, float]
    pairs: tuple[Pair, ...]
    exact: bool


@dataclass(frozen=True)
class Interference:
    """All groups; `alone` tensors are changed by one adapter only. `advice` are whole sentences."""

    groups: tuple[GroupInterference, ...]
    alone: int
    advice: tuple[str, ...]


# -- advice ---------------------------------------------------------------------------------------------------------


def advice(groups: Sequence[GroupInterference]) -> tuple[str, ...]:
    """Which method for which adapters, and why."""
    if not groups:
        return ("No tensor is changed by more than one adapter: --method linear, which changes nothing of them.",)
    pairs = dict.fromkeys(pair.adapters for group in groups for pair in group.pairs)
    told = [sentence for pair in pairs for sentence in _of_pair(groups, pair)]
    return (*told, "Figures of weights foretell failure, not success: ask the merged model (`ingot validate "
            "--samples`), for each adapter its own task.")  # fmt: skip


def _of_pair(groups: Sequence[GroupInterference], adapters: tuple[int, int]) -> Iterator[str]:
    both = f"Adapters {adapters[0] + 1} and {adapters[1] + 1}"
    cosine = _mean(groups, adapters, lambda pair: pair.cosine) or 0.0
    if cosine >= ALIKE:
        yield (
            f"{both} say much the same (cosine {cosine:.2f}), and their sum says it twice: --method ties, which takes "
            "the mean where they agree."
        )
    elif cosine <= -ALIKE:
        yield (
            f"{both} contradict each other (cosine {cosine:.2f}): no method keeps both. Leave one out, or make two "
            "models."
        )
    else:
        yield (
            f"{both} have little in common (cosine {cosine:.2f}; half of all signs differ by chance), so that there is "
            "nothing to agree on: --method linear, with weights of 1 to begin with."
        )
    shared = _mean(groups, adapters, lambda pair: pair.shared)
    chance = _mean(groups, adapters, lambda pair: pair.by_chance)
    if shared is not None and chance and shared >= ENTANGLED * chance and abs(cosine) < ALIKE:
        yield (
            f"{both} answer to the same inputs ({shared:.3f}; by chance {chance:.3f}): each may disturb what the other "
            "has learnt, the more the larger it is, and no method is known here that undoes it."
        )
    yield from _drowning(groups, adapters)


def _drowning(groups: Sequence[GroupInterference], adapters: tuple[int, int]) -> Iterator[str]:
    sizes = [
        sum(group.sizes[number] * group.looked for group in groups if number in group.sizes) for number in adapters
    ]
    large, small = (0, 1) if sizes[0] >= sizes[1] else (1, 0)
    if sizes[small] and sizes[large] >= DROWNING * sizes[small]:
        yield (
            f"Adapter {adapters[large] + 1} is {sizes[large] / sizes[small]:.1f} times as large as adapter "
            f"{adapters[small] + 1} and drowns it: give it a smaller weight."
        )


def _mean(
    groups: Sequence[GroupInterference], adapters: tuple[int, int], figure: Callable[[Pair], float | None]
) -> float | None:
    """Over all tensors of the groups that have the figure."""
    found = [
        (value, group.count)
        for group in groups
        for pair in group.pairs
        if pair.adapters == adapters and (value := figure(pair)) is not None
    ]
    return sum(value * count for value, count in found) / sum(count for _, count in found) if found else None


# -- for people -----------------------------------------------------------------------------------------------------


def interference_lines(found: Interference, width: int) -> list[str]:
    """A table of groups and pairs, and the advice."""
    shared = sum(group.count for group in found.groups)
    title = f"Interference: {counted(shared, 'tensor')} changed by several adapters, {found.alone:,} by one alone"
    head = ("tensor", "", "adapters", "cosine", "opposed", "Δ/W", "shared")
    rows = [_row(group, pair) for group in found.groups for pair in group.pairs]
    lines = [title, *(table([head, *rows], width, align="<>>>>>>") if rows else [])]
    return lines + labelled("  advice", found.advice, width)


def _row(group: GroupInterference, pair: Pair) -> tuple[str, ...]:
    one, other = (group.sizes[number] for number in pair.adapters)
    return (
        group.pattern,
        f"×{group.count}" if group.count > 1 else "",
        "·".join(str(number + 1) for number in pair.adapters),
        f"{pair.cosine:.2f}".replace("-0.00", "0.00"),
        "-" if pair.conflicts is None else f"{pair.conflicts:.0%}",
        f"{one:.2g}, {other:.2g}",
        "-" if pair.shared is None or not pair.by_chance else f"{pair.shared / pair.by_chance:.1f}×",
    )
