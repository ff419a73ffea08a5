"""`ingot registry diff`: what changed between two artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingot.cli.arguments import output_flags
from ingot.cli.framework import Verb
from ingot.cli.registry.common import SHOWN, found, line, opened, registry_option
from ingot.plan.figures import counted

if TYPE_CHECKING:
    from ingot.cli.boundary import Session
    from ingot.registry.difference import Change, Difference

_EXAMPLES = (
    ("ingot registry diff champion candidate", "Inputs, recipe, tools, tensors and scores that are not the same."),
)
_ARGUMENTS = [("A, B", "Two artifacts: names, tags, identities, digests or paths.")]
#: More lines are for `--json`.
_MOST_TENSORS = 20


@click.command(
    cls=Verb, short_help="What changed between two artifacts.", examples=_EXAMPLES, arguments_help=_ARGUMENTS
)
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@registry_option
@output_flags
@click.pass_obj
def diff(session: Session, /, before: str, after: str, place: Path | None) -> None:
    """Show what is not the same in two artifacts. Both may be freed; then only recorded digests are compared."""
    from ingot.cli.progress import Progress
    from ingot.registry.difference import diff as compare

    output = session.output
    registry = opened(place)
    one, other = found(output, registry, before), found(output, registry, after)
    total = one.facts.nbytes + other.facts.nbytes
    with session.stopper.watched(), Progress(output, total, "comparing") as progress:
        difference = compare(registry, one, other, progress=progress)
    output.lines(
        [line("A", f"{one.name}  {one.identity[:SHOWN]}"), line("B", f"{other.name}  {other.identity[:SHOWN]}")]
    )
    output.lines(_lines(difference))
    output.essence("same" if difference.nothing else "different")
    output.result(verb="registry diff", before=one.identity, after=other.identity, **asdict(difference))


def _lines(difference: Difference) -> list[str]:
    if difference.nothing:
        return ["", f"Nothing differs: {counted(difference.same, 'tensor')} and all that was recorded are the same."]
    lines = []
    for title, changes in (
        ("Inputs", difference.inputs), ("Recipe", difference.recipe), ("Tools", difference.tools),
        ("Scores", difference.scores),
    ):  # fmt: skip
        lines += _changes(title, changes)
    count = len(difference.tensors) + len(difference.unknown)
    lines += ["", line("Tensors", f"{difference.same:,} the same, {len(difference.tensors):,} not")]
    for tensor in difference.tensors[:_MOST_TENSORS]:
        digests = f"  {tensor.before[:SHOWN]} -> {tensor.after[:SHOWN]}" if tensor.before else ""
        lines.append(line("", f"{tensor.name}: {tensor.how}{digests}"))
    if len(difference.tensors) > _MOST_TENSORS:
        lines.append(line("", f"and {len(difference.tensors) - _MOST_TENSORS:,} more; --json has them all"))
    if difference.unknown:
        freed = "of an artifact that was freed: rebuild it to compare them"
        lines.append(line("", f"{len(difference.unknown):,} of {count:,} cannot be told, {freed}"))
    return lines


def _changes(title: str, changes: Sequence[Change]) -> list[str]:
    if not changes:
        return []
    width = max(len(change.what) for change in changes)
    texts = [f"{change.what:<{width}}  {_short(change.before)} -> {_short(change.after)}" for change in changes]
    return ["", *(line(title if number == 0 else "", text) for number, text in enumerate(texts))]


def _short(value: str | None) -> str:
    if value is None:
        return "none"
    return value[:SHOWN] if len(value) == 64 and not set(value) - set("0123456789abcdef") else value
