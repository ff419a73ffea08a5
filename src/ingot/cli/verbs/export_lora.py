"""`ingot export-lora`: an adapter for llama.cpp's runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingot.cli.arguments import output_flags, parse_base
from ingot.cli.framework import RESULT, RUN, Option, Verb
from ingot.errors import UsageError
from ingot.plan.figures import counted, nbytes_text

if TYPE_CHECKING:
    from ingot.cli.boundary import Session

_EXAMPLES = (
    ("ingot export-lora ./llama-3.1-8b ./support-lora -o ./support.gguf", "For llama-server --lora ./support.gguf."),
    ("ingot export-lora ./base ./lora -o ./lora.gguf --dtype float16", "Half the size."),
)


@click.command(
    "export-lora",
    cls=Verb,
    short_help="An adapter for llama.cpp's runtime, rightly scaled.",
    examples=_EXAMPLES,
    arguments_help=[
        ("BASE", "The model that the adapter was trained on: its headers and config are read."),
        ("ADAPTER", "A LoRA adapter: a directory, file or Hub id."),
    ],
)
@click.argument("base", metavar="BASE")
@click.argument("adapter", metavar="ADAPTER")
@click.option("-o", "--output", "target", cls=Option, group=RUN, metavar="FILE", required=True,
              help="The .gguf file to be made; it must not exist before.")  # fmt: skip
@click.option("--dtype", cls=Option, group=RESULT, type=click.Choice(["float32", "float16"]), default="float32",
              show_default=True, help="Of the factors.")  # fmt: skip
@output_flags
@click.pass_obj
def export_lora(session: Session, /, base: str, adapter: str, target: str, dtype: str) -> None:
    """Write a LoRA adapter as GGUF, each module scaled in its factors: rsLoRA and alpha patterns come out right."""
    from ingot.export_lora import export_lora as export

    if not target.strip() or "\0" in target:
        raise UsageError("FILE is empty", found=repr(target))
    found = export(parse_base(base), adapter, Path(target), dtype={"float32": "F32", "float16": "F16"}[dtype])
    output = session.output
    ranks, scalings = ", ".join(map(str, found.ranks)), ", ".join(f"{value:g}" for value in found.scalings)
    output.lines([
        f"Written    {found.path}: {counted(found.modules, 'module')}, rank {ranks}, {nbytes_text(found.nbytes)}",
        f"Scaling    {scalings}, in the factors; llama.cpp adds none of its own",
        "",
        f"Run        llama-cli -m BASE.gguf --lora {found.path}",
    ])  # fmt: skip
    output.essence(str(found.path))
    output.result(
        verb="export-lora", output=str(found.path), nbytes=found.nbytes, modules=found.modules,
        ranks=list(found.ranks), scalings=list(found.scalings),
    )  # fmt: skip
