"""`ingot registry gc`: free what a policy lets go and what could be made again."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingot.cli.arguments import output_flags
from ingot.cli.framework import RUN, Option, Verb
from ingot.cli.registry.common import line, opened, registry_option, size
from ingot.errors import UsageError
from ingot.plan.figures import counted, nbytes_text

if TYPE_CHECKING:
    from ingot.cli.boundary import Session
    from ingot.cli.output import Output
    from ingot.registry.collect import Looking, Policy, Verdict
    from ingot.registry.entry import Entry
    from ingot.registry.store import Registry

_EXAMPLES = (
    ("ingot registry gc --keep-newest 3 --dry-run", "What would be freed, and why the rest stays; changes nothing."),
    ("ingot registry gc --keep-newest 3 --keep-younger-than 30d", "The same, asked about, then done."),
    ("ingot registry gc --keep-newest 0 --name 'support-v1-*' --yes", "All of one name, from a script."),
    ("ingot registry gc --keep-newest 3 --search /data/models", "Where the inputs may have moved to."),
)


@click.command(
    "gc", cls=Verb, short_help="Free what could be made again, by policy; tagged artifacts and adapters stay.",
    examples=_EXAMPLES,
)  # fmt: skip
@click.option("--keep-newest", cls=Option, group=RUN, type=click.IntRange(min=0), metavar="N",
              help="Keep the newest N of each title and format.")  # fmt: skip
@click.option("--keep-younger-than", cls=Option, group=RUN, metavar="TIME",
              help="Keep what was made within this time: 12h, 30d, 8w.")  # fmt: skip
@click.option("--name", cls=Option, group=RUN, metavar="PATTERN",
              help="Look only at artifacts of this name; * stands for anything.")  # fmt: skip
@click.option("-n", "--dry-run", cls=Option, group=RUN, is_flag=True, help="Show what would be freed; change nothing.")
@click.option("--search", cls=Option, group=RUN, multiple=True, metavar="DIR",
              help="Look for inputs in this folder too, with all below it; may be repeated.")  # fmt: skip
@click.option("--hub", cls=Option, group=RUN, is_flag=True,
              help="What the Hub has at the recorded commit, with the same digest, counts as found.")  # fmt: skip
@click.option("-y", "--yes", cls=Option, group=RUN, is_flag=True, help="Free without asking.")
@registry_option
@output_flags
@click.pass_obj
def gc(
    session: Session,
    /,
    keep_newest: int | None,
    keep_younger_than: str | None,
    name: str | None,
    dry_run: bool,
    search: tuple[str, ...],
    hub: bool,
    yes: bool,
    place: Path | None,
) -> None:
    """Free artifacts that the policy lets go and that could be made again right now: every input is found, by digest.

    Their records stay, so that they are listed and traced, and `ingot registry rebuild` makes the same bytes again.
    Never freed: what has a tag, what others were made of, what could not be made again. Adapters are never touched."""
    output = session.output
    policy = _policy(keep_newest, keep_younger_than, name)
    asks = not (dry_run or yes)
    if asks and (output.mode != "human" or not (sys.stdin.isatty() and sys.stderr.isatty())):
        raise UsageError("there is nobody to ask", hint="Pass --dry-run to look, or --yes to free without asking.")
    folders = tuple(Path(folder).expanduser() for folder in search)
    for text, folder in zip(search, folders, strict=True):
        if not text.strip() or not folder.is_dir():
            raise UsageError("--search names no directory", where=repr(text))
    registry = opened(place)
    verdicts = _decided(session, registry, policy, _looking(folders, hub))
    _show(output, verdicts, registry)
    free = [verdict.entry for verdict in verdicts if verdict.fate == "free"]
    if dry_run or not free or (asks and not _confirmed(free)):
        output.say("Nothing was freed.")
        _end(output, verdicts, [], dry_run, registry)
        return
    _end(output, verdicts, _freed(session, registry, policy, _looking(folders, hub), free), False, registry)


def _policy(newest: int | None, younger: str | None, name: str | None) -> Policy:
    from ingot.registry.collect import Policy, duration

    if name is not None and not name.strip():
        raise UsageError("--name: PATTERN is empty")
    policy = Policy(newest, None if younger is None else duration(younger), name)
    policy.check()
    return policy


def _looking(search: tuple[Path, ...], hub: bool) -> Looking:
    from ingot.registry.collect import Looking

    return Looking(search, hub)


def _decided(session: Session, registry: Registry, policy: Policy, looking: Looking) -> list[Verdict]:
    from dataclasses import replace

    from ingot.cli.progress import Progress
    from ingot.registry.collect import decide

    with session.stopper.watched() as stop, Progress(session.output, 0, "looking for inputs") as progress:
        return decide(registry, policy, replace(looking, stop=stop, progress=progress))


def _freed(
    session: Session, registry: Registry, policy: Policy, looking: Looking, wanted: Sequence[Entry]
) -> list[Entry]:
    """Free them; tells of each, and of those that may not go any more."""
    from dataclasses import replace

    from ingot.registry.collect import collect

    output = session.output

    def tell(entry: Entry) -> None:
        output.event("freed", name=entry.name, identity=entry.identity, nbytes=entry.facts.nbytes)
        output.say(line("Freed", f"{entry.name}  {size(entry)}"))

    with session.stopper.watched() as stop:
        final = collect(registry, policy, replace(looking, stop=stop), wanted, tell)
    for verdict in final:
        if verdict.fate != "free":
            output.warn(f"{verdict.entry.name} is kept after all: {verdict.why}")
    return [verdict.entry for verdict in final if verdict.fate == "free"]


def _confirmed(free: Sequence[Entry]) -> bool:
    total = nbytes_text(sum(entry.facts.nbytes for entry in free))
    return click.confirm(f"Free {counted(len(free), 'artifact')}, {total}?", default=False, err=True)


def _show(output: Output, verdicts: Sequence[Verdict], registry: Registry) -> None:
    for verdict in verdicts:
        entry = verdict.entry
        output.event(
            "artifact", name=entry.name, identity=entry.identity, nbytes=entry.facts.nbytes, tags=list(entry.tags),
            fate=str(verdict.fate), why=verdict.why,
        )  # fmt: skip
    if not verdicts:
        output.lines([f"No artifact that the policy looks at is in {registry.layout.artifacts}"])
        return
    width = max(len(verdict.entry.name) for verdict in verdicts)
    output.lines(
        f"{verdict.fate:<8}{verdict.entry.name:<{width}}{size(verdict.entry):>10}  {_why(verdict)}"
        for fate in ("free", "refuse", "keep") for verdict in verdicts if verdict.fate == fate
    )  # fmt: skip
    sums = []
    for fate, said in (("free", "to be freed"), ("refuse", "refused"), ("keep", "kept")):
        entries = [verdict.entry for verdict in verdicts if verdict.fate == fate]
        if entries:
            total = nbytes_text(sum(entry.facts.nbytes for entry in entries))
            sums.append(f"{counted(len(entries), 'artifact')} {said}, {total}")
    output.lines(["", "; ".join(sums)])


def _why(verdict: Verdict) -> str:
    return verdict.why or "can be made again from inputs that are here"


def _end(
    output: Output, verdicts: Sequence[Verdict], freed: Sequence[Entry], dry_run: bool, registry: Registry
) -> None:
    free = [verdict.entry for verdict in verdicts if verdict.fate == "free"]
    nbytes = {what: sum(entry.facts.nbytes for entry in of) for what, of in (("free", free), ("freed", freed))}
    output.essence(str(nbytes["free" if dry_run else "freed"]))
    output.result(
        verb="registry gc", registry=str(registry.layout.root), dry_run=dry_run,
        freed=[entry.name for entry in freed], nbytes_freed=nbytes["freed"],
        to_be_freed=[entry.name for entry in free], nbytes_to_be_freed=nbytes["free"],
        kept=sum(verdict.fate == "keep" for verdict in verdicts),
        refused=sum(verdict.fate == "refuse" for verdict in verdicts),
    )  # fmt: skip
