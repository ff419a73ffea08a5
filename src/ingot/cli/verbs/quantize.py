"""`ingot quantize`: a checkpoint as GGUF, without an adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ingot.cli.arguments import device_name, jobs_option, output_flags, parse_base
from ingot.cli.framework import OUTPUT, RUN, Option, Verb
from ingot.cli.gguf import gguf_options, gguf_request
from ingot.cli.making import make
from ingot.errors import UsageError

if TYPE_CHECKING:
    from ingot.cli.boundary import Session

_EXAMPLES = (
    ("ingot quantize ./model -o ./model-gguf --to gguf:Q4_K_M", "One GGUF file, and its record beside it."),
    ("ingot quantize ./model -o ./model-gguf --to gguf:Q5_K_M,gguf:Q8_0", "Two types from one read."),
    ("ingot quantize ./model -o ./small --to gguf:IQ4_XS --imatrix ./model.imatrix", "With an importance matrix."),
)


@click.command(
    cls=Verb,
    short_help="A checkpoint as GGUF, for llama.cpp.",
    examples=_EXAMPLES,
    arguments_help=[("MODEL", "A checkpoint: a directory, or a Hub id such as org/name@revision.")],
)
@click.argument("model", metavar="MODEL")
@click.option("-o", "--output", "target", cls=Option, group=RUN, metavar="OUT", required=True,
              help="The directory to be made. It appears when it is whole; it must not exist before.")  # fmt: skip
@click.option("--device", cls=Option, group=RUN, metavar="DEVICE", default="cpu", show_default=True,
              callback=device_name, help="Where the arithmetic is done: cpu, cuda or cuda:N.")  # fmt: skip
@jobs_option
@click.option("--restart", cls=Option, group=RUN, is_flag=True,
              help="Drop what an interrupted run of this output has finished, and begin anew.")  # fmt: skip
@click.option("-v", "--verbose", cls=Option, group=OUTPUT, is_flag=True, help="Show the whole plan first.")
@gguf_options
@output_flags
@click.pass_obj
def quantize(
    session: Session, /, model: str, target: str, device: str, jobs: int | None, restart: bool, verbose: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Write a checkpoint as GGUF: streamed, in bounded memory, nothing in between on the disk."""
    from ingot.plan.model import Options

    gguf, imatrix = gguf_request(options)
    if gguf is None:
        raise UsageError("no format was named", hint="Add --to gguf:Q4_K_M, for example.")
    make(
        session, "quantize", parse_base(model), [], Options(gguf=gguf), target,
        device=device, jobs=jobs, restart=restart, verbose=verbose, imatrix=imatrix,
    )  # fmt: skip
