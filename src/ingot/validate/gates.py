"""The limits that a candidate must keep, and which one it did not.

Three checks always hold, because no score can excuse them: the same tokens, weights that nothing but rounding has
changed, and finite figures. The others are the user's, with defaults that a sound merge, and a sound quantization to
four bits or more, keep with room to spare (docs/evidence.md has the figures that they rest on).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ingot.errors import UsageError
from ingot.plan.figures import counted, listed
from ingot.validate.result import Candidate, Gate, Logits, Task, Tokens, Weights

#: Names of tensors or modules that one sentence lists.
_LISTED = 3


@dataclass(frozen=True)
class Limits:
    """What a candidate may lose against the reference.

    Attributes:
        max_score_drop: of the mean score of each task, a fraction.
        max_kl: mean KL(reference ‖ candidate) over all positions, in nats.
        min_top1: share of positions with the same most likely token.
        min_survival: of all updates together, and of each that is named.
    """

    max_score_drop: float = 0.02
    max_kl: float = 0.05
    min_top1: float = 0.9
    min_survival: float = 0.8

    def __post_init__(self) -> None:
        for name, low, high in (
            ("max_score_drop", 0.0, 1.0), ("max_kl", 0.0, 1e9), ("min_top1", 0.0, 1.0), ("min_survival", -1e9, 1e9)
        ):  # fmt: skip
            value = getattr(self, name)
            if not low <= value <= high:  # a NaN is neither
                option = "--" + name.replace("_", "-")
                raise UsageError("a limit is out of range", where=option, expected=f"{low:g} to {high:g}", found=value)


def judge(candidate: Candidate, limits: Limits) -> tuple[Gate, ...]:
    """Every gate that what was measured can be held against; what was not measured has none."""
    return tuple(_gates(candidate, limits))


def _gates(candidate: Candidate, limits: Limits) -> Iterator[Gate]:
    if candidate.tokens is not None:
        yield _tokens(candidate.tokens)
    if candidate.weights is not None:
        yield _weights(candidate.weights)
        if candidate.weights.survival is not None:
            yield _survival(candidate.weights, limits.min_survival)
    if candidate.logits is not None:
        yield from _logits(candidate.logits, limits)
    for task in candidate.tasks:
        yield _score(task, limits.max_score_drop)
    for score in candidate.harness:
        drop = score.reference - score.candidate
        yield Gate(
            "--max-score-drop", f"{score.task}: at most {_points(limits.max_score_drop)} lost", _points(drop),
            drop <= limits.max_score_drop,
            f"{score.task} ({score.metric}): {_percent(score.reference)} became {_percent(score.candidate)}",
        )  # fmt: skip


def _tokens(tokens: Tokens) -> Gate:
    same = tokens.same == tokens.samples and tokens.first_difference is None
    said = "both make the same tokens of every sample" if same else tokens.first_difference or "the tokens differ"
    return Gate("tokens", "the same in every sample", f"{tokens.same} of {tokens.samples}", same, said)


def _weights(weights: Weights) -> Gate:
    named = [module for module in weights.modules if module.said and not module.lost]
    faults = [f"{module.module}: {module.said}" for module in named[:_LISTED]]
    if len(named) > _LISTED:
        faults.append(f"and {counted(len(named) - _LISTED, 'more tensor')}")
    for what, names in (
        ("differ from the base although no adapter changes them", weights.untouched_differ),
        ("are missing", weights.missing),
        ("should not be there", weights.extra),
    ):
        if names:
            faults.append(f"{counted(len(names), 'tensor')} {what}: {listed(names, _LISTED)}")
    found = f"{counted(len(named), 'tensor')} of {len(weights.modules)} named" if named else "; ".join(faults)
    said = "; ".join(faults) or "every tensor is base and adapter, but for rounding"
    return Gate("weights", "base and adapter, but for rounding", found or "so it is", not faults, said)


def _survival(weights: Weights, limit: float) -> Gate:
    """All updates together, and each that is named: in a small tensor chance alone may look like a loss."""
    together = weights.survival or 0.0
    below = [m for m in weights.modules if m.said and m.survival is not None and m.survival < limit]
    least = min([together, *(m.survival for m in below if m.survival is not None)])
    said = f"of all updates together {_percent(together)} is left"
    if below:
        worst = min(below, key=lambda module: module.survival or 0.0)
        said += f"; {counted(len(below), 'tensor')} of {len(weights.modules)} below the limit, {worst.module} the most"
        said += f": {worst.said}"
    return Gate("--min-survival", f"at least {_percent(limit)} of every update", _percent(least), least >= limit, said)


def _logits(logits: Logits, limits: Limits) -> Iterator[Gate]:
    kl, top1 = logits.mean_kl, logits.top1
    yield Gate(
        "--max-kl", f"at most {limits.max_kl:g}", f"{kl:.3g}", kl <= limits.max_kl,
        f"mean KL {kl:.3g} over {counted(logits.tokens, 'position')}, "
        f"worst {logits.worst_kl:.3g} in sample {logits.worst_kl_sample}",
    )  # fmt: skip
    yield Gate(
        "--min-top1", f"at least {_percent(limits.min_top1)}", _percent(top1), top1 >= limits.min_top1,
        f"the most likely token is the same in {_percent(top1)} of the positions",
    )  # fmt: skip


def _score(task: Task, limit: float) -> Gate:
    found = task.comparison
    drop = found.reference - found.candidate
    change = f"{_percent(found.reference)} became {_percent(found.candidate)}"
    said = f"{task.samples.name}: {change} ({found.only_reference} samples lost, {found.only_candidate} gained)"
    return Gate(
        "--max-score-drop", f"{task.samples.name}: at most {_points(limit)} lost", _points(drop), drop <= limit, said
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _points(share: float) -> str:
    return f"{100 * share:.2f} points"
