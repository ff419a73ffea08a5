"""`ingot inspect`: what a file or directory holds, from headers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingot.cli.arguments import output_flags
from ingot.cli.framework import Verb
from ingot.errors import UsageError

if TYPE_CHECKING:
    from ingot.cli.boundary import Session

_EXAMPLES = (
    ("ingot inspect ./llama-3.1-8b", "A checkpoint: architecture, parameters, dtypes, shards."),
    ("ingot inspect ./support-lora", "An adapter: method, rank, modules, and whether it can be merged."),
    ("ingot inspect ./llama-3.1-8b-support", "An artifact: what it was made of, from its record."),
    ("ingot inspect ./model.safetensors", "One file: its tensors."),
)


@click.command(
    cls=Verb,
    short_help="What a checkpoint, adapter, artifact or file holds.",
    examples=_EXAMPLES,
    arguments_help=[("PATH", "A model or adapter directory, a .safetensors file, or a torch .bin file.")],
)
@click.argument("path", metavar="PATH")
@output_flags
@click.pass_obj
def inspect(session: Session, /, path: str) -> None:
    """Show what a checkpoint, an adapter, an artifact or a single file holds. Reads headers; runs nothing."""
    from ingot.inspect import inspect_path

    if not path.strip() or "\0" in path:
        raise UsageError("PATH is empty", found=repr(path))
    report = inspect_path(Path(path).expanduser())
    output = session.output
    output.lines(report.as_lines(output.width))
    output.essence(report.kind)
    output.result(verb="inspect", kind=report.kind, **report.facts)
