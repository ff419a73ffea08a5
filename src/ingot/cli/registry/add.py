"""`ingot registry add`: take note of an artifact that lies elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingot.cli.arguments import output_flags
from ingot.cli.framework import Verb
from ingot.cli.registry.common import line, opened, registry_option
from ingot.errors import UsageError

if TYPE_CHECKING:
    from ingot.cli.boundary import Session

_EXAMPLES = (("ingot registry add ./llama-3.1-8b-support", "An artifact of `ingot merge`; it stays where it is."),)


@click.command(
    cls=Verb, short_help="Take note of an artifact that lies elsewhere.", examples=_EXAMPLES,
    arguments_help=[("ARTIFACT...", "Directories that `ingot merge` or `ingot quantize` made.")],
)  # fmt: skip
@click.argument("artifacts", metavar="ARTIFACT...", nargs=-1, required=True)
@registry_option
@output_flags
@click.pass_obj
def add(session: Session, /, artifacts: tuple[str, ...], place: Path | None) -> None:
    """Register finished artifacts where they lie: then they are listed, traced, compared and tagged like any other.

    Nothing is copied or moved, and `ingot registry gc` does not free what lies outside the registry."""
    from ingot.registry.places import Places

    output = session.output
    for path in artifacts:
        if not path.strip() or "\0" in path or not Path(path).is_dir():
            raise UsageError("there is no such directory", where=repr(path))
    registry = opened(place, create=True)
    for path in artifacts:
        entry = registry.add(Path(path), Places(Path(path).resolve().name))
        output.lines([line("Added", f"{entry.name}  {entry.identity[:12]}  {entry.place}")])
        output.event("added", name=entry.name, identity=entry.identity, place=entry.place)
        output.essence(entry.identity)
    output.result(verb="registry add", registry=str(registry.layout.root), artifacts=len(artifacts))
