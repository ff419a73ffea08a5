"""`ingot extract`: out of a merged model again, a PEFT adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingot.checkpoint.named import named
from ingot.cli.arguments import DTYPES, output_flags, parse_base
from ingot.cli.framework import RESULT, RUN, Option, Verb
from ingot.errors import UsageError

if TYPE_CHECKING:
    from ingot.cli.boundary import Session
    from ingot.extract.result import Extraction

_EXAMPLES = (
    ("ingot extract ./llama-3.1-8b ./llama-3.1-8b-support -o ./support-lora --rank 16",
     "The difference of the two as a LoRA of rank 16."),
    ("ingot extract ./base ./tuned -o ./lora --energy 0.95 --max-rank 128",
     "Of each module the smallest rank that holds 95 %."),
    ("ingot extract ./base ./tuned -o ./lora --rank 32 --save-module embed_tokens --save-module lm_head",
     "Two modules whole, the others as factors."),
)  # fmt: skip
_ARGUMENTS = (
    ("BASE", "The model that the other one was trained from: a directory, or a Hub id such as org/name@revision."),
    ("TUNED", "The merged or fully trained model: a directory or a Hub id."),
)


@click.command(
    cls=Verb,
    short_help="Out of a merged model again: the difference as a PEFT adapter.",
    examples=_EXAMPLES,
    arguments_help=_ARGUMENTS,
)
@click.argument("base", metavar="BASE")
@click.argument("tuned", metavar="TUNED")
@click.option("-o", "--output", "target", cls=Option, group=RUN, metavar="ADAPTER", required=True,
              help="The directory to be made. It appears when it is whole; it must not exist before.")  # fmt: skip
@click.option("--rank", cls=Option, group=RESULT, type=click.IntRange(1), metavar="R",
              help="The same rank for every module.")  # fmt: skip
@click.option("--energy", cls=Option, group=RESULT, type=float, metavar="SHARE",
              help="Or for each module the smallest rank that holds this share of its difference [0.99].")  # fmt: skip
@click.option("--max-rank", cls=Option, group=RESULT, type=click.IntRange(1), metavar="R",
              help="The largest rank that --energy may lead to [256].")  # fmt: skip
@click.option("--save-module", "save", cls=Option, group=RESULT, multiple=True, metavar="NAME",
              help="Store modules whose path ends so whole, where they differ; once for each name.")  # fmt: skip
@click.option("--dtype", cls=Option, group=RESULT, type=click.Choice(list(DTYPES)), default="float32",
              show_default=True, metavar="DTYPE", help="Of the factors. Whole tensors keep TUNED's.")  # fmt: skip
@output_flags
@click.pass_obj
def extract(
    session: Session,
    /,
    base: str,
    tuned: str,
    target: str,
    rank: int | None,
    energy: float | None,
    max_rank: int | None,
    save: tuple[str, ...],
    dtype: str,
) -> None:
    """Decompose TUNED - BASE into an adapter that PEFT loads and `ingot merge` merges back; say how much it holds."""
    from ingot.cli.progress import bars
    from ingot.extract.model import Budget, Request
    from ingot.extract.run import extract as run

    if not target.strip() or "\0" in target:
        raise UsageError("ADAPTER is empty", found=repr(target))
    budget = Budget.of(rank, energy, max_rank)
    request = Request(parse_base(base), named(tuned, "TUNED"), Path(target), budget, DTYPES[dtype], save)
    with session.stopper.watched() as stop:
        found = run(request, bars(session.output), stop=stop)
    _show(session, found)


def _show(session: Session, found: Extraction) -> None:
    from ingot.extract.record import as_json
    from ingot.extract.render import as_lines, next_lines

    output = session.output
    output.lines(as_lines(found, output.width))
    for warning in found.warnings:
        output.warn(warning)
    output.say()
    for line in next_lines(found):
        output.say(line)
    output.essence(found.identity)
    output.result(
        verb="extract", output=str(found.target), identity=found.identity, files=list(found.files),
        nbytes=found.adapter_nbytes, model_nbytes=found.model_nbytes, seconds=found.seconds,
        parameters=found.parameters, equal=found.equal, dtype=found.dtype, notes=list(found.notes),
        factors=[as_json(group) for group in found.fit_groups], whole=[vars(group) for group in found.whole_groups],
        modules=[
            {"name": fit.name, "rank": fit.rank, "energy": fit.energy, "left": (fit.left / fit.total) ** 0.5}
            for fit in found.fits
        ],
    )  # fmt: skip
