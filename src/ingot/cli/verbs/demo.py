"""`ingot demo`: releases of a model and two adapters that come with ingot."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingot.cli.arguments import output_flags
from ingot.cli.framework import Verb
from ingot.cli.registry.common import SHOWN

if TYPE_CHECKING:
    from ingot.cli.boundary import Session
    from ingot.cli.output import Output
    from ingot.demo.run import Row

_EXAMPLES = (
    ("ingot demo", "In ./ingot-demo, which it makes."),
    ("ingot demo /tmp/look", "In a directory of your choice."),
)
_DEFAULT = "ingot-demo"


@click.command(
    cls=Verb, short_help="Releases of a small model that comes along.", examples=_EXAMPLES,
    arguments_help=[("DIRECTORY", f"Where the demo leaves its recipes and its registry (default: ./{_DEFAULT}).")],
)  # fmt: skip
@click.argument("directory", metavar="[DIRECTORY]", default=_DEFAULT)
@output_flags
@click.pass_obj
def demo(session: Session, directory: str) -> None:
    """Release two adapters on a small model: merged, made into GGUF, verified, validated, published, traced. Needs no
    network."""
    from ingot.cli.progress import bars
    from ingot.demo import run

    output = session.output
    with session.stopper.watched() as stop:
        rows = run(output, bars(output), Path(directory), stop=stop)
    _show_registry(output, Path(directory) / "registry", rows)
    output.essence(" ".join(f"{row.task}={row.made[0].score:.1f}%" for row in rows))
    output.result(verb="demo", directory=directory, scores=[asdict(row) for row in rows])


def _show_registry(output: Output, place: Path, rows: list[Row]) -> None:
    """Where the demo ends: what was released, and one of its files traced back from its digest alone."""
    from ingot.cli.registry.list import table
    from ingot.cli.registry.trace import lineage_lines
    from ingot.registry.lineage import trace
    from ingot.registry.store import Registry

    registry = Registry.open(place)
    entries = {entry.name: entry for entry in registry.entries()}
    where = f"--registry {shlex.quote(str(place))}"
    output.lines(["", f"$ ingot registry list {where}", "", *table(registry.entries())])
    last = entries[rows[-1].made[-1].name]
    digest = max(last.facts.outputs, key=lambda file: file.nbytes).sha256
    lineage = trace(registry, digest)
    output.lines(["", f"$ ingot registry trace {digest[:SHOWN]} {where}", "", *lineage_lines(lineage)])
