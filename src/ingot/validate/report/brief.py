"""An evaluation as JSON: all of it for `--json`, and in brief for the record of an artifact."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime

from ingot.validate.result import Candidate, Evaluation, Weights


def as_json(evaluation: Evaluation) -> dict[str, object]:
    """Everything that was found, as JSON types."""
    return {"ok": evaluation.ok, **asdict(evaluation)}


def brief(evaluation: Evaluation, candidate: Candidate) -> dict[str, object]:
    """One candidate's figures with the digests of models and samples; no prompt, no answer, no path."""
    figures = asdict(candidate)
    weights, logits = candidate.weights, figures["logits"]
    if logits is not None:
        for many in ("sample_kl", "samples"):
            del logits[many]
    return {
        "evaluated_on": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "ingot": evaluation.ingot,
        "ok": candidate.ok,
        "reference": asdict(evaluation.reference),
        "candidate": figures["subject"],
        "samples": [asdict(samples) for samples in evaluation.samples],
        "settings": evaluation.settings,
        "gates": figures["gates"],
        "tokens": None if candidate.tokens is None else [candidate.tokens.same, candidate.tokens.samples],
        "weights": None if weights is None else _weights(weights),
        "logits": logits,
        "tasks": [
            {"name": t.samples.name, "same_answers": t.comparison.samples - len(t.differing), **asdict(t.comparison)}
            for t in candidate.tasks
        ],
        "harness": figures["harness"],
        "left_out": list(candidate.left_out),
    }


def _weights(weights: Weights) -> dict[str, object]:
    named = {module.tensor: module.said for module in weights.modules if module.said}
    known = [module.survival for module in weights.modules if module.survival is not None]
    return {
        "dtype": weights.dtype, "changed": len(weights.modules), "untouched": weights.untouched,
        "equal": weights.equal, "worst_ulp": weights.worst_ulp, "survival": weights.survival,
        "least_survival": min(known, default=None), "named": named,
        "untouched_differ": list(weights.untouched_differ), "missing": list(weights.missing),
        "extra": list(weights.extra),
    }  # fmt: skip
