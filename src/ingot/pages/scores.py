"""What evaluations found of an artifact. They are free in form: what is not as `validate` writes it is not shown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ingot.pages import frame
from ingot.plan.figures import counted
from ingot.record.statement import Record
from ingot.validate.report.page.head import badge
from ingot.validate.report.page.markup import Child, Html, prose, table, tag
from ingot.validate.report.words import gate_words, interval_text, number_text, points_text, share_text

_TASKS = ("Task", "Artifact", "Base + adapter", "Difference", "Interval", "Samples")
_GATES = ("Gate", "Limit", "Found", "")


def evaluations(record: Record) -> Iterator[Html]:
    """The latest one open, those before it folded."""
    every = [one for one in record.statement.predicate.run.evaluations if isinstance(one, Mapping)]
    if not every:
        yield tag("p", "It was not evaluated: ", tag("code", "ingot validate"), " does that.", class_="muted")
        return
    yield tag("div", *_evaluation(every[-1]))
    for one in reversed(every[:-1]):
        summary = tag("summary", "Before: ", str(one.get("evaluated_on", "at a time unknown")))
        yield tag("details", summary, *_evaluation(one))


def _evaluation(one: Mapping[str, Any]) -> Iterator[Html]:
    gates = [gate for gate in _several(one, "gates") if isinstance(gate.get("ok"), bool)]
    passed = one.get("ok") is True
    word = ("every gate passed" if passed else "a gate failed") if gates else "no gate was set"
    kind = ("pass" if passed else "fail") if gates else "none"
    reference, candidate = _one(one, "reference"), _one(one, "candidate")
    yield tag("p", tag("span", badge(kind), " ", word, class_=kind), class_="verdict")
    yield frame.facts([
        ("Evaluated", _text(one.get("evaluated_on"))),
        ("Candidate", _text(candidate.get("name"))),
        ("Reference", _text(reference.get("name"))),
        ("Tokens", _tokens(one.get("tokens"))),
        *_weights(_one(one, "weights")),
        *_logits(_one(one, "logits")),
    ])  # fmt: skip
    tasks = [*_several(one, "tasks"), *(_harness(task) for task in _several(one, "harness"))]
    if tasks:
        rows = [_task(task) for task in tasks]
        yield table(counted(len(tasks), "task"), _TASKS, rows, classes="tasks", numbers=frozenset({1, 2, 3, 4, 5}))
    if gates:
        yield table(counted(len(gates), "gate"), _GATES, [_gate(gate) for gate in gates], classes="gates")
    left_out = one.get("left_out")
    if isinstance(left_out, Sequence) and not isinstance(left_out, str) and left_out:
        yield tag("h3", "Not measured")
        yield tag("ul", *(tag("li", str(text)) for text in left_out))


def _harness(task: Mapping[str, Any]) -> Mapping[str, Any]:
    """A metric of the harness, as a task."""
    return {**_one(task, "comparison"), **task, "name": f"{task.get('task')}, {task.get('metric')}"}


def _task(task: Mapping[str, Any]) -> tuple[Child, ...]:
    candidate, reference = _figure(task.get("candidate")), _figure(task.get("reference"))
    difference = None if candidate is None or reference is None else points_text(candidate - reference)
    interval = task.get("interval")
    ends = [_figure(end) for end in interval] if isinstance(interval, list | tuple) else []
    known = [end for end in ends if end is not None]
    return (
        str(task.get("name", "unnamed")), share_text(candidate) or "–", share_text(reference) or "–",
        difference or "–", interval_text((known[0], known[1])) if len(known) == 2 else "–",
        _count(task.get("samples")) or "–",
    )  # fmt: skip


def _gate(gate: Mapping[str, Any]) -> tuple[Child, ...]:
    kind = "pass" if gate["ok"] else "fail"
    words = gate_words(str(gate.get("name")))
    return (
        words[:1].upper() + words[1:], prose(str(gate.get("limit", ""))), prose(str(gate.get("found", ""))),
        tag("span", badge(kind), " ", "passed" if gate["ok"] else "failed", class_=kind),
    )  # fmt: skip


def _tokens(value: object) -> str | None:
    counts = [_count(part) for part in value] if isinstance(value, list | tuple) and len(value) == 2 else []
    return f"the same in {counts[0]} of {counts[1]} samples" if len(counts) == 2 and all(counts) else None


def _weights(weights: Mapping[str, Any]) -> Iterator[tuple[str, Child]]:
    yield "Survival", share_text(_figure(weights.get("survival")))
    yield "Equal weights", share_text(_figure(weights.get("equal")))


def _logits(logits: Mapping[str, Any]) -> Iterator[tuple[str, Child]]:
    yield "KL divergence", number_text(_figure(logits.get("mean_kl")))
    yield "Same top token", share_text(_figure(logits.get("top1")))


def _one(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = value.get(name)
    return part if isinstance(part, Mapping) else {}


def _several(value: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    part = value.get(name)
    return [one for one in part if isinstance(one, Mapping)] if isinstance(part, list | tuple) else []


def _figure(value: object) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and math.isfinite(value) else None  # type: ignore[arg-type]


def _count(value: object) -> str | None:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
