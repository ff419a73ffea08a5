"""`ingot doctor`: what this machine has for ingot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingot.cli.arguments import output_flags
from ingot.cli.framework import RUN, Option, Verb

if TYPE_CHECKING:
    from ingot.cli.boundary import Session

_EXAMPLES = (
    ("ingot doctor", "This machine, and the disk of the current directory."),
    ("ingot doctor --path /data", "The disk that the output will stand on."),
    ("ingot doctor --json", "For a bug report, or a script."),
)


@click.command(cls=Verb, short_help="What this machine has for ingot.", examples=_EXAMPLES)
@click.option("--path", cls=Option, group=RUN, metavar="DIR", default=".", help="Which directory's disk to try.")
@output_flags
@click.pass_obj
def doctor(session: Session, /, path: str) -> None:
    """Show versions, memory, devices and what the disk can do; exits with 18 when a needed component is missing."""
    from ingot.doctor import examine

    diagnosis = examine(Path(path))
    output = session.output
    output.lines(diagnosis.as_lines(output.width))
    if not diagnosis.ok:
        output.event("diagnosis", **diagnosis.as_json())
        raise diagnosis.as_error()
    output.essence("ok")
    output.result(verb="doctor", **diagnosis.as_json())
