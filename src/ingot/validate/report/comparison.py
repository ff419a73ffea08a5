"""All figures of all candidates beside the reference's, as the rows of one table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ingot.validate.report.words import number_text, share_text
from ingot.validate.result import Candidate, Evaluation, Gate, HarnessScore, Logits, Task, Weights


@dataclass(frozen=True)
class Row:
    """One figure. `cells` has a text for each candidate, empty where it was not measured; `note` says what it is."""

    group: str
    label: str
    note: str
    reference: str
    cells: tuple[str, ...]


def rows(evaluation: Evaluation) -> list[Row]:
    """The figures that at least one candidate has."""
    found = (*_token_rows(evaluation), *_weight_rows(evaluation), *_logit_rows(evaluation), *_score_rows(evaluation))
    return [row for row in found if any(row.cells)]


def _token_rows(evaluation: Evaluation) -> Iterator[Row]:
    cells = tuple(
        f"{candidate.tokens.same:,} of {candidate.tokens.samples:,}" if candidate.tokens else ""
        for candidate in evaluation.candidates
    )
    yield Row("Tokens", "Same tokens", "samples that both tokenizers read alike", "", cells)


def _weight_rows(evaluation: Evaluation) -> Iterator[Row]:
    def row(label: str, note: str, text: Callable[[Weights], str], reference: str = "") -> Row:
        cells = (text(one.weights) if one.weights else "" for one in evaluation.candidates)
        return Row("Weights", label, note, reference, tuple(cells))

    yield row("Equal", "elements that are base + update in float64, rounded once", lambda w: share_text(w.equal))
    yield row("Worst distance", "to that value, in units in the last place", lambda w: f"{w.worst_ulp:,} ulp")
    yield row("Survival", "of the adapter's update; 0 % is the base alone", lambda w: share_text(w.survival), "100 %")
    yield row("Modules named", "with something wrong", lambda w: f"{sum(bool(m.said) for m in w.modules):,}")
    yield row("Other tensors off", "differ from the base, missing, or too many", lambda w: f"{_others(w):,}")


def _others(weights: Weights) -> int:
    return len(weights.untouched_differ) + len(weights.missing) + len(weights.extra)


def _logit_rows(evaluation: Evaluation) -> Iterator[Row]:
    def row(label: str, note: str, text: Callable[[Logits], str], reference: str = "") -> Row:
        cells = (text(one.logits) if one.logits else "" for one in evaluation.candidates)
        return Row("Logits", label, note, reference, tuple(cells))

    first = next((one.logits for one in evaluation.candidates if one.logits), None)
    perplexity = number_text(first.perplexity_reference) if first else ""
    yield row("Mean KL", "nats, reference ‖ candidate, over positions", lambda found: number_text(found.mean_kl), "0")
    yield row("Worst KL", "nats, at one position", lambda found: number_text(found.worst_kl), "0")
    yield row("Top-1", "positions with the same most likely token", lambda found: share_text(found.top1), "100 %")
    yield row("Perplexity", "on the samples", lambda found: number_text(found.perplexity_candidate), perplexity)
    yield row("Largest |Δlogit|", "of any token anywhere", lambda found: number_text(found.largest_difference), "0")


def _score_rows(evaluation: Evaluation) -> Iterator[Row]:
    tasks = [{task.samples.name: task for task in one.tasks} for one in evaluation.candidates]
    for name in dict.fromkeys(name for found in tasks for name in found):
        first = next(found[name] for found in tasks if name in found)
        cells = tuple(_score(found.get(name)) for found in tasks)
        note = f"{first.samples.metric}, {first.comparison.samples:,} samples"
        yield Row("Scores", name, note, share_text(first.comparison.reference), cells)
    scores = [{(score.task, score.metric): score for score in one.harness} for one in evaluation.candidates]
    for key in dict.fromkeys(key for found in scores for key in found):
        known = next(found[key] for found in scores if key in found)
        cells = tuple(_harness(found.get(key)) for found in scores)
        note = f"{known.metric}, lm-eval, {known.samples:,} samples"
        yield Row("Scores", known.task, note, number_text(known.reference), cells)


def _score(task: Task | None) -> str:
    return share_text(task.comparison.candidate) if task else ""


def _harness(score: HarnessScore | None) -> str:
    return number_text(score.candidate) if score else ""


@dataclass(frozen=True)
class Check:
    """One limit over all candidates; `found` and `ok` have an entry for each, None where it was not checked."""

    name: str
    limit: str
    found: tuple[str | None, ...]
    ok: tuple[bool | None, ...]


def checks(evaluation: Evaluation) -> list[Check]:
    """The gates, equal ones of all candidates in one row: by name, and by order where a name comes more than once."""
    numbered = [dict(_numbered(candidate)) for candidate in evaluation.candidates]
    table = []
    for key in dict.fromkeys(key for gates in numbered for key in gates):
        gates = [found.get(key) for found in numbered]
        known = next(gate for gate in gates if gate is not None)
        found = tuple(gate.found if gate else None for gate in gates)
        table.append(Check(known.name, known.limit, found, tuple(gate.ok if gate else None for gate in gates)))
    return table


def _numbered(candidate: Candidate) -> Iterator[tuple[tuple[str, str, int], Gate]]:
    seen: dict[tuple[str, str], int] = {}
    for gate in candidate.gates:
        number = seen[gate.name, gate.limit] = seen.get((gate.name, gate.limit), -1) + 1
        yield (gate.name, gate.limit, number), gate
