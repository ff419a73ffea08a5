"""C3A: an update of circulant blocks (Chen et al. 2024, arXiv:2407.19342).

    W[out, in] + D,  D[i * b + p, j * b + q] = c3a_kernel[i, j, (q - p) mod b] / in

with the kernel [out/b, in/b, b] of a block size b. There is no scaling. Source: `get_delta_weight` of PEFT's
tuners/c3a/layer.py and `get_circulant_fast` of its utils.py, which goes the way of the Fourier transform.
"""

from __future__ import annotations

from dataclasses import dataclass

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.fields import Fields
from ingot.adapters.forms import Rows
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.methods.weights import Weight
from ingot.adapters.module import Module
from ingot.adapters.patterns import dotted_value
from ingot.adapters.terms import Load
from ingot.errors import AdapterError


@dataclass(frozen=True)
class Circulant:
    """D of a kernel[out/b, in/b, b]."""

    kernel: Factor
    formula = "W + circ(c)/in"

    @property
    def shape(self) -> tuple[int, int]:
        down, across, block = self.kernel.shape
        return (down * block, across * block)

    def factors(self) -> tuple[Factor, ...]:
        return (self.kernel,)

    def make(self, load: Load, /) -> Rows:
        import torch

        kernel = load(self.kernel) / self.shape[1]
        _, across, block = kernel.shape
        along = torch.arange(block, device=kernel.device)

        def rows(begin: int, end: int) -> torch.Tensor:
            at = torch.arange(begin, end, device=kernel.device)
            turned = (along - at[:, None] % block) % block
            return kernel[at // block].gather(2, turned[:, None].expand(-1, across, -1)).flatten(start_dim=1)

        return rows

    def flops(self) -> int:
        rows, columns = self.shape
        return rows * columns


def check(fields: Fields) -> None:
    fields.integer("block_size", 256)
    fields.mapping_of_integers("block_size_pattern")


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    weight, fields = Weight.of(layer, module), layer.fields
    pattern = fields.mapping_of_integers("block_size_pattern")
    block = dotted_value(layer.path, pattern, fields.integer("block_size", 256))
    if weight.outputs % block or weight.inputs % block:
        raise AdapterError(
            "`block_size` does not divide a weight into blocks", where=f"`{layer.path}`",
            expected=f"a divisor of {weight.outputs} and {weight.inputs}", found=block,
        )  # fmt: skip
    kernel = layer.check_shape("c3a_kernel", module, weight.outputs // block, weight.inputs // block, block)
    return weight.plus(Circulant(kernel))


METHOD = Method(peft_type="C3A", title="C3A", roles=("c3a_kernel",), edits=edits, check=check)
