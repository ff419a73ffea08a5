"""`ingot quantize`: a checkpoint as GGUF, without an adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ingot.cli.arguments import making_options, output_flags, parse_base
from ingot.cli.framework import Verb
from ingot.cli.gguf import gguf_options, gguf_request
from ingot.cli.making import how_to_make, make
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
@making_options
@gguf_options
@output_flags
@click.pass_obj
def quantize(session: Session, /, model: str, **options: Any) -> None:
    """Write a checkpoint as GGUF: streamed, in bounded memory, nothing in between on the disk."""
    from ingot.plan.model import Options

    how = how_to_make(options)
    gguf, imatrix, llama_cpp = gguf_request(options)
    if gguf is None:
        raise UsageError("no GGUF type was named, and quantize writes nothing else", hint="Add --to gguf:Q4_K_M.")
    asked = Options(gguf=gguf)
    make(session, "quantize", parse_base(model), [], asked, imatrix=imatrix, llama_cpp=llama_cpp, **how)
