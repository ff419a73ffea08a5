"""LyCORIS' DoRA: V = W + s·D with another length, along its outputs or along its inputs.

    V[o, :] · m[o] / (‖V[o, :]‖ + ε)             dora_scale [out, 1, …]    along the outputs, as PEFT's
    V[:, i, :] · m[i] / (‖V[:, i, :]‖ + ε)       dora_scale [1, in, 1, …]  along the inputs, over all outputs and the
                                                                           kernel; LyCORIS up to 3.0, or wd_on_out=False

ε is the machine epsilon of float32. Source: lycoris-lora 4.1.3, functional/general.py `_weight_decompose`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.adapters.factor import Factor
from ingot.adapters.forms import Plus, Whole
from ingot.adapters.terms import Apply, Load, LowRank, Needs

if TYPE_CHECKING:
    import torch

EPSILON = 2.0**-23


@dataclass(frozen=True)
class Decomposed:
    """The rewrite of W[out, in·kernel].

    Attributes:
        update: W -> V.
        magnitude: m, as a vector.
        kernel: elements of the kernel where m runs along the inputs; None where it runs along the outputs.
    """

    update: LowRank | Plus
    magnitude: Factor
    kernel: int | None = None
    formula = "m/(‖V‖+ε)·V, V = W + s·D"

    @property
    def rank(self) -> int | None:
        return self.update.rank

    @property
    def shape(self) -> tuple[int, int]:
        return self.update.shape

    @property
    def needs(self) -> Needs:
        return Needs.TILE if self.kernel is None else Needs.TILES

    def factors(self) -> tuple[Factor, ...]:
        return (*self.update.factors(), self.magnitude)

    def make(self, load: Load, whole: Whole, /) -> Apply:
        import torch

        add = self.update.prepare(load, whole.tiles)
        magnitude = load(self.magnitude)
        if self.kernel is None:

            def along_outputs(tile: torch.Tensor, row: int) -> None:
                add(tile, row)
                norm = torch.linalg.vector_norm(tile, dim=1) + EPSILON
                tile.mul_((magnitude[row : row + len(tile)] / norm).unsqueeze(1))

            return along_outputs

        squares = torch.zeros(len(magnitude), dtype=torch.float64, device=magnitude.device)
        for row, tile in whole.tiles():
            add(tile, row)
            squares += tile.double().square_().sum(dim=0).reshape(-1, self.kernel).sum(dim=1)
        lengths = (magnitude / (squares.sqrt_() + EPSILON)).to(magnitude.dtype).repeat_interleave(self.kernel)

        def along_inputs(tile: torch.Tensor, row: int) -> None:
            add(tile, row)
            tile.mul_(lengths)

        return along_inputs

    def flops(self) -> int:
        rows, columns = self.shape
        return self.update.flops() + 3 * rows * columns
