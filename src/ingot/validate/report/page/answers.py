"""Samples whose answers differ, side by side, with what differs marked. Bounded; the page says what it leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ingot.plan.figures import counted
from ingot.validate.report.page.differences import Part, differences, excerpt
from ingot.validate.report.page.head import badge
from ingot.validate.report.page.markup import Html, join, tag
from ingot.validate.result import Answer, Evaluation

#: Samples on the page, and those of them that are open at once.
MOST_SHOWN = 200
MOST_OPEN = 20
#: Characters that are shown of a prompt or of what was expected.
_PROMPT, _EXPECTED = 700, 300


@dataclass(frozen=True)
class _Group:
    """One candidate's differing answers to one task file, the most telling first."""

    candidate: int
    task: int
    title: str
    answers: tuple[Answer, ...]


def answers(evaluation: Evaluation, names: Sequence[str]) -> Html | None:
    """All groups, with a filter by task and by candidate that needs no script (see `filter_rules`)."""
    tasks = task_names(evaluation)
    groups = [
        _Group(number, tasks.index(task.samples.name), f"{names[number]}, {task.samples.name}", _ranked(task.differing))
        for number, candidate in enumerate(evaluation.candidates)
        for task in candidate.tasks
        if task.differing
    ]
    if not groups:
        return None
    sizes = [len(group.answers) for group in groups]
    shown, opened = shares(sizes, MOST_SHOWN), shares(sizes, MOST_OPEN)
    lead = (
        "Those that only one of the two got right come first: lost by the candidate, then won. "
        "Text that the other does not have is underlined. Samples are counted from 0."
    )
    if sum(sizes) > MOST_SHOWN:
        lead += f" {sum(shown):,} of {sum(sizes):,} are on this page."
    return join((
        tag("h2", "Answers that differ", id="answers"),
        tag("p", lead, class_="lead"),
        _filter("task", "Task", {group.task: tasks[group.task] for group in groups}),
        _filter("candidate", "Candidate", {group.candidate: names[group.candidate] for group in groups}),
        *(_group(group, most, first) for group, most, first in zip(groups, shown, opened, strict=True)),
    ))  # fmt: skip


def task_names(evaluation: Evaluation) -> list[str]:
    return list(dict.fromkeys(task.samples.name for one in evaluation.candidates for task in one.tasks))


def _ranked(differing: Sequence[Answer]) -> tuple[Answer, ...]:
    """Lost, then won, then those whose score is the same."""

    def rank(answer: Answer) -> int:
        return 2 if answer.reference_right == answer.candidate_right else 0 if answer.reference_right else 1

    return tuple(sorted(differing, key=rank))


def shares(sizes: Sequence[int], total: int) -> list[int]:
    """`total` places among groups of these sizes, evenly. Example: shares([1, 9, 9], 9) -> [1, 4, 4]"""
    given = [0] * len(sizes)
    left = min(total, sum(sizes))
    while left:
        for number, size in enumerate(sizes):
            if left and given[number] < size:
                given[number] += 1
                left -= 1
    return given


def _filter(kind: str, title: str, names: dict[int, str]) -> Html | None:
    """Radio buttons; page.css hides the groups that the chosen one does not name."""
    if len(names) < 2:
        return None
    choices = (
        tag(
            "label",
            tag("input", type="radio", name=kind, id=f"{kind}-{value}", checked=number == 0, autocomplete="off"),
            tag("span", label),
        )
        for number, (value, label) in enumerate([("all", "all"), *((str(key), name) for key, name in names.items())])
    )
    return tag("fieldset", tag("legend", title), *choices, class_="filter")


def filter_rules(tasks: int, candidates: int) -> str:
    """The style rules of the filters."""
    kinds = (("task", tasks), ("candidate", candidates))
    return "".join(
        f"body:has(#{kind}-{number}:checked) .answers:not(.{kind}-{number}-only){{display:none}}\n"
        for kind, count in kinds
        if count > 1
        for number in range(count)
    )


def _group(group: _Group, most: int, first: int) -> Html:
    cards = [_card(answer) for answer in group.answers[:most]]
    rest = tag(
        "details", tag("summary", f"{counted(len(cards) - first, 'more sample')} of {group.title}"), *cards[first:]
    ) if len(cards) > first else None  # fmt: skip
    left = len(group.answers) - most
    return tag(
        "div",
        tag("h3", group.title, tag("small", _tally(group.answers))),
        *cards[:first],
        rest,
        tag("p", f"{left:,} more differ and are not shown.", class_="muted") if left else None,
        class_=f"answers task-{group.task}-only candidate-{group.candidate}-only",
    )


def _tally(differing: Sequence[Answer]) -> str:
    lost = sum(answer.reference_right and not answer.candidate_right for answer in differing)
    won = sum(answer.candidate_right and not answer.reference_right for answer in differing)
    same = len(differing) - lost - won
    return f"{counted(len(differing), 'sample')}: {lost:,} lost, {won:,} won, {same:,} with the same score"


def _card(answer: Answer) -> Html:
    ours, theirs = differences(answer.reference, answer.candidate)
    return tag(
        "article",
        tag("h4", f"Sample {answer.sample}", tag("span", _outcome(answer), class_="outcome")),
        tag("dl",
            tag("div", tag("dt", "Prompt"), tag("dd", *_parts(excerpt(answer.prompt, _PROMPT)), dir="auto")),
            tag("div", tag("dt", "Expected"), tag("dd", *_parts(excerpt(answer.expected, _EXPECTED)), dir="auto")),
            class_="asked"),
        tag("div", _side("Reference", ours, answer.reference_right, "ours"),
            _side("Candidate", theirs, answer.candidate_right, "theirs"), class_="sides"),
        class_="sample",
    )  # fmt: skip


def _outcome(answer: Answer) -> str:
    if answer.reference_right == answer.candidate_right:
        return "both right" if answer.reference_right else "both wrong"
    return "lost" if answer.reference_right else "won"


def _side(title: str, parts: Sequence[Part], right: bool, classes: str) -> Html:
    word = "right" if right else "wrong"
    kind = "pass" if right else "fail"
    verdict = tag("span", badge(kind), word, class_=kind)
    return tag(
        "div", tag("h5", title, " ", verdict), tag("div", *_parts(parts), class_="answer", dir="auto"), class_=classes
    )


def _parts(parts: Sequence[Part]) -> list[Html]:
    if not parts:
        return [tag("span", "empty", class_="cut")]
    return [_part(part) for part in parts]


def _part(part: Part) -> Html:
    if part.kind == "cut":
        return tag("span", part.text, class_="cut")
    return tag("mark", _seen(part.text)) if part.kind == "differs" else join((part.text,))


def _seen(text: str) -> str:
    """White space that is the difference, made visible."""
    text = text.replace("\n", "↵\n").replace("\t", "→\t")
    return text if text.strip() else text.replace(" ", "␣")
