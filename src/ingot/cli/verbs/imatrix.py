"""`ingot imatrix`: which columns of the weights matter, on the user's own samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingot.cli.arguments import device_name, output_flags
from ingot.cli.framework import RESULT, RUN, Option, Verb
from ingot.errors import UsageError
from ingot.plan.figures import counted, nbytes_text

if TYPE_CHECKING:
    from ingot.cli.boundary import Session

_EXAMPLES = (
    ("ingot imatrix ./merged --samples tests.jsonl -o ./merged.imatrix.gguf", "On the samples of the task."),
    ("ingot quantize ./merged -o ./gguf --to gguf:IQ4_XS --imatrix ./merged.imatrix.gguf", "And what it is for."),
)


@click.command(
    cls=Verb,
    short_help="The importance matrix of a model, for GGUF types of few bits.",
    examples=_EXAMPLES,
    arguments_help=[("MODEL", "A merged checkpoint: a directory, or a Hub id. It is loaded whole, by transformers.")],
)
@click.argument("model", metavar="MODEL")
@click.option("--samples", cls=Option, group=RESULT, metavar="FILE", multiple=True, required=True,
              help="JSON Lines of prompt and expected answer, as for `ingot validate`; may be repeated.")  # fmt: skip
@click.option("-o", "--output", "target", cls=Option, group=RUN, metavar="FILE", required=True,
              help="The file to be made; it must not exist before.")  # fmt: skip
@click.option("--dtype", cls=Option, group=RESULT, type=click.Choice(["float32", "bfloat16", "float16"]),
              metavar="DTYPE", help="What the model computes in; default: as it is stored.")  # fmt: skip
@click.option("--device", cls=Option, group=RUN, metavar="DEVICE", default="cpu", show_default=True,
              callback=device_name, help="Where the model runs: cpu, cuda or cuda:N.")  # fmt: skip
@output_flags
@click.pass_obj
def imatrix(
    session: Session, /, model: str, samples: tuple[str, ...], target: str, dtype: str | None, device: str
) -> None:
    """Compute an importance matrix: run the samples through the model, and sum what each weight sees."""
    if not target.strip() or "\0" in target:
        raise UsageError("FILE is empty", found=repr(target))
    from ingot.cli.progress import Progress
    from ingot.imatrix import compute_imatrix
    from ingot.merge import checked_device
    from ingot.validate.answers.samples import read_samples

    total = sum(len(file.samples) for file in read_samples(samples))
    with session.stopper.watched() as stop, Progress(session.output, total, "samples", unit="samples") as progress:
        found = compute_imatrix(
            model, samples, Path(target), dtype=dtype, device=checked_device(device), stop=stop, progress=progress
        )
    output = session.output
    what = f"{counted(found.tensors, 'tensor')}, {counted(found.samples, 'sample')}, {counted(found.tokens, 'token')}"
    output.lines([f"Written    {found.path}: {what}, {nbytes_text(found.nbytes)}"])
    output.essence(str(found.path))
    output.result(
        verb="imatrix", output=str(found.path), nbytes=found.nbytes, tensors=found.tensors,
        samples=found.samples, tokens=found.tokens,
    )  # fmt: skip
