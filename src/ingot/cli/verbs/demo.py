"""`ingot demo`: the main job on a model that comes with ingot."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingot.cli.arguments import output_flags
from ingot.cli.framework import Verb

if TYPE_CHECKING:
    from ingot.cli.boundary import Session

_EXAMPLES = (
    ("ingot demo", "In ./ingot-demo, which it makes."),
    ("ingot demo /tmp/look", "In a directory of your choice."),
)
_DEFAULT = "ingot-demo"


@click.command(
    cls=Verb, examples=_EXAMPLES,
    arguments_help=[("DIRECTORY", f"Where the demo leaves its merged models (default: ./{_DEFAULT}).")],
)  # fmt: skip
@click.argument("directory", metavar="[DIRECTORY]", default=_DEFAULT)
@output_flags
@click.pass_obj
def demo(session: Session, directory: str) -> None:
    """Merge two adapters into a small model, verify both, and show that they are what was trained. Needs no network."""
    from ingot.cli.progress import bars
    from ingot.demo import run

    output = session.output
    with session.stopper.watched() as stop:
        rows = run(output, bars(output), Path(directory), stop=stop)
    output.essence(" ".join(f"{row.task}={row.merged:.1f}%" for row in rows))
    output.result(verb="demo", directory=directory, scores=[asdict(row) for row in rows])
