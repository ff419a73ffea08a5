"""Where the nodes of a graph stand: in columns from left to right, few edges crossing, none through a node.

An edge that skips a column gets an empty place in it, through which it is drawn. Columns are put in order by the mean
place of each node's neighbours, a few times forth and back (the barycentre heuristic of Sugiyama, Tagawa and Toda,
1981); then heights are the least squares nearest to the neighbours' that keep nodes apart (pooling adjacent violators).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

#: Pixels: a node, and the room between nodes.
WIDTH, HEIGHT = 232, 48
GAP_ACROSS, GAP_DOWN = 44, 14
_PASSING = 18  # of an edge that passes a column
_SWEEPS = 8

Edge = tuple[str, str]


@dataclass(frozen=True)
class Places:
    """Pixels. `nodes`: the left upper corner of each. `edges`: the points that each goes through, ends included."""

    width: int
    height: int
    nodes: dict[str, tuple[int, int]]
    edges: dict[Edge, tuple[tuple[int, int], ...]]


def lay_out(
    nodes: Sequence[str], edges: Iterable[Edge], *, first: Mapping[str, int] | None = None, late: Collection[str] = ()
) -> Places:
    """Places for all nodes.

    Args:
        first: nodes that stand in this column or right of it, counted from 0; a column that stays empty falls away.
        late: nodes that stand right before the first that is made of them, not as far left as can be.
    """
    if not nodes:
        return Places(0, 0, {}, {})
    order, kept = _without_circles(nodes, list(edges))
    level = _levels(order, kept, first or {}, set(late))
    columns: list[list[str]] = [[] for _ in range(max(level.values()) + 1)]
    for node in nodes:
        columns[level[node]].append(node)
    chains: dict[Edge, list[str]] = {}
    for one, other in kept:
        passed = [f"{one} > {other} {column}" for column in range(level[one] + 1, level[other])]
        for column, name in enumerate(passed, start=level[one] + 1):
            columns[column].append(name)
        chains[one, other] = [one, *passed, other]
    beside = _neighbours(columns, chains.values())
    _arrange(columns, beside)
    real = set(nodes)
    tall = {name: HEIGHT if name in real else _PASSING for column in columns for name in column}
    middle = _heights(columns, beside, tall)
    top = min(middle[name] - tall[name] / 2 for name in middle)
    across = {name: number * (WIDTH + GAP_ACROSS) for number, column in enumerate(columns) for name in column}
    down = {name: round(middle[name] - top) for name in middle}
    places = {name: (across[name], down[name] - HEIGHT // 2) for name in nodes}
    paths = {
        (one, other): (
            (across[one] + WIDTH, down[one]),
            *((across[name] + dx, down[name]) for name in chain[1:-1] for dx in (0, WIDTH)),
            (across[other], down[other]),
        )
        for (one, other), chain in chains.items()
    }  # fmt: skip
    height = max(down[name] + tall[name] // 2 for name in down)
    return Places(len(columns) * (WIDTH + GAP_ACROSS) - GAP_ACROSS, height, places, paths)


def _without_circles(nodes: Sequence[str], edges: list[Edge]) -> tuple[list[str], list[Edge]]:
    """Nodes after all that they were made of. Records may claim a circle; the edges that close it are left out."""
    waiting = dict.fromkeys(nodes)
    before: dict[str, set[str]] = {node: set() for node in nodes}
    after: dict[str, list[str]] = {node: [] for node in nodes}
    for one, other in edges:
        if one != other:
            before[other].add(one)
            after[one].append(other)
    ready = [node for node in nodes if not before[node]]
    order: list[str] = []
    while waiting:
        node = ready.pop(0) if ready else next(iter(waiting))
        if node not in waiting:
            continue
        del waiting[node]
        order.append(node)
        for other in after[node]:
            before[other].discard(node)
            if not before[other]:
                ready.append(other)
    number = {node: at for at, node in enumerate(order)}
    return order, [(one, other) for one, other in dict.fromkeys(edges) if number[one] < number[other]]


def _levels(order: Sequence[str], edges: Sequence[Edge], first: Mapping[str, int], late: set[str]) -> dict[str, int]:
    """The column of each node: right of all that it was made of."""
    level = {node: first.get(node, 0) for node in order}
    number = {node: at for at, node in enumerate(order)}
    forth = sorted(edges, key=lambda edge: number[edge[0]])
    for one, other in forth:
        level[other] = max(level[other], level[one] + 1)
    after: dict[str, list[str]] = {}
    for one, other in edges:
        after.setdefault(one, []).append(other)
    for node in reversed(order):
        if node in late and node in after:
            level[node] = min(level[other] for other in after[node]) - 1
    taken = {one: number for number, one in enumerate(sorted(set(level.values())))}
    return {node: taken[one] for node, one in level.items()}


def _neighbours(columns: Sequence[Sequence[str]], chains: Iterable[Sequence[str]]) -> dict[str, tuple[list[str], ...]]:
    """Of each name, those in the column before it and those in the column after it."""
    beside: dict[str, tuple[list[str], ...]] = {name: ([], []) for column in columns for name in column}
    for chain in chains:
        for one, other in pairwise(chain):
            beside[one][1].append(other)
            beside[other][0].append(one)
    return beside


def _arrange(columns: list[list[str]], beside: dict[str, tuple[list[str], ...]]) -> None:
    """Put every column in an order in which few edges cross."""
    at = {name: float(number) for column in columns for number, name in enumerate(column)}
    for sweep in range(_SWEEPS):
        side = sweep % 2
        for column in columns if side == 0 else reversed(columns):
            means = {
                name: sum(at[other] for other in beside[name][side]) / len(beside[name][side])
                if beside[name][side] else at[name]
                for name in column
            }  # fmt: skip
            column.sort(key=means.__getitem__)
            at.update((name, float(number)) for number, name in enumerate(column))


def _heights(
    columns: Sequence[Sequence[str]], beside: dict[str, tuple[list[str], ...]], tall: dict[str, int]
) -> dict[str, float]:
    """The middle of each name, as near to its neighbours' as the others of its column leave room."""
    middle: dict[str, float] = {}
    for column in columns:
        height = 0.0
        for name in column:
            middle[name] = height + tall[name] / 2
            height += tall[name] + GAP_DOWN
    for sweep in range(2 * _SWEEPS):
        for column in columns if sweep % 2 == 0 else reversed(columns):
            wanted = []
            for name in column:
                others = [*beside[name][0], *beside[name][1]]
                wanted.append(sum(middle[other] for other in others) / len(others) if others else middle[name])
            apart = [(tall[one] + tall[other]) / 2 + GAP_DOWN for one, other in pairwise(column)]
            middle.update(zip(column, spread(wanted, apart), strict=True))
    return middle


def spread(wanted: Sequence[float], apart: Sequence[float]) -> list[float]:
    """The places nearest to those wanted (least squares) of which each is at least `apart` after the one before it.

    Example: spread([0, 0], [2]) -> [-1, 1]
    """
    shift, shifts = 0.0, [0.0]
    for gap in apart:
        shift += gap
        shifts.append(shift)
    pools: list[tuple[float, int]] = []  # mean, how many
    for want, by in zip(wanted, shifts, strict=True):
        mean, count = want - by, 1
        while pools and pools[-1][0] > mean:
            other, many = pools.pop()
            mean, count = (mean * count + other * many) / (count + many), count + many
        pools.append((mean, count))
    flat = [mean for mean, count in pools for _ in range(count)]
    return [mean + by for mean, by in zip(flat, shifts, strict=True)]
