"""`ingot registry trace`: from a served file back to the training run, and forward from an adapter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ingot.cli.arguments import output_flags
from ingot.cli.framework import Verb
from ingot.cli.registry.common import (
    SHOWN,
    checked_ref,
    entry_json,
    line,
    opened,
    registry_option,
    size,
    warn_of_faults,
)
from ingot.errors import UsageError
from ingot.plan.figures import counted, nbytes_text

if TYPE_CHECKING:
    from ingot.cli.boundary import Session
    from ingot.cli.output import Output
    from ingot.registry.entry import Adapter, Facts
    from ingot.registry.lineage import Ancestry, Lineage

_EXAMPLES = (
    ("ingot registry trace ./served/model-q4_k_m.gguf", "What is this file? Base, adapters, training runs."),
    ("ingot registry trace sha256:3fa9c1d2", "The same from its digest alone."),
    ("ingot registry trace ./support-lora", "Forward: all that was made of an adapter."),
)
_ARGUMENTS = [("REF", "A file, a sha256 or the beginning of one, an adapter's directory, an artifact's name or tag.")]


@click.command(
    cls=Verb, short_help="From a served file back to the training run; and forward.", examples=_EXAMPLES,
    arguments_help=_ARGUMENTS,
)  # fmt: skip
@click.argument("ref", metavar="REF")
@registry_option
@output_flags
@click.pass_obj
def trace(session: Session, /, ref: str, place: Path | None) -> None:
    """Follow a file, or its digest, back to base, adapters and training runs, and forward to what was made of it."""
    output = session.output
    checked_ref(ref)
    lineage = _lineage(output, ref, place)
    output.lines(lineage_lines(lineage))
    runs = list(_training_runs(lineage))
    output.essence(runs[0] if runs else (lineage.match.entry.identity if lineage.match else lineage.made[0].identity))
    output.result(verb="registry trace", **_json(lineage), training_runs=runs)


def _lineage(output: Output, ref: str, place: Path | None) -> Lineage:
    """By the registry; an artifact's directory tells for itself where there is none."""
    from ingot.registry.lineage import trace as trace_in
    from ingot.registry.lineage import trace_at
    from ingot.storage import RECORD_NAME

    try:
        registry = opened(place)
    except UsageError:
        path = Path(ref).expanduser()
        folder = path if path.is_dir() else path.parent
        if place is None and path.exists() and (folder / RECORD_NAME).is_file():
            return trace_at(path)
        raise
    try:
        return trace_in(registry, ref)
    finally:
        warn_of_faults(output, registry)


def _training_runs(lineage: Lineage) -> Iterator[str]:
    """Of the artifact's own adapters, then of what it was made of."""
    waiting = [lineage.back] if lineage.back else []
    seen = set()
    while waiting:
        ancestry = waiting.pop(0)
        for adapter in ancestry.entry.facts.adapters:
            if adapter.training_run and adapter.training_run not in seen:
                seen.add(adapter.training_run)
                yield adapter.training_run
        waiting += ancestry.parents.values()


def lineage_lines(lineage: Lineage) -> list[str]:
    """What `trace` shows."""
    lines = []
    if lineage.match is not None and lineage.match.name:
        file = next(f for f in lineage.match.entry.facts.outputs if f.name == lineage.match.name)
        lines.append(line("File", f"{file.name}, {nbytes_text(file.nbytes)}, sha256 {file.sha256}"))
    if lineage.back is not None:
        lines += _ancestry_lines(lineage.back, "")
    for number, entry in enumerate(lineage.made):
        role = lineage.used_as.get(entry.identity)
        how = "" if role is None else " as its base" if role == "base" else f" as adapter {int(role) + 1}"
        text = f"{entry.name} ({entry.facts.format}, {size(entry)}, {entry.state}){how}"
        lines.append(
            line("Made of it" if number == 0 else "", text + (f"  [{', '.join(entry.tags)}]" if entry.tags else ""))
        )
    return lines


def _ancestry_lines(ancestry: Ancestry, indent: str) -> list[str]:
    entry, facts = ancestry.entry, ancestry.entry.facts
    tags = f"  [{', '.join(entry.tags)}]" if entry.tags else ""
    version = f" {facts.version}" if facts.version else ""
    lines = [
        line("Artifact", f"{entry.name} ({entry.state}): {facts.title}{version}, {facts.format}{tags}"),
        line("", f"identity {facts.identity}"),
        line("", f"made {facts.made_on} by ingot {facts.ingot}, {facts.method}"),
        line("Base", base_text(facts)),
    ]
    lines += _parent_lines(ancestry, "base")
    for number in range(len(facts.adapters)):
        lines += adapter_lines(facts, number)
        lines += _parent_lines(ancestry, str(number))
    return [indent + text for text in lines]


def _parent_lines(ancestry: Ancestry, role: str) -> list[str]:
    parent = ancestry.parents.get(role)
    return [] if parent is None else [line("", "which is"), *_ancestry_lines(parent, "    ")]


def base_text(facts: Facts) -> str:
    """The base, and the commit where the Hub told it."""
    weights = facts.weights("base")
    files = facts.inputs("base")
    told = [
        facts.base + (f" {facts.base_version}" if facts.base_version else ""),
        f"revision {facts.base_revision}" if facts.base_revision else "",
        f"commit {facts.base_commit}" if facts.base_commit else "",
        f"{counted(len(files), 'file')}, {weights.name} sha256 {weights.sha256[:SHOWN]}" if weights else "",
    ]
    return ", ".join(text for text in told if text)


def adapter_lines(facts: Facts, only: int | None = None) -> list[str]:
    """Each adapter: what it is, where it was trained."""
    lines = []
    for number, adapter in enumerate(facts.adapters):
        if only is None or number == only:
            texts = list(_adapter_texts(facts, number, adapter))
            lines += [line(f"Adapter {number + 1}" if at == 0 else "", text) for at, text in enumerate(texts)]
    return lines


def _adapter_texts(facts: Facts, number: int, adapter: Adapter) -> Iterator[str]:
    weights = facts.weights(str(number))
    shape = f"rank {', '.join(map(str, adapter.ranks))}" if adapter.ranks else ""
    commit = f"commit {adapter.commit}" if adapter.commit else ""
    told = [
        adapter.name + (f" {adapter.version}" if adapter.version else ""), commit, adapter.method, shape,
        f"weight {adapter.weight:g}",
    ]  # fmt: skip
    yield ", ".join(text for text in told if text)
    if weights is not None:
        yield f"{weights.name} sha256 {weights.sha256}"
    yield f"training run {adapter.training_run}" if adapter.training_run else "training run not told in the recipe"
    if adapter.claimed_base:
        fits = {True: "this base", False: "another base", None: "which a name cannot prove to be this base"}
        yield f"trained on {adapter.claimed_base}: {fits[adapter.matches]}"


def _json(lineage: Lineage) -> dict[str, Any]:
    return {
        "file": lineage.match.name or None if lineage.match else None,
        "artifact": _ancestry_json(lineage.back) if lineage.back else None,
        "made": [{**entry_json(entry), "used_as": lineage.used_as.get(entry.identity)} for entry in lineage.made],
    }


def _ancestry_json(ancestry: Ancestry) -> dict[str, Any]:
    parents = {role: _ancestry_json(parent) for role, parent in ancestry.parents.items()}
    return {**entry_json(ancestry.entry), "made_from": parents}
