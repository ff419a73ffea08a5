"""`ingot demo`: a first merge, without a download."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingot.cli.arguments import output_flags
from ingot.cli.framework import Verb
from ingot.errors import UsageError

if TYPE_CHECKING:
    from ingot.cli.boundary import Session

_EXAMPLES = (
    ("ingot demo", "In ./ingot-demo, to look around in afterwards."),
    ("ingot demo /tmp/first-merge", "In another directory."),
)


@click.command(
    cls=Verb,
    short_help="A first merge, without a download.",
    examples=_EXAMPLES,
    arguments_help=[("DIRECTORY", "Where the demo leaves its models and scores; default: ./ingot-demo.")],
)
@click.argument("directory", metavar="[DIRECTORY]", default="ingot-demo")
@output_flags
@click.pass_obj
def demo(session: Session, /, directory: str) -> None:
    """Merge a small model that comes with ingot, verify it, and show what its adapters taught it."""
    from ingot.cli.progress import Progress
    from ingot.demo import run

    if not directory.strip() or "\0" in directory:
        raise UsageError("DIRECTORY is empty", found=repr(directory))
    output = session.output
    rows = run(output, partial(Progress, output, unit="samples"), Path(directory))
    output.essence("ok")
    output.result(verb="demo", rows=[asdict(row) for row in rows])
