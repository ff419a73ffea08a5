"""What a plan does, counted: tensors that change alike, tensors by their fate, and whose base an adapter names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ingot.adapters.dora import Dora
from ingot.adapters.terms import Term
from ingot.checkpoint.quantized.encoded import Encoded
from ingot.plan.figures import collapse
from ingot.plan.model import Op, OpKind, Plan


@dataclass(frozen=True)
class Group:
    """Tensors that are changed in the same way: names that differ in numbers only, one shape, one list of formulas.

    `decoded` is the format of the base's tensors, where they are quantized. `ranks` and `scalings` have an entry for
    each formula, None where the formula has none; `scalings` include the adapter's weight.
    """

    pattern: str
    count: int
    kind: OpKind
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    formulas: tuple[str, ...]
    adapters: tuple[int, ...]
    ranks: tuple[int | None, ...]
    scalings: tuple[float | None, ...]
    decoded: str | None = None


def groups(plan: Plan) -> list[Group]:
    """The changed, new and cast tensors in groups, in the order of the output."""
    nbytes = {ref.name: ref.nbytes for shard in plan.shards for ref in shard.header.tensors}
    found: dict[tuple[object, ...], list[Op]] = {}
    for op in plan.ops:
        if op.computed or op.kind is not OpKind.COPY:
            found.setdefault(_key(op), []).append(op)
    return [_group(ops, sum(nbytes[op.name] for op in ops)) for ops in found.values()]


def _key(op: Op) -> tuple[object, ...]:
    return (collapse(op.name), op.kind, _decoded(op), op.dtype, op.shape, *(_facts(placed.term) for placed in op.terms))


def _decoded(op: Op) -> str | None:
    return op.source.format.title if isinstance(op.source, Encoded) else None


def _group(ops: Sequence[Op], nbytes: int) -> Group:
    first = ops[0]
    # A tensor that fuses many modules (stacked experts) has many terms: each kind is listed once.
    facts = tuple(dict.fromkeys(_facts(placed.term) for placed in first.terms))
    terms = [placed.term for op in ops for placed in op.terms]
    return Group(
        pattern=collapse(first.name) if len(ops) > 1 else first.name,
        count=len(ops),
        kind=first.kind,
        dtype=first.dtype,
        shape=first.shape,
        nbytes=nbytes,
        formulas=tuple(formula for formula, *_ in facts),
        adapters=tuple(sorted({factor.adapter for term in terms for factor in term.factors()})),
        ranks=tuple(rank for _, rank, _ in facts),
        scalings=tuple(scaling for *_, scaling in facts),
        decoded=_decoded(first),
    )


def _facts(term: Term) -> tuple[str, int | None, float | None]:
    """Formula, rank, scaling."""
    inner = term.update if isinstance(term, Dora) else term
    return term.formula, getattr(inner, "rank", None), getattr(inner, "scaling", None)


def tally(plan: Plan) -> dict[str, tuple[int, int]]:
    """Number and bytes of the output's tensors by what happens to them."""
    nbytes = {ref.name: ref.nbytes for shard in plan.shards for ref in shard.header.tensors}
    words = {
        OpKind.CHANGE: "changed",
        OpKind.CAST: "cast",
        OpKind.DECODE: "decoded",
        OpKind.REPLACE: "replaced",
        OpKind.NEW: "new",
        OpKind.COPY: "copied",
    }
    counts = dict.fromkeys(words.values(), (0, 0))
    for op in plan.ops:
        number, size = counts[words[op.kind]]
        counts[words[op.kind]] = (number + 1, size + nbytes[op.name])
    return counts
