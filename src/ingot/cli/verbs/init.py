"""`ingot init`: a first release recipe."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingot.cli.arguments import BASE_AND_ADAPTERS, output_flags, parse_adapter, parse_base
from ingot.cli.framework import OUTPUT, RUN, Option, Verb
from ingot.errors import OutputError, UsageError

if TYPE_CHECKING:
    from ingot.cli.boundary import Session
    from ingot.cli.output import Output
    from ingot.release.starter import Starter

_DEFAULT = "release.yaml"
_EXAMPLES = (
    ("ingot init ./llama-3.1-8b ./support-lora", f"Writes {_DEFAULT}, with comments; look at it, then release."),
    (
        "ingot init org/base@main ./style=0.7 ./facts=0.3 -o both.yaml",
        "Two adapters; the Hub's commit is written down.",
    ),
    ("ingot init ./llama-3.1-8b ./support-lora -o -", "On standard output."),
    ("ingot init --schema > recipe.schema.json", "What a recipe may say, for an editor."),
)


@click.command(
    cls=Verb,
    short_help="A first release recipe for a base and its adapters.",
    examples=_EXAMPLES,
    arguments_help=BASE_AND_ADAPTERS,
)
@click.argument("base", metavar="BASE", required=False)
@click.argument("adapters", metavar="ADAPTER[=WEIGHT]...", nargs=-1)
@click.option(
    "-o",
    "--output",
    "target",
    cls=Option,
    group=RUN,
    metavar="RECIPE.yaml",
    default=_DEFAULT,
    show_default=True,
    help="The file to be written; it must not exist before. - for standard output.",
)
@click.option("--schema", cls=Option, group=OUTPUT, is_flag=True, help="Print the JSON schema of recipes instead.")
@output_flags
@click.pass_obj
def init(session: Session, /, base: str | None, adapters: tuple[str, ...], target: str, schema: bool) -> None:
    """Write a release recipe that fits a base and its adapters, from their headers and configs."""
    output = session.output
    if schema:
        _show_schema(output, [base, *adapters] if base else [])
        return
    if base is None or not adapters:
        what = "BASE is missing" if base is None else "ADAPTER is missing"
        raise UsageError(what, hint="Type `ingot init BASE ADAPTER -o RECIPE.yaml`.")
    from ingot.release.starter import start

    weighted = [parse_adapter(adapter) for adapter in adapters]
    path = None if target == "-" else _free(target)
    made = start(parse_base(base), weighted, Path.cwd() if path is None else path.parent)
    if path is not None:
        from ingot.storage import PosixDisk, replace_file

        replace_file(PosixDisk(), _free(target), made.text.encode("utf-8"))
    _show(output, made, target)


def _show_schema(output: Output, rest: list[str]) -> None:
    from ingot.release.schema import schema, schema_bytes

    if rest:
        raise UsageError("--schema takes no BASE and no ADAPTER", found=rest[0])
    output.lines(schema_bytes().decode("utf-8").splitlines(), headings=False)
    output.essence("recipe.schema.json")
    output.result(verb="init", schema=schema())


def _free(target: str) -> Path:
    """The absolute path of a file that can be made there.

    Raises:
        UsageError: it is no file's name.
        OutputError: something stands there, or there is no directory for it.
    """
    if not target.strip() or "\0" in target:
        raise UsageError("RECIPE.yaml is empty", found=repr(target))
    path = Path(target).expanduser().absolute()
    if os.path.lexists(path):
        raise OutputError("the recipe exists already", where=target, hint="Name another file with -o, or remove it.")
    if not path.parent.is_dir():
        raise OutputError(
            "there is no such directory", where=path.parent, hint=f"mkdir -p {shlex.quote(str(path.parent))}"
        )
    return path


def _show(output: Output, made: Starter, target: str) -> None:
    for warning in made.warnings:
        output.warn(warning)
    shown = shlex.quote(target)
    if target == "-":
        output.lines(made.text.splitlines(), headings=False)
    else:
        output.lines(
            [f"{'Written':<11}{target}", f"{'Name':<11}{made.name}", f"{'Formats':<11}{', '.join(made.formats)}"]
        )
        if made.no_gguf:
            output.say(f"{'No GGUF':<11}{made.no_gguf}")
        output.say()
        output.say(f"{'Look at it':<11}{shown}: versions, samples, gates")
        output.say(f"{'Release':<11}ingot release {shown}")
    output.essence(target)
    output.result(
        verb="init", output=None if target == "-" else target, recipe=made.text, name=made.name,
        formats=list(made.formats), no_gguf=made.no_gguf, warnings=list(made.warnings),
    )  # fmt: skip
