"""What is read first: the verdict, what failed, and the table that holds every candidate against the reference."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from ingot.plan.figures import counted
from ingot.validate.report.comparison import Check, Row, checks, rows
from ingot.validate.report.page.markup import Child, Html, join, name_of, prose, tag
from ingot.validate.report.words import gate_words, verdict
from ingot.validate.result import Evaluation, Gate

_CHECK = "M4 12.5L9.5 18L20 6.5"
_CROSS = "M6 6L18 18M18 6L6 18"
_DASH = "M5 12H19"
#: Characters of what was found that stay on one line.
_LONG = 18


def header(evaluation: Evaluation) -> Html:
    """The banner: passed or failed, the sentence that says why, and what was held against what."""
    ruled = verdict(evaluation)
    kind = {"passed": "pass", "failed": "fail"}.get(ruled.word, "none")
    sets = ", ".join(f"{samples.name} ({samples.count:,})" for samples in evaluation.samples)
    facts = {
        "Reference": evaluation.reference.name,
        "Candidates" if len(evaluation.candidates) > 1 else "Candidate": ", ".join(
            candidate.subject.name for candidate in evaluation.candidates
        ),
        "Samples": sets,
    }
    return tag(
        "header",
        tag("p", "Is the merged model the model that was trained?", class_="eyebrow"),
        tag("h1", tag("span", badge(kind), ruled.word.capitalize(), class_=f"word {kind}")),
        tag("p", prose(ruled.sentence), class_="lede"),
        tag("dl", *(tag("div", tag("dt", name), tag("dd", name_of(fact))) for name, fact in facts.items() if fact)),
        class_=f"banner {kind}",
    )


def badge(kind: str) -> Html:
    """A tick, a cross or a dash in a disc; the word stands beside it."""
    path = {"pass": _CHECK, "fail": _CROSS}.get(kind, _DASH)
    return tag("svg", tag("path", d=path), viewBox="-4 -4 32 32", class_="badge", aria_hidden="true")


def failures(evaluation: Evaluation, names: list[str]) -> Html | None:
    """Each failed check in plain words."""
    groups = []
    for name, candidate in zip(names, evaluation.candidates, strict=True):
        failed = [gate for gate in candidate.gates if not gate.ok]
        if failed:
            items = (tag("li", *_failed(gate)) for gate in failed)
            groups.append(tag("div", tag("h3", name), tag("ul", *items, class_="failed")))
    if not groups:
        return None
    return join((tag("h2", "What failed", id="failed"), *groups))


def _failed(gate: Gate) -> Iterator[Child]:
    yield tag("strong", gate_words(gate.name))
    yield " "
    yield tag("span", prose(gate.limit), class_="muted")
    yield tag("p", prose(gate.said))


def comparison(evaluation: Evaluation, names: list[str]) -> Html | None:
    """Figures down, candidates across: one row to read for each question."""
    found, limits = rows(evaluation), checks(evaluation)
    if not found and not limits:
        return None
    reference = tag("th", "Reference", scope="col", class_="number reference")
    heads = (tag("th", name_of(name), scope="col", class_="number") for name in names)
    bodies = [_verdicts(evaluation)] if limits else []
    bodies += [_figures(group, list(members)) for group, members in groupby(found, key=lambda row: row.group)]
    if limits:
        bodies.append(_limits(limits))
    whole = tag(
        "table",
        tag("caption", tag("span", "Every candidate against the reference, on the same samples")),
        tag("thead", tag("tr", tag("th", "Figure", scope="col"), reference, *heads)),
        *bodies,
        class_="comparison",
    )
    scroller = tag(
        "div", whole, class_="scroller", tabindex=0, role="region", aria_label="All candidates against the reference"
    )
    return join((tag("h2", "At a glance", id="comparison"), scroller))


def _figures(group: str, members: list[Row]) -> Html:
    width = 2 + len(members[0].cells)
    lines = (
        tag(
            "tr",
            tag("th", row.label, tag("small", row.note), _narrow(row.reference), scope="row"),
            tag("td", row.reference or None, class_="number muted reference"),
            *(tag("td", cell or _absent(), class_="number") for cell in row.cells),
        )
        for row in members
    )
    return tag("tbody", _group_head(group, width), *lines)


def _narrow(reference: str) -> Html | None:
    """The reference's figure where the screen has no room for its column."""
    return tag("small", prose(f"reference {reference}"), class_="narrow") if reference else None


def _group_head(group: str, width: int) -> Html:
    return tag("tr", tag("th", tag("span", group), colspan=width, scope="rowgroup", class_="group"))


def _absent() -> Html:
    return tag("span", "–", class_="muted", title="not measured")


def _limits(limits: list[Check]) -> Html:
    width = 2 + len(limits[0].found)
    lines = (
        tag(
            "tr",
            tag("th", _words(check), tag("small", *_limit(check)), scope="row"),
            tag("td", class_="reference"),
            *(tag("td", *_found(text, ok), class_="number") for text, ok in zip(check.found, check.ok, strict=True)),
        )
        for check in limits
    )
    return tag("tbody", _group_head("Limits", width), *lines, class_="limits")


def _limit(check: Check) -> Iterator[Child]:
    yield prose(check.limit)
    if check.name.startswith("--"):
        yield " "
        yield tag("span", f"({check.name})", class_="option")


def _words(check: Check) -> str:
    words = gate_words(check.name)
    return words[:1].upper() + words[1:]


def _verdicts(evaluation: Evaluation) -> Html:
    words = [("passed" if one.ok else "failed") if one.gates else None for one in evaluation.candidates]
    cells = (tag("td", *_found(word, word == "passed", aloud=False), class_="number") for word in words)
    return tag(
        "tbody", tag("tr", tag("th", "Verdict", scope="row"), tag("td", class_="reference"), *cells, class_="verdicts")
    )


def _found(text: str | None, ok: bool | None, *, aloud: bool = True) -> Iterator[Child]:
    if text is None:
        yield _absent()
    else:
        kind = "pass" if ok else "fail"
        spoken = tag("span", " passed" if ok else " failed", class_="spoken") if aloud else None
        yield tag("span", badge(kind), text, spoken, class_=kind if len(text) <= _LONG else f"{kind} long")


def contents(sections: list[tuple[str, str]]) -> Html:
    """Links to the sections: (id, title)."""
    items = (tag("li", tag("a", title, href=f"#{name}")) for name, title in sections)
    return tag(
        "nav",
        tag("p", counted(len(sections), "section"), class_="spoken"),
        tag("ol", *items),
        aria_label="On this page",
    )
