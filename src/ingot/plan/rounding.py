"""How each changed tensor is rounded: what was asked for where it applies, and what a person should know of it.

nearest     all others: float32 output, tensors that an adapter brings whole, dtype conversions
stochastic  sums; also in the place of `preserve` where a term is no product of two factors (DoRA, PiSSA, biases)
preserve    sums of products alone
auto        preserve where the update is small beside the dtype's steps, nearest where it is not
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ingot.adapters.roundtrip import RoundTrip
from ingot.adapters.terms import LowRank, Replace, ReplaceRows
from ingot.errors import UsageError
from ingot.plan.figures import counted
from ingot.plan.look import Look
from ingot.plan.model import Op, Options, Rounding

#: `auto` preserves an update whose rms is below so many times that of half a unit in the last place of W: where nearest
#: begins to be as good (docs/rounding.md).
PRESERVE_BELOW = 2.0
#: Below this the plan warns of nearest: a hundredth of the effect is lost here, two thirds at a tenth of it.
LOST_BELOW = 1.0
#: Tensors that are looked at for the warning, spread over all; adapter tensors that are larger are left out.
SAMPLED_TENSORS = 16
SAMPLED_NBYTES = 16 << 20


@dataclass(frozen=True)
class Rounded:
    """The ops of each shard with their rounding, and sentences about it."""

    ops: dict[str, list[Op]]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def decide(ops: Mapping[str, Sequence[Op]], options: Options, look: Look) -> Rounded:
    """The ops, each with its rounding. Raises UsageError where `options` ask for one that there is not."""
    sums = [op for of_shard in ops.values() for op in of_shard if _is_rounded_sum(op)]
    asked = _asked(options)
    if asked is Rounding.NEAREST:
        return Rounded({file: list(of_shard) for file, of_shard in ops.items()}, warnings=_losses(sums, look))
    chosen = {op.name: _mode(op, asked, look) for op in sums}
    seed = options.seed
    rounded = {
        file: [
            replace(op, rounding=chosen[op.name], seed=seed if chosen[op.name] is Rounding.STOCHASTIC else 0)
            if op.name in chosen
            else op
            for op in of_shard
        ]
        for file, of_shard in ops.items()
    }
    return Rounded(rounded, notes=_notes(asked, list(chosen.values())))


def _asked(options: Options) -> Rounding:
    if options.rounding not in tuple(Rounding):
        raise UsageError("no such rounding", expected=", ".join(Rounding), found=repr(options.rounding))
    return Rounding(options.rounding)


def _is_rounded_sum(op: Op) -> bool:
    exact = Replace | ReplaceRows | RoundTrip
    return op.dtype != "F32" and any(not isinstance(placed.term, exact) for placed in op.terms)


def _mode(op: Op, asked: Rounding, look: Look) -> Rounding:
    if asked is Rounding.AUTO:
        ratio = look.delta_ulps(op)
        if ratio is None or ratio >= PRESERVE_BELOW:
            return Rounding.NEAREST
        asked = Rounding.PRESERVE
    products = all(isinstance(placed.term, LowRank | RoundTrip) for placed in op.terms)
    return Rounding.STOCHASTIC if asked is Rounding.PRESERVE and not products else asked


def _notes(asked: Rounding, chosen: Sequence[Rounding]) -> tuple[str, ...]:
    counts = {mode: sum(one is mode for one in chosen) for mode in Rounding}
    if asked is Rounding.AUTO:
        parts = [f"{mode} for {counted(number, 'tensor')}" for mode, number in counts.items() if number]
        return (f"Rounding auto: {', '.join(parts) or 'no sum is rounded'}.",)
    if asked is Rounding.PRESERVE and counts[Rounding.STOCHASTIC]:
        number = counted(counts[Rounding.STOCHASTIC], "tensor")
        return (f"Rounding preserve is for products of two factors; {number} with other terms: stochastic.",)
    return ()


def _largest_nbytes(op: Op) -> int:
    return max((factor.ref.nbytes for placed in op.terms for factor in placed.term.factors()), default=0)


def _losses(sums: Sequence[Op], look: Look) -> tuple[str, ...]:
    """A warning where nearest rounding would lose the update, by a sample of the tensors."""
    small = [op for op in sums if _largest_nbytes(op) <= SAMPLED_NBYTES]
    step = max(1, len(small) // SAMPLED_TENSORS)
    seen = {op.name: look.delta_ulps(op) for op in small[step // 2 :: step][:SAMPLED_TENSORS]}
    ratios = {name: ratio for name, ratio in seen.items() if ratio is not None}
    lost = {name: ratio for name, ratio in ratios.items() if ratio < LOST_BELOW}
    if not lost:
        return ()
    worst = min(lost, key=lambda name: lost[name])
    dtypes = "/".join(sorted({op.dtype for op in sums if op.name in lost}))
    return (
        f"Nearest rounding into {dtypes} loses a part of this update: in {len(lost)} of {len(ratios)} tensors looked "
        f"at it is below half a unit in the last place of the weights ({lost[worst]:.2g} of that in {worst}). "
        "Pass --rounding preserve or --rounding auto, or --dtype float32; see docs/rounding.md.",
    )
