"""`ingot registry reindex`: the index, made again from the records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingot.cli.arguments import output_flags
from ingot.cli.framework import Verb
from ingot.cli.registry.common import line, opened, registry_option, warn_of_faults
from ingot.plan.figures import counted

if TYPE_CHECKING:
    from ingot.cli.boundary import Session

_EXAMPLES = (("ingot registry reindex", "Rarely needed: a missing or damaged index is made again by itself."),)


@click.command(cls=Verb, short_help="Make the index again from the records.", examples=_EXAMPLES)
@registry_option
@output_flags
@click.pass_obj
def reindex(session: Session, /, place: Path | None) -> None:
    """Drop index.sqlite and make it again from the records and tags, which are the truth."""
    output = session.output
    registry = opened(place)
    entries = registry.reindex()
    warn_of_faults(output, registry)
    output.lines([line("Indexed", f"{counted(len(entries), 'artifact')} in {registry.layout.index}")])
    output.essence(str(len(entries)))
    output.result(verb="registry reindex", artifacts=len(entries), faults=registry.faults)
