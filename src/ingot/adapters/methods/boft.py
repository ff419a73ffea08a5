"""BOFT: orthogonal finetuning by a product of butterfly factors (Liu et al. 2023, arXiv:2311.06243).

    Linear  s[out] ∘ (W[out, in]         @ R^T)
    Conv2d  s[out] ∘ (W[out, in * k * k] @ R^T)

R = M_(m-1) ... M_1 M_0 and M_i = P_i block_diag(C_i) P_i^T, where C_i[n, b, b] are the Cayley transforms of the
skew-symmetric parts of boft_R[i]; boft_R is [m, n, b, b], s is boft_s. P_i[j, p_i(j)] = 1 for the permutation p_i that
cuts the columns into blocks of 2^i b, these into pieces of b / 2, and puts the pieces of even number first. With m = 1
there is no permutation. Source: PEFT's tuners/boft. PEFT itself has m > 1 on a GPU alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.fields import Fields
from ingot.adapters.forms import Rewritten, Whole
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.methods.rotation import cayley, refuse_convolution, times_blocks
from ingot.adapters.module import Module, ModuleKind
from ingot.adapters.terms import Apply, Load, Needs

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Butterfly:
    """s ∘ (W @ R^T)."""

    factor: Factor  # [m, n, b, b]
    scale: Factor  # [rows, 1]
    formula = "s∘(W@Rᵀ)"
    needs = Needs.TILE

    @property
    def shape(self) -> tuple[int, int]:
        return (self.scale.shape[0], self.factor.shape[1] * self.factor.shape[2])

    def factors(self) -> tuple[Factor, ...]:
        return (self.factor, self.scale)

    def make(self, load: Load, _whole: Whole, /) -> Apply:
        stored, scale = load(self.factor), load(self.scale)
        steps, _, size, _ = stored.shape
        skewed = 0.5 * (stored - stored.transpose(2, 3))
        blocks = [cayley(one).transpose(1, 2).contiguous() for one in skewed]
        orders = [pieces(self.shape[1], size, step).to(stored.device) for step in range(steps)] if steps > 1 else []
        inverses = [order.argsort() for order in orders]

        def apply(tile: torch.Tensor, row: int) -> None:
            rotated = tile
            for step, block in enumerate(blocks):
                turned = times_blocks(rotated[:, inverses[step]] if orders else rotated, block)
                rotated = turned[:, orders[step]] if orders else turned
            tile.copy_(rotated * scale[row : row + len(tile)])

        return apply

    def flops(self) -> int:
        steps, _, size, _ = self.factor.shape
        return self.shape[0] * self.shape[1] * (2 * size * steps + 1)


def pieces(columns: int, size: int, step: int) -> torch.Tensor:
    """p_step of blocks [size, size]: the permutation of the columns."""
    import torch

    count = 2 ** (step + 1)  # pieces of a block
    order = [*range(0, count, 2), *range(1, count, 2)]
    return torch.arange(columns).view(-1, count, size // 2)[:, order].flatten()


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    refuse_convolution(layer, "boft_R", module)
    _, rows, columns = module.view("weight")
    factor = layer.need("boft_R")
    if len(factor.shape) != 4:
        raise layer.mismatch("boft_R", module, "[factors, blocks, b, b]")
    steps, blocks, size, _ = factor.shape
    layer.check_shape("boft_R", module, steps, blocks, size, size)
    # PEFT on a CPU trains one factor whatever the config says.
    cuttable = size % 2 == 0 and blocks % 2 ** (steps - 1) == 0
    if blocks * size != columns or steps not in (1, layer.fields.integer("boft_n_butterfly_factor", 1)):
        raise layer.mismatch("boft_R", module, f"as many factors as the config says, {columns} / b blocks [b, b]")
    if steps > 1 and not cuttable:
        raise layer.mismatch("boft_R", module, f"blocks of an even size, a multiple of {2 ** (steps - 1)} of them")
    scale_shape = (1, rows) if len(module.parameters["weight"]) == 4 else (rows, 1)
    scale = layer.check_shape("boft_s", module, *scale_shape).then("reshape", rows, 1)
    return (Edit("weight", 0, Rewritten(Butterfly(factor, scale))),)


def check(fields: Fields) -> None:
    fields.integer("boft_n_butterfly_factor", 1)


METHOD = Method(
    peft_type="BOFT",
    title="BOFT",
    roles=("boft_R", "boft_s"),
    edits=edits,
    kinds=frozenset({ModuleKind.LINEAR, ModuleKind.CONV}),
    kernels=(2,),
    check=check,
)
