"""LyCORIS' (IA)³: W with its outputs, or its inputs, stretched.

    W[out, in·k] · (1 + w[out])      or      W[out, in, k] · (1 + w[in])

PEFT's (IA)³ stores the factor itself; LyCORIS stores what is added to 1, and leaves the bias as it is. Source: Liu et
al. 2022, arXiv:2205.05638; lycoris-lora 4.1.3, modules/ia3.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.adapters.factor import Factor
from ingot.adapters.forms import Whole
from ingot.adapters.terms import Apply, Load, Needs

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Scaled:
    """The rewrite of W[out, in·kernel]; `kernel` is None where `values` are one for each output."""

    shape: tuple[int, int]
    values: Factor
    kernel: int | None = None
    needs = Needs.TILE
    formula = "W∘(1 + w)"

    def factors(self) -> tuple[Factor, ...]:
        return (self.values,)

    def make(self, load: Load, _whole: Whole, /) -> Apply:
        stretch = load(self.values) + 1
        columns = None if self.kernel is None else stretch.repeat_interleave(self.kernel)

        def apply(tile: torch.Tensor, row: int) -> None:
            tile.mul_(stretch[row : row + len(tile)].unsqueeze(1) if columns is None else columns)

        return apply

    def flops(self) -> int:
        rows, columns = self.shape
        return rows * columns
