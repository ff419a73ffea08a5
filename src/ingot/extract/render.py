"""An extraction as people read it: what was written, and how well it holds the difference, in groups."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator

from ingot.extract.model import DTYPE_WORDS
from ingot.extract.result import Extraction, FitGroup
from ingot.plan.figures import LABEL_WIDTH, counted, labelled, nbytes_text, seconds_text, table


def as_lines(found: Extraction, width: int) -> list[str]:
    """The table of groups between what was written and what was left out."""
    lines = [
        _line("Written", f"{found.target}: {counted(len(found.files), 'file')}, {nbytes_text(found.adapter_nbytes)}, "
                         f"{found.adapter_nbytes / found.model_nbytes:.1%} of the model's "
                         f"{nbytes_text(found.model_nbytes)}, in {seconds_text(found.seconds)}"),
        _line("Unchanged", f"{found.equal:,} of {counted(found.parameters, 'parameter')} are the same in both"),
    ]  # fmt: skip
    if found.fits:
        lines += [
            _line("Factors", f"{counted(len(found.fits), 'module')}, {_ranks(found)}, {DTYPE_WORDS[found.dtype]}"),
            "",
        ]
        lines += table([_HEAD, *(_row(group) for group in found.fit_groups)], width, align="<>>>>>>>")
        lines += [""]
    if found.whole:
        size = nbytes_text(sum(one.nbytes for one in found.whole))
        lines += [_line("Whole", f"{counted(len(found.whole), 'module')}, {size}, as TUNED stores them"), ""]
        rows = [(group.pattern, f"{group.count:,}", nbytes_text(group.nbytes), group.reason)
                for group in found.whole_groups]  # fmt: skip
        lines += [*table([("modules", "count", "bytes", "why"), *rows], width, align="<>><"), ""]
    for note in found.notes:
        lines += labelled("Note", [note], width)
    lines += [_line("Identity", found.identity)]
    return lines


#: `left` is rms(Δ - B A) / rms(Δ), measured; `rounding` is about the share that TUNED's own rounding made.
_HEAD = ("modules", "count", "rank", "energy", "lowest", "rounding", "left", "bytes")


def _row(group: FitGroup) -> tuple[str, ...]:
    low, high = group.ranks
    return (
        group.pattern, f"{len(group.fits):,}", f"{low}" if low == high else f"{low}-{high}", share(group.energy),
        share(group.worst.energy), f"{group.rounding:.1e}" if group.rounding else "0", f"{group.left:.1e}",
        nbytes_text(group.nbytes),
    )  # fmt: skip


def share(value: float) -> str:
    """In percent, with two digits of what is missing. Example: share(0.99996) -> "99.9960 %" """
    missing = 100 * (1 - value)
    if missing < 1e-6:
        return "100 %"
    return f"{100 * value:.{max(1, math.ceil(-math.log10(missing)) + 1)}f} %"


def _ranks(found: Extraction) -> str:
    budget = found.budget
    if budget.energy is None:
        return f"rank {budget.rank}"
    ranks = [fit.rank for fit in found.fits]
    return f"the smallest ranks that hold {budget.energy:g}, {min(ranks)} to {max(ranks)}"


def next_lines(found: Extraction) -> Iterator[str]:
    """The commands that a person types now."""
    name = str(found.target)
    yield _line("Merge", f"ingot merge BASE {shlex.quote(name)} -o OUT")
    yield _line("Load", f"peft.PeftModel.from_pretrained(base_model, {name!r})")


def _line(label: str, text: str) -> str:
    return f"{label:<{LABEL_WIDTH}}{text}"
