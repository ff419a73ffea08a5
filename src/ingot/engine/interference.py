"""How several adapters get in each other's way: measured from their deltas, before anything is written.

Of products of two factors cosine and size are exact, from matrices [r₁, r₂]: <Δ₁, Δ₂> = s₁·s₂·tr((B₂ᵀB₁)(A₁A₂ᵀ)). All
else is seen in some rows of a tensor.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from ingot.adapters.terms import Load, LowRank
from ingot.checkpoint.reading import DenseReader
from ingot.combine.apart import apart
from ingot.combine.combined import Combined, Contribution
from ingot.combine.deltas import Delta
from ingot.combine.parameters import Combination
from ingot.engine.changes import Changes
from ingot.engine.factors import FactorReader
from ingot.naming.placed import PlacedTerm
from ingot.plan.figures import collapse
from ingot.plan.interference import GroupInterference, Interference, Pair, advice
from ingot.plan.model import Op, Plan
from ingot.storage.inputs import InputFile

Files = Mapping[str, InputFile]

#: Tensors of a group that are looked at, spread over all; and places in each, of so many rows.
TENSORS = 8
PLACES = 4
ROWS = 16


def measure(plan: Plan, base: Files, adapters: Sequence[Files]) -> Interference:
    """Of every group of tensors that several adapters change. Reads their factors, and some rows of the base."""
    device = torch.device("cpu")
    load = FactorReader(adapters, device)
    look = _Look(load, Changes(load, DenseReader(base), device), len(plan.adapters))
    groups: dict[tuple[str, tuple[int, ...], tuple[int, ...]], list[Op]] = {}
    alone = 0
    for op in plan.ops:
        changing = tuple(one.adapter for one in apart(op.terms)[1])
        if len(changing) > 1:
            groups.setdefault((collapse(op.name), op.shape, changing), []).append(op)
        alone += len(changing) == 1
    found = tuple(look.at(pattern, ops) for (pattern, _, _), ops in groups.items())
    return Interference(found, alone, advice(found))


@dataclass
class _Sums:
    """What adds up over the tensors of a group, by adapter and by pair of adapters; squares and products in float64.

    Attributes:
        elements, weight: elements of the rows seen, and W² over them.
        numel: elements of the tensors looked at.
        products: <Δᵢ, Δⱼ> of whole tensors, where every update is a product.
        seen: <Δᵢ, Δⱼ> over the rows seen.
        both, against: elements that both change, and those that they change in opposite directions.
        shared, by_chance: see `Pair`, of each tensor.
    """

    elements: int = 0
    weight: float = 0.0
    numel: int = 0
    exact: bool = True
    products: defaultdict[tuple[int, int], float] = field(default_factory=lambda: defaultdict(float))
    seen: defaultdict[tuple[int, int], float] = field(default_factory=lambda: defaultdict(float))
    both: defaultdict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))
    against: defaultdict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))
    shared: defaultdict[tuple[int, int], list[tuple[float, float] | None]] = field(
        default_factory=lambda: defaultdict(list)
    )


@dataclass(frozen=True)
class _Look:
    load: Load
    changes: Changes
    adapters: int

    def at(self, pattern: str, ops: Sequence[Op]) -> GroupInterference:
        step = max(1, len(ops) // TENSORS)
        looked = ops[step // 2 :: step][:TENSORS]
        sums = _Sums()
        for op in looked:
            base, parts = apart(op.terms)
            self._see(op, base, parts, sums)
            self._multiply(parts, sums)
            sums.numel += math.prod(op.view)
        numbers = [one.adapter for one in apart(ops[0].terms)[1]]
        return GroupInterference(
            pattern=pattern if len(ops) > 1 else ops[0].name,
            count=len(ops),
            looked=len(looked),
            sizes={number: _size(sums, number) for number in numbers},
            pairs=tuple(_pair(sums, pair) for pair in itertools.combinations(numbers, 2)),
            exact=sums.exact,
        )

    def _see(self, op: Op, base: tuple[PlacedTerm, ...], parts: Sequence[Contribution], sums: _Sums) -> None:
        """Some rows of the tensor, changed by each adapter alone."""
        rows, columns = op.view
        term = Combined(Combination(), tuple(parts), op.view, op.name, 0, self.adapters)
        probe = replace(op, terms=(*base, PlacedTerm(term, (0, rows), (0, columns), term.beside)))
        tiles = self.changes.tiles(probe, len(base))
        deltas = [Delta(number, part, self.load, tiles) for number, part in enumerate(parts)]
        for begin, end in _places(rows):
            tile = torch.cat([tile for _, tile in tiles(begin, end)])
            sums.elements += tile.numel()
            sums.weight += float(tile.double().square().sum())
            found = {
                part.adapter: part.weight * delta.of(tile, begin, torch.empty_like(tile)).double()
                for part, delta in zip(parts, deltas, strict=True)
            }
            for pair in itertools.combinations_with_replacement(found, 2):
                product = found[pair[0]] * found[pair[1]]
                sums.seen[pair] += float(product.sum())
                sums.both[pair] += int(torch.count_nonzero(product))
                sums.against[pair] += int((product < 0).sum())

    def _multiply(self, parts: Sequence[Contribution], sums: _Sums) -> None:
        """<Δᵢ, Δⱼ> of whole tensors, where all of their terms are products of two factors."""
        if not all(isinstance(placed.term, LowRank) for part in parts for placed in part.terms):
            sums.exact = False
            return
        for one, other in itertools.combinations_with_replacement(parts, 2):
            pair, weight = (one.adapter, other.adapter), one.weight * other.weight
            for a, b in itertools.product(one.terms, other.terms):
                meeting = self._meeting(a, b)
                if meeting is None:
                    continue
                left, right, other_left, other_right = meeting
                assert isinstance(a.term, LowRank)
                assert isinstance(b.term, LowRank)
                inner = (left.T @ other_left) * (right @ other_right.T)
                sums.products[pair] += weight * a.term.scaling * b.term.scaling * float(inner.sum())
                if one is not other:
                    sums.shared[pair].append(_shared(meeting))

    def _meeting(self, a: PlacedTerm, b: PlacedTerm) -> tuple[torch.Tensor, ...] | None:
        """Both products' factors, B₁[rows, r₁], A₁[r₁, columns], B₂, A₂, on the block that they share."""
        rows = max(a.rows[0], b.rows[0]), min(a.rows[1], b.rows[1])
        columns = max(a.columns[0], b.columns[0]), min(a.columns[1], b.columns[1])
        if rows[0] >= rows[1] or columns[0] >= columns[1]:
            return None
        factors: list[torch.Tensor] = []
        for placed in (a, b):
            assert isinstance(placed.term, LowRank)
            left, right = self.load(placed.term.left).double(), self.load(placed.term.right).double()
            factors.append(left[rows[0] - placed.rows[0] : rows[1] - placed.rows[0]])
            factors.append(right[:, columns[0] - placed.columns[0] : columns[1] - placed.columns[0]])
        return tuple(factors)


def _places(rows: int) -> list[tuple[int, int]]:
    """Where rows are seen: `PLACES` stretches of `ROWS`, evenly spread; all of them where there are no more."""
    if rows <= PLACES * ROWS:
        return [(0, rows)]
    starts = [(2 * place + 1) * rows // (2 * PLACES) - ROWS // 2 for place in range(PLACES)]
    return [(start, start + ROWS) for start in starts]


def _shared(meeting: tuple[torch.Tensor, ...]) -> tuple[float, float] | None:
    """See `Pair`: of two products B[rows, r] @ A[r, columns], by matrices of their ranks alone."""
    (left, right), (other_left, other_right) = meeting[:2], meeting[2:]
    m, n, k = left.T @ left, other_left.T @ other_left, right @ other_right.T
    inner = float(((m @ k @ n) * k).sum())  # <G₁, G₂> with G = ΔᵀΔ = Aᵀ M A
    grams = [(m, right @ right.T), (n, other_right @ other_right.T)]
    norms = math.prod(float(((one @ own @ one) * own).sum()) ** 0.5 for one, own in grams)
    traces = math.prod(float((one * own).sum()) for one, own in grams)
    return (inner / norms, traces / right.shape[1] / norms) if norms else None


def _size(sums: _Sums, number: int) -> float:
    """‖w·Δ‖ / ‖W‖."""
    pair = (number, number)
    square = sums.products[pair] / sums.numel if sums.exact else sums.seen[pair] / max(1, sums.elements)
    weight = sums.weight / max(1, sums.elements)
    return math.sqrt(square / weight) if weight else math.inf


def _pair(sums: _Sums, pair: tuple[int, int]) -> Pair:
    products = sums.products if sums.exact else sums.seen
    norms = math.sqrt(products[pair[0], pair[0]] * products[pair[1], pair[1]])
    shared = [figures for figures in sums.shared[pair] if figures is not None]
    return Pair(
        adapters=pair,
        cosine=products[pair] / norms if norms else 0.0,
        conflicts=sums.against[pair] / sums.both[pair] if sums.both[pair] else None,
        shared=sum(share for share, _ in shared) / len(shared) if shared else None,
        by_chance=sum(chance for _, chance in shared) / len(shared) if shared else None,
    )
