"""`ingot merge`: the plan, executed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ingot.cli.arguments import (
    BASE_AND_ADAPTERS,
    combine_options,
    make_options,
    making_options,
    output_flags,
    parse_adapter,
    parse_base,
    result_options,
)
from ingot.cli.framework import Verb
from ingot.cli.gguf import gguf_options, gguf_request
from ingot.cli.making import how_to_make, make

if TYPE_CHECKING:
    from ingot.cli.boundary import Session

_EXAMPLES = (
    ("ingot merge ./llama-3.1-8b ./support-lora -o ./llama-3.1-8b-support", "One adapter; the dtype stays the base's."),
    ("ingot merge ./base ./style=0.7 ./facts=0.3 -o ./both --dtype bf16", "Two adapters with weights, in bfloat16."),
    (
        "ingot merge ./base ./a=2 ./b -o ./both --method ties --density 0.3",
        "Thinned out; the stronger sign wins.",
    ),
    ("ingot merge ./base ./lora -o ./out --to gguf:Q4_K_M", "A GGUF for llama.cpp, in the same one pass."),
    ("ingot merge ./base ./lora -o ./out", "After Ctrl-C or a crash: the same command again goes on where it stopped."),
)


@click.command(
    cls=Verb,
    short_help="The same plan, executed: a checkpoint, whole or absent.",
    examples=_EXAMPLES,
    arguments_help=BASE_AND_ADAPTERS,
)
@click.argument("base", metavar="BASE")
@click.argument("adapters", metavar="ADAPTER[=WEIGHT]...", nargs=-1, required=True)
@making_options
@result_options
@combine_options
@gguf_options
@output_flags
@click.pass_obj
def merge(
    session: Session,
    /,
    base: str,
    adapters: tuple[str, ...],
    **options: Any,
) -> None:
    """Merge the adapters into the base and write a checkpoint: whole or absent, every tensor accounted for."""
    weighted = [parse_adapter(adapter) for adapter in adapters]
    how = how_to_make(options)
    gguf, imatrix, llama_cpp = gguf_request(options)
    asked = make_options(**options, adapters=[name for name, _ in weighted], gguf=gguf)
    make(session, "merge", parse_base(base), weighted, asked, imatrix=imatrix, llama_cpp=llama_cpp, **how)
