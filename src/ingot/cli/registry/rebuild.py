"""`ingot registry rebuild`: a freed artifact, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingot.cli.arguments import jobs_option, output_flags
from ingot.cli.framework import RUN, Option, Verb
from ingot.cli.registry.common import REF, found, line, opened, registry_option, size
from ingot.errors import UsageError
from ingot.plan.figures import counted, seconds_text

if TYPE_CHECKING:
    from ingot.cli.boundary import Session
    from ingot.record import Record

_EXAMPLES = (
    ("ingot registry rebuild llama-3-8b-support-v3-q4_k_m", "Back into the registry, under its old name."),
    ("ingot registry rebuild 3fa9c1 --search /data/models", "Its inputs have moved: they are known by content."),
    ("ingot registry rebuild champion -o ./again --base ./llama-3-8b", "A second time, elsewhere."),
)


@click.command(
    cls=Verb, short_help="Make a freed artifact again, byte for byte.", examples=_EXAMPLES, arguments_help=[REF]
)
@click.argument("ref", metavar="REF")
@click.option("-o", "--output", "target", cls=Option, group=RUN, metavar="DIR",
              help="Where to make it; default: in the registry.")  # fmt: skip
@click.option("--search", cls=Option, group=RUN, metavar="DIR", multiple=True,
              help="Look for inputs in this folder too, with all below it; may be repeated.")  # fmt: skip
@click.option("--base", cls=Option, group=RUN, metavar="BASE", help="Where the base is now.")
@click.option("--adapter", "adapters", cls=Option, group=RUN, metavar="ADAPTER", multiple=True,
              help="Where an adapter is now; once for each, in the order of the merge.")  # fmt: skip
@click.option("--imatrix", cls=Option, group=RUN, metavar="FILE", help="Where the importance matrix is now.")
@click.option("--llama-cpp", cls=Option, group=RUN, metavar="DIR", help="Where the checkout of llama.cpp is now.")
@registry_option
@jobs_option
@output_flags
@click.pass_obj
def rebuild(
    session: Session,
    /,
    ref: str,
    target: str | None,
    search: tuple[str, ...],
    base: str | None,
    adapters: tuple[str, ...],
    imatrix: str | None,
    llama_cpp: str | None,
    place: Path | None,
    jobs: int | None,
) -> None:
    """Make an artifact again from its record and its inputs, and compare every file with the record.

    Inputs are looked for where they were, among the kept adapters, in the Hub's cache, in the folders of --search, and
    on the Hub where the record has a commit. What is not the same to the byte is not kept: exit 1.
    """
    from ingot.cli.progress import Progress
    from ingot.registry.returning import bring_back

    if target is not None and (not target.strip() or "\0" in target):
        raise UsageError("DIR is empty", found=repr(target))
    for folder in search:
        if not Path(folder).expanduser().is_dir():
            raise UsageError("--search names no directory", where=folder)
    output, registry = session.output, opened(place)
    entry = found(output, registry, ref)
    record = registry.record(entry)
    places = _places(record, base, adapters, imatrix, llama_cpp)
    to_read = sum(entry.annotations.size for entry in record.statement.predicate.build.dependencies)
    with (
        session.stopper.watched() as stop,
        Progress(output, to_read + entry.facts.nbytes, "rebuilding") as progress,
    ):
        returned = bring_back(
            registry, entry, target=Path(target) if target else None, places=places,
            search=[Path(folder).expanduser() for folder in search], looking=progress, making=progress, stop=stop,
            jobs=jobs,
        )  # fmt: skip
    rebuilt = returned.rebuilt
    took = f" in {seconds_text(rebuilt.seconds)}" if rebuilt else ", which an earlier run had made"
    files = len(entry.facts.outputs) + 1
    output.lines([
        line("Rebuilt", f"{returned.place}: {counted(files, 'file')}, {size(entry)}{took}; every byte as recorded"),
        *(line("Differs" if n == 0 else "", f"{text}; it changed no byte")
          for n, text in enumerate(rebuilt.differences if rebuilt else ())),
        line("Identity", entry.identity),
    ])  # fmt: skip
    output.essence(entry.identity)
    output.result(
        verb="registry rebuild", name=entry.name, identity=entry.identity, output=str(returned.place),
        nbytes=entry.facts.nbytes, seconds=rebuilt.seconds if rebuilt else 0.0,
        differences=list(rebuilt.differences) if rebuilt else [],
    )  # fmt: skip


def _places(
    record: Record, base: str | None, adapters: tuple[str, ...], imatrix: str | None, llama_cpp: str | None
) -> dict[str, Path]:
    """Where the user says that inputs are. Raises UsageError, BaseError, AdapterError."""
    from ingot.checkpoint.locate import locate
    from ingot.errors import AdapterError, BaseError
    from ingot.registry.sought import IMATRIX, LLAMA_CPP

    recorded = record.recipe.adapters
    if adapters and len(adapters) != len(recorded):
        raise UsageError("not as many adapters as the artifact was made of", found=len(adapters),
                         expected=f"{len(recorded)}, in this order: {', '.join(a.name for a in recorded)}")  # fmt: skip
    places: dict[str, Path] = {}
    if base is not None:
        places["base"] = locate(base, what="base", error=BaseError).path
    for number, spec in enumerate(adapters):
        location = locate(spec, what="adapter", error=AdapterError)
        places[str(number)] = location.path / location.file if location.file else location.path
    places |= {of: Path(path) for of, path in ((IMATRIX, imatrix), (LLAMA_CPP, llama_cpp)) if path}
    return places
