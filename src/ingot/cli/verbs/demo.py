"""`ingot demo`: a first merge, without a download."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingot.cli.arguments import output_flags
from ingot.cli.framework import Verb

if TYPE_CHECKING:
    from ingot.cli.boundary import Session

_EXAMPLES = (
    ("ingot demo", "In a temporary directory."),
    ("ingot demo ./ingot-demo", "In a directory that stays, to look around in."),
)


@click.command(
    cls=Verb,
    short_help="A first merge, without a download.",
    examples=_EXAMPLES,
    arguments_help=[("DIRECTORY", "Where the demo works and leaves its files.")],
)
@click.argument("directory", metavar="[DIRECTORY]", required=False)
@output_flags
@click.pass_obj
def demo(session: Session, /, directory: str | None) -> None:
    """Merge a small model that comes with ingot, verify it, and show what its adapters taught it."""
    from ingot.demo import run

    run(session.output, Path(directory) if directory else None)
