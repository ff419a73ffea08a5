"""WaveFT: a few coefficients of the update's 2-D wavelet transform (arXiv:2505.12532).

    W[out, in] + scaling * idwt2(S[out', in'])        or, with `use_idwt` false, + scaling * S[out, in]

S is zero but for `waveft_spectrum[n]`, at n elements that `random_loc_seed` draws; for the transform it is centred in a
matrix that is larger by what the wavelet's filters of length L take off, made even. Its quarters are the coefficients
of one level:

    S = | A  H |        idwt2(S) = lo(A lo' + V hi') + hi(H lo' + D hi')
        | V  D |

where lo and hi are the banded matrices of a filter f, [x, k] = f[x + L - 2 - 2k], over rows, and lo', hi' their
transposes over columns. Source: `get_delta_weight` and `update_layer` of PEFT's tuners/waveft/layer.py, `waverec2d` of
its waverec2d.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.fields import Fields
from ingot.adapters.forms import Delta, Rows
from ingot.adapters.methods.drawn import Drawn, once
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.methods.positions import Positions
from ingot.adapters.methods.products import scattered
from ingot.adapters.methods.weights import Weight
from ingot.adapters.module import Module, ModuleKind
from ingot.adapters.patterns import pattern_value
from ingot.adapters.terms import Load

if TYPE_CHECKING:
    import torch

#: Those of PEFT's `wavelet_family` with which its layers can run: for the others it has no filters, and those of its
#: coif5 are longer than it says.
WAVELETS = (
    *(f"db{order}" for order in range(1, 11)), *(f"sym{order}" for order in range(2, 11)),
    *(f"coif{order}" for order in range(1, 5)),
)  # fmt: skip


class WavePositions(Positions):
    """As a layer of PEFT's draws them."""

    def draw(self) -> torch.Tensor:
        from peft import WaveFTConfig
        from peft.tuners.waveft.layer import WaveFTLinear
        from torch import nn

        base = nn.Linear(self.inputs, self.outputs, bias=False, device="meta")
        layer = WaveFTLinear(base, "default", WaveFTConfig(random_loc_seed=self.seed), self.count)
        drawn: torch.Tensor = layer.waveft_indices["default"]
        return drawn


@dataclass(frozen=True)
class Coefficients:
    """S itself."""

    values: Factor  # [n]
    positions: Positions
    formula = "W + s·S"

    @property
    def shape(self) -> tuple[int, int]:
        return (self.positions.outputs, self.positions.inputs)

    @property
    def kept_nbytes(self) -> int:
        return 20 * self.positions.count

    @property
    def drawn_nbytes(self) -> int:
        return self.positions.drawn_nbytes

    def factors(self) -> tuple[Factor, ...]:
        return (self.values,)

    def make(self, load: Load, /) -> Rows:
        values = load(self.values)
        return scattered(values, *self.positions.read(load, values), self.shape[1])

    def flops(self) -> int:
        return self.positions.count


@dataclass(frozen=True)
class Wavelets(Coefficients):
    """idwt2(S), row by row of the result: a row follows from the few rows of coefficients that its filters meet."""

    family: str
    formula = "W + s·idwt2(S)"

    def make(self, load: Load, /) -> Rows:
        import torch
        from torch.nn.functional import conv_transpose1d

        values = load(self.values)
        filters = once(load, ("wavelet", self.family), self._filters)[0].to(values)
        size = filters.shape[1]
        padded = [extent + size - 2 + extent % 2 for extent in self.shape]
        down, across = ((larger - extent) // 2 for larger, extent in zip(padded, self.shape, strict=True))
        rows, columns = self.positions.read(load, values)
        coefficients = scattered(values, rows + down, columns + across, padded[1])
        half, middle = padded[0] // 2, padded[1] // 2

        def over_columns(pair: torch.Tensor) -> torch.Tensor:
            whole = conv_transpose1d(pair, filters[:, None], stride=2)[:, 0]
            return whole[:, size - 2 : size - 2 + self.shape[1]]

        def block(begin: int, end: int) -> torch.Tensor:
            first, last = begin // 2, min((end + size - 1) // 2, half)
            pairs = torch.stack([coefficients(first, last), coefficients(half + first, half + last)], dim=1)
            numbers = torch.arange(first, last, device=values.device)
            taps = torch.arange(begin, end, device=values.device)[:, None] + size - 2 - 2 * numbers
            lo, hi = filters[:, taps.clamp(0, size - 1)] * ((taps >= 0) & (taps < size))
            dense: torch.Tensor = lo @ over_columns(pairs[:, :, :middle]) + hi @ over_columns(pairs[:, :, middle:])
            return dense

        return block

    def _filters(self) -> Drawn:
        """lo and hi as one [2, L]."""
        import torch
        from peft.tuners.waveft.wavelet import Wavelet

        wavelet = Wavelet(self.family)
        return (torch.tensor([wavelet.rec_lo, wavelet.rec_hi], dtype=torch.float64),)

    def flops(self) -> int:
        return 8 * self.shape[0] * self.shape[1] * int(self.family.lstrip("abcdefghijklmnopqrstuvwxyz"))


def check(fields: Fields) -> None:
    fields.integer("n_frequency", 2592)
    fields.mapping_of_integers("n_frequency_pattern")
    fields.boolean("proportional_parameters")
    fields.real("scaling", 25.0)
    fields.seed("random_loc_seed", 777)
    if fields.boolean("use_idwt", True):
        fields.choice("wavelet_family", WAVELETS)


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    weight, fields = Weight.of(layer, module, placed=False), layer.fields
    spectrum = layer.check_shape("waveft_spectrum", module, _count(layer, module))
    positions = WavePositions.of(layer, weight, spectrum.shape[0])
    delta: Delta = Coefficients(spectrum, positions)
    if fields.boolean("use_idwt", True):
        delta = Wavelets(spectrum, positions, fields.choice("wavelet_family", WAVELETS))
    return weight.plus(delta, fields.real("scaling", 25.0))


def _count(layer: Layer, module: Module) -> int:
    """How many coefficients the layer has; with `proportional_parameters`, its share by size of all layers' budget."""
    fields = layer.fields
    count = fields.integer("n_frequency", 2592)
    if not fields.boolean("proportional_parameters"):
        found: int = pattern_value(layer.path, fields.mapping_of_integers("n_frequency_pattern"), count)
        return found
    sizes = [math.prod(other.parameters["weight"]) for other in layer.modules.values() if "weight" in other.parameters]
    share = math.prod(module.parameters["weight"]) / sum(sizes)
    return max(1, round(share * (count * len(sizes))))


METHOD = Method(
    peft_type="WAVEFT",
    title="WaveFT",
    roles=("waveft_spectrum",),
    edits=edits,
    kinds=frozenset({ModuleKind.LINEAR, ModuleKind.CONV1D}),
    check=check,
)
