"""An evaluation as lines for a terminal: the verdict, every candidate's figures, what failed and what was named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from ingot.errors import printable
from ingot.plan.figures import counted, labelled, table
from ingot.validate.report.words import interval_text, labels, number_text, share_text, verdict
from ingot.validate.result import Candidate, Evaluation

#: Named modules of one candidate that are shown.
_MOST_NAMED = 12
_INDENT = 2

#: A column: its head, and the text of each candidate.
_Column = tuple[str, ...]


def lines(evaluation: Evaluation, width: int = 80) -> list[str]:
    """The whole verdict. Lines are at most `width` wide (40 at least), except where one name or column is wider."""
    ruled = verdict(evaluation)
    names = labels(evaluation.candidates)
    sections = [
        labelled(ruled.word.capitalize(), [printable(ruled.sentence)], width),
        labelled("Reference", [printable(evaluation.reference.name)], width),
        *_tables(evaluation, names, width),
    ]
    for name, candidate in zip(names, evaluation.candidates, strict=True):
        sections.append(_told(printable(name), candidate, width))
    return [line for section in sections if section for line in (*section, "")][:-1]


def _tables(evaluation: Evaluation, names: Sequence[str], width: int) -> Iterator[list[str]]:
    """One table where it fits, else several, each with the candidates' names in front."""
    first = ("", *(printable(name) for name in names))
    room = width - _INDENT - min(max(map(len, first)), 20)
    group: list[_Column] = []
    for column in _columns(evaluation):
        if group and sum(map(_wide, group)) + _wide(column) > room:
            yield _table(first, group, width)
            group = []
        group.append(column)
    if group:
        yield _table(first, group, width)


def _wide(column: _Column) -> int:
    return 2 + max(map(len, column))


def _table(first: _Column, columns: Sequence[_Column], width: int) -> list[str]:
    rows = list(zip(first, *columns, strict=True))
    return table(rows, width, align="<" + ">" * len(columns), indent=_INDENT)


def _columns(evaluation: Evaluation) -> Iterator[_Column]:
    """What at least one candidate has; a dash where another has none."""
    candidates = evaluation.candidates
    figures: dict[str, Callable[[Candidate], str]] = {
        "verdict": lambda one: ("passed" if one.ok else "FAILED") if one.gates else "",
        "tokens": _tokens,
        "equal": lambda one: share_text(one.weights.equal) if one.weights else "",
        "survival": lambda one: share_text(one.weights.survival) if one.weights else "",
        "mean KL": lambda one: number_text(one.logits.mean_kl) if one.logits else "",
        "top-1": lambda one: share_text(one.logits.top1) if one.logits else "",
    }
    for name in dict.fromkeys(task.samples.name for one in candidates for task in one.tasks):
        figures[printable(name)] = partial(_score, name)
    for key in dict.fromkeys((score.task, score.metric) for one in candidates for score in one.harness):
        figures[printable(" ".join(key))] = partial(_harness, key)
    for head, text in figures.items():
        cells = [text(one) for one in candidates]
        if any(cells):
            yield (head, *(cell or "–" for cell in cells))


def _tokens(candidate: Candidate) -> str:
    tokens = candidate.tokens
    if tokens is None:
        return ""
    return "same" if tokens.same == tokens.samples else f"{tokens.same:,} of {tokens.samples:,}"


def _score(name: str, candidate: Candidate) -> str:
    """Both scores, and the interval of the difference in points."""
    for task in candidate.tasks:
        if task.samples.name == name:
            held = task.comparison
            scores = f"{share_text(held.reference)} → {share_text(held.candidate)}"
            return f"{scores} ({interval_text(held.interval)})"
    return ""


def _harness(key: tuple[str, str], candidate: Candidate) -> str:
    for score in candidate.harness:
        if (score.task, score.metric) == key:
            return f"{number_text(score.reference)} → {number_text(score.candidate)}"
    return ""


def _told(name: str, candidate: Candidate, width: int) -> list[str]:
    """What failed, which modules and samples were named, what was left out; nothing of a candidate that is right."""
    failed = [printable(gate.said) for gate in candidate.gates if not gate.ok]
    told = [
        *labelled("failed", failed, width),
        *labelled("tokens", _first_difference(candidate), width),
        *labelled("modules", list(_named(candidate)), width),
        *labelled("left out", [printable(text) for text in candidate.left_out], width),
    ]
    return [name, *told] if told else []


def _first_difference(candidate: Candidate) -> list[str]:
    tokens = candidate.tokens
    return [printable(tokens.first_difference)] if tokens and tokens.first_difference else []


def _named(candidate: Candidate) -> Iterator[str]:
    weights = candidate.weights
    if weights is None:
        return
    named = [module for module in weights.modules if module.said]
    for module in named[:_MOST_NAMED]:
        yield printable(f"{module.module}: {module.said}")
    if len(named) > _MOST_NAMED:
        yield f"and {counted(len(named) - _MOST_NAMED, 'module')} more"
    for what, tensors in (
        ("no adapter changes it, and it differs from the base", weights.untouched_differ),
        ("missing", weights.missing),
        ("the base has no such tensor", weights.extra),
    ):
        for tensor in tensors[:_MOST_NAMED]:
            yield printable(f"{tensor}: {what}")
        if len(tensors) > _MOST_NAMED:
            yield f"and {counted(len(tensors) - _MOST_NAMED, 'tensor')} more ({what})"
