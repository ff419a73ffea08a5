"""`ingot demo`: the main job on a model that comes with ingot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingot.cli.arguments import output_flags
from ingot.cli.framework import Verb

if TYPE_CHECKING:
    from ingot.cli.boundary import Session
    from ingot.cli.output import Output

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
    """Merge two adapters into a small model, verify both, and score base, adapter and merged. Needs no network."""
    from ingot.demo import run

    output = session.output
    with session.stopper.watched() as stop:
        rows = run(output, lambda total, verb: _bar(output, total, verb), Path(directory), stop=stop)
    output.essence(" ".join(f"{row.task}={row.merged:.1f}%" for row in rows))
    output.result(verb="demo", directory=directory, scores=[row.__dict__ for row in rows])


@contextmanager
def _bar(output: Output, total: int, verb: str) -> Iterator[Callable[[int], None]]:
    """A bar that counts answers, on a terminal; JSON events; nothing elsewhere."""
    if output.moving:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(file=output.stderr, no_color=not output.color), transient=True) as bar:
            task = bar.add_task(verb, total=total)
            yield lambda number: bar.advance(task, number)
        return
    done = 0

    def count(number: int) -> None:
        nonlocal done
        done += number
        output.event("progress", doing=verb, done=done, total=total)

    yield count
