"""`ingot registry list`: every artifact of the registry."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingot.cli.arguments import output_flags
from ingot.cli.framework import OUTPUT, RUN, Option, Verb
from ingot.cli.registry.common import entry_json, opened, registry_option, size, warn_of_faults
from ingot.plan.figures import counted, nbytes_text

if TYPE_CHECKING:
    from ingot.cli.boundary import Session
    from ingot.registry.entry import Entry

_EXAMPLES = (
    ("ingot registry list", "Every artifact, the newest first."),
    ("ingot registry list --format 'gguf:*' --sort size", "GGUF files, the largest first."),
    ("ingot registry list --adapter support-lora --state here", "Of one adapter, and not freed."),
    ("ingot registry list --json | jq 'select(.type==\"artifact\") | .name'", "For scripts."),
)
_SORTS: dict[str, Callable[[Entry], tuple[object, ...]]] = {
    "date": lambda entry: (entry.facts.made_on, entry.name),
    "name": lambda entry: (entry.name,),
    "size": lambda entry: (entry.facts.nbytes, entry.name),
    "score": lambda entry: (best_score(entry) if best_score(entry) is not None else -1.0, entry.name),
}


@click.command("list", cls=Verb, short_help="Every artifact: size, format, scores, tags.", examples=_EXAMPLES)
@click.option("--name", cls=Option, group=RUN, metavar="PATTERN", help="Of this name; * stands for anything.")
@click.option("--format", "form", cls=Option, group=RUN, metavar="PATTERN", help="safetensors, gguf:Q4_K_M, gguf:*.")
@click.option("--base", cls=Option, group=RUN, metavar="PATTERN", help="Made of this base.")
@click.option("--adapter", cls=Option, group=RUN, metavar="PATTERN", help="Made of this adapter.")
@click.option("--tag", cls=Option, group=RUN, metavar="PATTERN", help="With this tag.")
@click.option("--state", cls=Option, group=RUN, type=click.Choice(["here", "elsewhere", "freed"]),
              metavar="STATE", help="here, elsewhere, or freed.")  # fmt: skip
@click.option("--sort", cls=Option, group=OUTPUT, type=click.Choice(list(_SORTS)), default="date", show_default=True,
              metavar="KEY", help="date, name, size or score.")  # fmt: skip
@registry_option
@output_flags
@click.pass_obj
def list_artifacts(
    session: Session,
    /,
    place: Path | None,
    sort: str,
    name: str | None,
    form: str | None,
    base: str | None,
    adapter: str | None,
    tag: str | None,
    state: str | None,
) -> None:
    """List the artifacts of the registry, with what is left of each."""
    output = session.output
    registry = opened(place)
    everything = registry.entries()
    warn_of_faults(output, registry)
    wanted: list[tuple[str | None, Callable[[Entry], Sequence[str]]]] = [
        (name, lambda entry: [entry.name, entry.facts.title]),
        (form, lambda entry: [entry.facts.format]),
        (base, lambda entry: [entry.facts.base, entry.facts.base.rpartition("/")[2]]),
        (adapter, lambda entry: [adapter.name for adapter in entry.facts.adapters]),
        (tag, lambda entry: entry.tags),
        (state, lambda entry: [str(entry.state)]),
    ]
    entries = [
        entry for entry in everything
        if all(pattern is None or _matches(pattern, of(entry)) for pattern, of in wanted)
    ]  # fmt: skip
    entries.sort(key=_SORTS[sort], reverse=sort != "name")
    for entry in entries:
        output.event("artifact", **entry_json(entry))
        output.essence(entry.name)
    output.lines(table(entries))
    here = sum(entry.facts.nbytes for entry in entries if entry.state == "here")
    hidden = f" of {len(everything)}" if len(entries) < len(everything) else ""
    output.lines(["", f"{counted(len(entries), 'artifact')}{hidden}, {nbytes_text(here)} here: {registry.layout.root}"])
    output.result(verb="registry list", registry=str(registry.layout.root), artifacts=len(entries), nbytes=here)


def best_score(entry: Entry) -> float | None:
    """The mean over the tasks of the latest evaluation; None where there is none."""
    return entry.facts.scores.mean if entry.facts.scores else None


def _matches(pattern: str, names: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name.casefold(), pattern.casefold()) for name in names)


def table(entries: Sequence[Entry]) -> list[str]:
    """Artifacts as a table of text."""
    if not entries:
        return []
    width = max(4, *(len(entry.name) for entry in entries))
    head = f"{'name':<{width}}  {'format':<14}{'size':>9}  {'state':<10}{'score':>8}  {'made on':<12}tags"
    body = []
    for entry in entries:
        score = best_score(entry)
        shown = "" if score is None else f"{100 * score:.1f}%"
        gate = "" if entry.facts.scores is None or entry.facts.scores.ok else " gate failed"
        body.append(
            f"{entry.name:<{width}}  {entry.facts.format:<14}{size(entry):>9}  {entry.state:<10}{shown:>8}  "
            f"{entry.facts.made_on[:10]:<12}{', '.join(entry.tags)}{gate}".rstrip()
        )
    return [head, "-" * len(head), *body]
