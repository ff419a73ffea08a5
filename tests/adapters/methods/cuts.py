"""Changes of a weight must not depend on how its rows are cut into tiles, and must see of it no more than they say.

check_cuts(judge, model, config)   every changed matrix of a random adapter, in one piece, in several cuts, in float64
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import peft
import torch

from ingot.adapters.terms import Needs, Term
from ingot.engine.factors import FactorReader
from ingot.merge import prepare
from tests.adapters.methods.judge import Judge
from tests.oracle.reference import on_disk

#: Rows of a tile.
HEIGHTS = (1, 3, 5)
#: Matrix products of other shapes may round otherwise.
TOLERANCE = 2e-6


@dataclass
class Weight:
    """The `Tiles` of a matrix in memory; `needs` says which calls are right, `seen` has the rows of each."""

    matrix: torch.Tensor
    needs: Needs
    others: Callable[[str], torch.Tensor]
    seen: list[tuple[int, int]] = field(default_factory=list)
    height: int = 4

    def __call__(self, begin: int = 0, end: int | None = None, /) -> Iterator[tuple[int, torch.Tensor]]:
        assert self.needs is not Needs.TILE, "a change that needs its tile alone looks at others"
        end = len(self.matrix) if end is None else end
        self.seen.append((begin, end))
        for row in range(begin, end, self.height):
            yield row, self.matrix[row : min(row + self.height, end)].clone()

    def beside(self, parameter: str, /) -> Iterator[tuple[int, int, torch.Tensor]]:
        matrix = self.others(parameter)
        for row in range(0, len(matrix), self.height):
            yield row, 0, matrix[row : row + self.height].clone()


def check_cuts(judge: Judge, model: str, config: peft.PeftConfig) -> list[Weight]:
    """Assert it for every term of the plan, its matrix the base's; returns what was seen of each weight."""
    adapter = judge.adapter(model, config, f"cuts-{config.peft_type.value}-{len(list(judge.root.iterdir()))}")
    tensors = {name: tensor.reshape(len(tensor), -1) for name, tensor in on_disk(judge.base(model)).items()}
    seen = []
    for name, term, load, load_wide in terms(judge.base(model), adapter):
        matrix = tensors[name] if tensors[name].shape == term.shape else tensors[name].reshape(term.shape)

        def other(parameter: str, module: str = name.rpartition(".")[0]) -> torch.Tensor:
            found = tensors[f"{module}.{parameter}"]
            return found.T if parameter == "bias" else found

        weight = Weight(matrix, term.needs, other)
        whole = changed(term, load, weight, len(matrix))
        for height in HEIGHTS:
            cut = changed(term, load, weight, height)
            worst = (cut - whole).abs().max() / whole.abs().max()
            assert worst <= TOLERANCE, (name, height, worst.item())
        wide = changed(term, load_wide, Weight(matrix.double(), term.needs, lambda p: other(p).double()), len(matrix))
        assert (wide - whole).abs().max() <= 1e-5 * whole.abs().max(), name
        seen.append(weight)
    assert seen
    return seen


def terms(base: Path, adapter: Path) -> Iterator[tuple[str, Term, FactorReader, FactorReader]]:
    """Each term with its tensor's name, and with readers of its factors in float32 and in float64."""
    with prepare(str(base), [(str(adapter), 1.0)]) as job:
        load, wide = (
            FactorReader(job.adapter_files, torch.device("cpu"), dtype) for dtype in (torch.float32, torch.float64)
        )
        for op in job.plan.ops:
            yield from ((op.name, placed.term, load, wide) for placed in op.terms)


def changed(term: Term, load: FactorReader, weight: Weight, height: int) -> torch.Tensor:
    """The weight after the term, `height` rows at a time."""
    apply = term.prepare(load, weight)
    result = weight.matrix.clone()
    for row in range(0, len(result), height):
        apply(result[row : row + height], row)
    return result
