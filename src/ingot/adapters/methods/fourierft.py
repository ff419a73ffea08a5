"""FourierFT: a few coefficients of the update's 2-D Fourier transform (Gao et al. 2024, arXiv:2405.03003).

    W[out, in] + scaling * Re(ifft2(S[out, in]))

S is zero but for `fourierft_spectrum[n]`, at n elements that `random_loc_seed` draws. Source: `get_delta_weight` and
`update_layer` of PEFT's tuners/fourierft/layer.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.fields import Fields
from ingot.adapters.forms import Rows
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.methods.positions import Positions
from ingot.adapters.methods.weights import Weight
from ingot.adapters.module import Module, ModuleKind
from ingot.adapters.patterns import dotted_value
from ingot.adapters.terms import Load

if TYPE_CHECKING:
    import torch


class FourierPositions(Positions):
    """As a layer of PEFT's draws them."""

    def draw(self) -> torch.Tensor:
        from peft import FourierFTConfig
        from peft.tuners.fourierft.layer import FourierFTLinear
        from torch import nn

        base = nn.Linear(self.inputs, self.outputs, bias=False, device="meta")
        layer = FourierFTLinear(base, "default", FourierFTConfig(random_loc_seed=self.seed), self.count)
        drawn: torch.Tensor = layer.indices["default"]
        return drawn


@dataclass(frozen=True)
class Spectrum:
    """Re(ifft2(S)), row by row of the result: the rows of S that hold anything, transformed along their length, then
    summed with the phases of the row."""

    values: Factor  # [n]
    positions: Positions
    formula = "W + s·Re(ifft2(S))"

    @property
    def shape(self) -> tuple[int, int]:
        return (self.positions.outputs, self.positions.inputs)

    @property
    def kept_nbytes(self) -> int:
        """Of real and imaginary parts of the rows of S."""
        return 8 * min(self.positions.count, self.shape[0]) * self.shape[1]

    @property
    def drawn_nbytes(self) -> int:
        return self.positions.drawn_nbytes

    def factors(self) -> tuple[Factor, ...]:
        return (self.values,)

    def make(self, load: Load, /) -> Rows:
        import torch

        values = load(self.values)
        rows, columns = self.positions.read(load, values)
        height, width = self.shape
        used, at = torch.unique(rows, return_inverse=True)
        spectrum = values.new_zeros(len(used), width)
        spectrum[at, columns] = values
        partial = torch.fft.ifft(spectrum, dim=1)
        real, imaginary = partial.real.contiguous(), partial.imag.contiguous()

        def block(begin: int, end: int) -> torch.Tensor:
            turns = torch.arange(begin, end, device=used.device)[:, None] * used % height
            angles = turns.to(torch.float64) * (2 * math.pi / height)
            summed: torch.Tensor = angles.cos().to(real) @ real - angles.sin().to(real) @ imaginary
            return summed / height

        return block

    def flops(self) -> int:
        height, width = self.shape
        return 4 * height * width * min(self.positions.count, height)


def check(fields: Fields) -> None:
    fields.integer("n_frequency", 1000)
    fields.mapping_of_integers("n_frequency_pattern")
    fields.real("scaling", 150.0)
    fields.seed("random_loc_seed", 777)


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    weight, fields = Weight.of(layer, module, placed=False), layer.fields
    pattern = fields.mapping_of_integers("n_frequency_pattern")
    count = dotted_value(layer.path, pattern, fields.integer("n_frequency", 1000))
    spectrum = layer.check_shape("fourierft_spectrum", module, count)
    positions = FourierPositions.of(layer, weight, count)
    return weight.plus(Spectrum(spectrum, positions), fields.real("scaling", 150.0))


METHOD = Method(
    peft_type="FOURIERFT",
    title="FourierFT",
    roles=("fourierft_spectrum",),
    edits=edits,
    kinds=frozenset({ModuleKind.LINEAR, ModuleKind.CONV1D}),
    check=check,
)
