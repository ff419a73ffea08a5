"""`ingot registry show`: all that is known of an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingot.cli.arguments import output_flags
from ingot.cli.framework import Verb
from ingot.cli.registry.common import REF, SHOWN, entry_json, found, line, opened, registry_option, size
from ingot.cli.registry.trace import adapter_lines, base_text
from ingot.plan.figures import counted, nbytes_text

if TYPE_CHECKING:
    from ingot.cli.boundary import Session
    from ingot.registry.entry import Entry, Scores

_EXAMPLES = (
    ("ingot registry show champion", "By a tag."),
    ("ingot registry show llama-3-8b-support-v4-q4_k_m", "By its name."),
)


@click.command(cls=Verb, short_help="All that is known of an artifact.", examples=_EXAMPLES, arguments_help=[REF])
@click.argument("ref", metavar="REF")
@registry_option
@output_flags
@click.pass_obj
def show(session: Session, /, ref: str, place: Path | None) -> None:
    """Show an artifact: its files, inputs, scores and tags, with the history of those."""
    from ingot.record.artifact import SIGNATURE_NAME
    from ingot.registry.layout import REPORT_NAME
    from ingot.registry.push import pushes

    output = session.output
    registry = opened(place)
    entry = found(output, registry, ref)
    history = [one for one in registry.tags().history if one.identity == entry.identity or one.tag in entry.tags]
    report, pushed = (
        registry.layout.records / entry.identity / REPORT_NAME,
        pushes(registry.layout.records / entry.identity),
    )
    output.lines(_lines(entry))
    output.lines(line("", f"{one.time} {_tagging(one.tag, one.identity)}") for one in history)
    output.lines([line("Report", str(report))] if report.is_file() else [])
    output.lines(
        line("Pushed" if number == 0 else "", f"{one['at']} {one['target']}, commit {str(one['commit'])[:SHOWN]}")
        for number, one in enumerate(pushed)
    )
    signed = (registry.folder(entry) / SIGNATURE_NAME).is_file()
    output.lines([line("Signed", "`ingot verify --signature` tells by whom")] if signed else [])
    output.essence(entry.identity)
    output.result(
        verb="registry show", **entry_json(entry),
        tag_history=[{"tag": one.tag, "identity": one.identity, "time": one.time} for one in history],
        report=str(report) if report.is_file() else None, pushes=list(pushed), signed=signed,
    )  # fmt: skip


def _tagging(tag: str, identity: str | None) -> str:
    return f"{tag} -> {identity[:SHOWN] if identity else 'nothing'}"


def _lines(entry: Entry) -> list[str]:
    facts = entry.facts
    where = entry.place or "freed: its record is left, and `ingot registry rebuild` makes it again"
    version = f" {facts.version}" if facts.version else ""
    largest = sorted(facts.outputs, key=lambda file: -file.nbytes)
    shown = [f"{file.name}  {nbytes_text(file.nbytes)}  sha256 {file.sha256[:SHOWN]}" for file in largest[:6]]
    more = [f"and {counted(len(largest) - 6, 'more file')}"] if len(largest) > 6 else []
    return [
        line("Artifact", f"{entry.name}: {facts.title}{version}, {facts.format}, {size(entry)}"),
        line("Place", where),
        line("Identity", facts.identity),
        line("Made", f"{facts.made_on} by ingot {facts.ingot}"),
        line("Base", base_text(facts)),
        *adapter_lines(facts),
        *(line("Files" if number == 0 else "", text) for number, text in enumerate([*shown, *more])),
        *(_score_lines(facts.scores) if facts.scores else [line("Scores", "not evaluated")]),
        line("Tags", ", ".join(entry.tags) or "none"),
    ]


def _score_lines(scores: Scores) -> list[str]:
    gates = "every gate passed" if scores.ok else "a gate failed"
    found = [
        f"{score.task}: {100 * score.candidate:.1f}% (base + adapter {100 * score.reference:.1f}%) "
        f"on {counted(score.samples, 'sample')}"
        for score in scores.tasks
    ]
    logits = [f"KL {scores.mean_kl:.3g}, same top token {100 * scores.top1:.1f}%"] if scores.top1 is not None else []
    texts = [*found, *(logits if scores.mean_kl is not None else []), f"{gates}, {scores.evaluated_on}"]
    return [line("Scores" if number == 0 else "", text) for number, text in enumerate(texts)]
