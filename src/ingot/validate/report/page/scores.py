"""Scores of the tasks: both models' on the same samples, the difference with its interval, and what it can show."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ingot.validate.report.page.axes import Axis, line, mark, plot, scale
from ingot.validate.report.page.markup import Child, Html, join, name_of, prose, table, tag
from ingot.validate.report.words import (
    interval_text,
    limit_of,
    number_text,
    p_text,
    percent_text,
    points_text,
    share_text,
)
from ingot.validate.result import Comparison, Evaluation, HarnessScore

_HEAD = ("Candidate", "Score", "Difference", "In points", "Interval", "Lost : won", "McNemar p")
_PICTURE = 3


def scores(evaluation: Evaluation, labels: Sequence[str]) -> Html | None:
    """A table for each task file, and one for lm-evaluation-harness."""
    names = dict.fromkeys(task.samples.name for one in evaluation.candidates for task in one.tasks)
    parts = [_task(evaluation, labels, name) for name in names]
    harness = list(_harness_rows(evaluation, labels))
    if harness:
        parts.append(_harness(harness))
    if not parts:
        return None
    lead = (
        "Reference and candidate answered the same samples, so only the samples on which they part count. "
        "Lost are those that the reference alone got right, won those that the candidate alone got right. The bar is "
        "the bootstrap interval of the difference; where it crosses zero, the samples do not tell the two apart."
    )
    return join((tag("h2", "Scores", id="scores"), tag("p", lead, class_="lead"), *parts))


def _task(evaluation: Evaluation, labels: Sequence[str], name: str) -> Html:
    held = [
        (label, task.comparison, limit_of(one, "--max-score-drop"))
        for label, one in zip(labels, evaluation.candidates, strict=True)
        for task in one.tasks
        if task.samples.name == name
    ]
    task = next(task for one in evaluation.candidates for task in one.tasks if task.samples.name == name)
    first = held[0][1]
    caption = (
        f"{name}: {first.samples:,} samples, metric {task.samples.metric}, reference {share_text(first.reference)}, "
        f"intervals at {percent_text(first.confidence)}"
    )
    axis = _axis([comparison for _, comparison, _ in held], [limit for *_, limit in held])
    head: list[Child] = list(_HEAD)
    head[_PICTURE] = join((_HEAD[_PICTURE], _axis_picture(axis)))
    rows = [_row(label, comparison, axis, limit) for label, comparison, limit in held]
    whole = table(caption, head, rows, classes="scores", numbers=frozenset({1, 2, 4, 5, 6}))
    return tag("div", tag("h3", name), whole, *_seen([(label, comparison.sees) for label, comparison, _ in held]))


def _seen(said: Sequence[tuple[str, str]]) -> Iterator[Html]:
    """What the samples can show; a sentence that holds for several candidates stands once."""
    for sees in dict.fromkeys(sentence for _, sentence in said):
        names = ", ".join(label for label, sentence in said if sentence == sees)
        yield tag("p", tag("b", f"{names}: ") if len(said) > 1 else None, prose(sees), class_="told")


def _row(label: str, held: Comparison, axis: Axis, limit: float | None) -> tuple[Child, ...]:
    return (
        name_of(label),
        share_text(held.candidate),
        tag("strong", points_text(held.difference)),
        interval_plot(held, axis, limit, label),
        interval_text(held.interval),
        f"{held.only_reference:,} : {held.only_candidate:,}",
        p_text(held.p_value),
    )


def _axis(held: Sequence[Comparison], limits: Sequence[float | None]) -> Axis:
    """In points, one for all rows; zero and the limit stand on it."""
    ends = [100 * end for comparison in held for end in (*comparison.interval, comparison.difference)]
    ends += [-100 * limit for limit in limits if limit is not None]
    known = [0.0, *(min(100.0, max(-100.0, end)) for end in ends if math.isfinite(end))]
    low, high = min(known), max(known)
    room = max(0.08 * (high - low), 0.5)
    return Axis(low - room, high + room)


def _axis_picture(axis: Axis) -> Html:
    ticks = [(value, f"{value:+g}".replace("+0", "0").replace("-", "−")) for value in axis.ticks(4)]
    return tag("svg", *scale(axis, ticks), class_="interval ticks", aria_hidden="true")


def interval_plot(held: Comparison, axis: Axis, limit: float | None, label: str) -> Html:
    """The interval as a bar, the difference as a mark on it, zero as a line, the limit as a dashed one."""
    low, high = (axis.across(100 * end) for end in held.interval)
    zero = axis.across(0)
    pieces = [line(zero, "0", zero, "100%", "zero")]
    if limit is not None:
        at = axis.across(-100 * limit)
        pieces.append(line(at, "0", at, "100%", "limit"))
    pieces += [
        line(low, "50%", high, "50%", "whisker"),
        line(low, "30%", low, "70%", "whisker"),
        line(high, "30%", high, "70%", "whisker"),
        mark(0, axis.across(100 * held.difference), "50%"),
    ]
    spoken = f"{label}: {points_text(held.difference)} points, interval {interval_text(held.interval)}"
    return plot(spoken, *pieces, classes="interval")


def _harness_rows(evaluation: Evaluation, labels: Sequence[str]) -> Iterator[tuple[Child, ...]]:
    for label, candidate in zip(labels, evaluation.candidates, strict=True):
        for score in candidate.harness:
            yield _harness_row(label, score)


def _harness_row(label: str, score: HarnessScore) -> tuple[Child, ...]:
    held = score.comparison
    return (
        score.task,
        score.metric,
        name_of(label),
        _with_error(score.reference, score.reference_stderr),
        _with_error(score.candidate, score.candidate_stderr),
        f"{score.samples:,}",
        interval_text(held.interval) if held else "–",
        p_text(held.p_value) if held else "–",
    )


def _with_error(value: float, stderr: float | None) -> str:
    return number_text(value) if stderr is None else f"{number_text(value)} ± {number_text(stderr)}"


def _harness(rows: Sequence[Sequence[Child]]) -> Html:
    head = ("Task", "Metric", "Candidate", "Reference", "Candidate's score", "Samples", "Interval", "McNemar p")
    caption = "Scores of lm-evaluation-harness, with the standard errors that it reports; the interval is in points"
    return tag(
        "div",
        tag("h3", "lm-evaluation-harness"),
        table(caption, head, rows, classes="harness", numbers=frozenset({3, 4, 5, 6, 7})),
    )
