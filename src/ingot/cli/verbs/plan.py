"""`ingot plan`: what a merge would do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ingot.cli.arguments import (
    BASE_AND_ADAPTERS,
    combine_options,
    jobs_option,
    make_options,
    output_flags,
    parse_adapter,
    parse_base,
    result_options,
)
from ingot.cli.framework import RUN, Option, Verb
from ingot.cli.gguf import gguf_options, gguf_request
from ingot.cli.making import gguf_json, gguf_lines

if TYPE_CHECKING:
    from ingot.cli.boundary import Session

_EXAMPLES = (
    ("ingot plan ./llama-3.1-8b ./support-lora", "The bill: what changes, what it costs, what to watch."),
    ("ingot plan ./llama-3.1-8b ./support-lora -o /data/out", "Also whether that disk has the room."),
    ("ingot plan ./base ./style=0.7 ./facts=0.3 --json", "Two adapters; the plan as JSON."),
)


@click.command(
    cls=Verb,
    short_help="What a merge would do and cost.",
    examples=_EXAMPLES,
    arguments_help=BASE_AND_ADAPTERS,
)
@click.argument("base", metavar="BASE")
@click.argument("adapters", metavar="ADAPTER[=WEIGHT]...", nargs=-1, required=True)
@click.option("-o", "--output", "target", cls=Option, group=RUN, metavar="OUT",
              help="Where the output would stand: its disk's free space is part of the plan.")  # fmt: skip
@jobs_option
@result_options
@combine_options
@gguf_options
@output_flags
@click.pass_obj
def plan(
    session: Session, /, base: str, adapters: tuple[str, ...], target: str | None, jobs: int | None, **options: Any
) -> None:
    """Show what a merge would do and cost, from headers, configs and a look at a few rows. Writes nothing."""
    from ingot.merge import prepare
    from ingot.plan.render import as_json, as_lines

    weighted = [parse_adapter(adapter) for adapter in adapters]
    where = Path(target) if target else None
    gguf, imatrix, llama_cpp = gguf_request(options)
    asked = make_options(**options, adapters=[name for name, _ in weighted], gguf=gguf)
    with prepare(
        parse_base(base), weighted, asked, target=where, jobs=jobs, imatrix=imatrix, llama_cpp=llama_cpp
    ) as job:
        output = session.output
        shown = replace(job.plan, interference=job.interference()) if len(weighted) > 1 else job.plan
        output.lines([*as_lines(shown, output.width), *gguf_lines(job)])
        output.essence(job.plan.digest)
        output.result(verb="plan", **as_json(shown), gguf=gguf_json(job))
