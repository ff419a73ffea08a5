"""LoKr: a Kronecker product (Edalati et al. 2022, arXiv:2212.10650; Yeh et al. 2023, arXiv:2309.14859).

    Linear   W[a * b, c * d]           + s * w1[a, c] ⊗ w2[b, d]
    Conv2d   W[a * b, c * d * kernel]  + s * w1[a, c] ⊗ w2[b, d * kernel]
    Conv1d   the same; but where w2[b, d, kernel] is stored whole, W + s * w2[b, 1, d, kernel] * w1[a, c, 1], read as
             rows (b, a) and columns (d, c, kernel): PEFT multiplies a matrix and a stack there, in training too

w1 is stored whole or as w1_a[a, r] @ w1_b[r, c]; w2 whole, as w2_a[b, r] @ w2_b[r, d * kernel], or with a core
t2[r, r, *kernel] as Σ_pq t2[p, q, *kernel] * w2_a[p, b] * w2_b[q, d]. s = alpha / r by the config, whatever is stored.
A Conv1d's core has a second kernel axis of 1. Source: `LoKrLayer` of PEFT's tuners/lokr.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.forms import Plus, Rows
from ingot.adapters.methods.lycoris import check_settings, config_rank, core_of, core_product, scaling
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.module import Module, ModuleKind
from ingot.adapters.terms import Load
from ingot.errors import AdapterError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Kronecker:
    """D[a * b, c * d] = left[a, c] ⊗ right[b, d]; of a stack right[b, d, k] rows (b, a) and columns (d, c, k).

    Attributes:
        left, right: one factor, or two to be multiplied.
        core: [r, r, *kernel], between the two of `right`: [b, r] and [r, d].
    """

    left: tuple[Factor, ...]
    right: tuple[Factor, ...]
    shape: tuple[int, int]
    core: Factor | None = None
    formula = "W + s·(w1⊗w2)"

    @property
    def rank(self) -> int | None:
        return next((pair[1].shape[0] for pair in (self.left, self.right) if len(pair) == 2), None)

    @property
    def kept_nbytes(self) -> int:
        """w1 and w2, whose elements are those of the weight between them."""
        w1 = self.left[0].shape[0] * self.left[-1].shape[1]
        return 4 * (w1 + math.prod(self.shape) // max(1, w1))

    def factors(self) -> tuple[Factor, ...]:
        return (*self.left, *self.right, *([] if self.core is None else [self.core]))

    def make(self, load: Load, /) -> Rows:
        left, right = [load(factor) for factor in self.left], [load(factor) for factor in self.right]
        if self.core is not None:
            right[1] = core_product(load(self.core), right[1])
        w1, w2 = _product(left), _product(right)
        rows = _rows if w2.ndim == 2 else _rows_of_stack
        return lambda begin, end: rows(w1, w2, begin, end)

    def flops(self) -> int:
        return self.shape[0] * self.shape[1]


def _product(factors: list[torch.Tensor]) -> torch.Tensor:
    return factors[0] if len(factors) == 1 else factors[0] @ factors[1]


def _rows(w1: torch.Tensor, w2: torch.Tensor, begin: int, end: int) -> torch.Tensor:
    import torch

    row = torch.arange(begin, end, device=w1.device)
    block = w1[row // len(w2)][:, :, None] * w2[row % len(w2)][:, None, :]  # [rows, c, d]
    return block.reshape(end - begin, -1)


def _rows_of_stack(w1: torch.Tensor, w2: torch.Tensor, begin: int, end: int) -> torch.Tensor:
    import torch

    row = torch.arange(begin, end, device=w1.device)
    block = w2[row // len(w1)][:, :, None, :] * w1[row % len(w1)][:, None, :, None]  # [rows, d, c, k]
    return block.reshape(end - begin, -1)


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    outputs, inputs = module.parameters["weight"][:2]
    left, (a, c) = _left(layer, module)
    if not a or not c or outputs % a or inputs % c:
        role = "lokr_w1" if len(left) == 1 else "lokr_w1_a"
        raise layer.mismatch(role, module, "w1[a, c] whose sides divide those of the weight")
    right, core = _right(layer, module, outputs // a, inputs // c)
    delta = Kronecker(left, right, module.view("weight")[1:], core)
    return (Edit("weight", 0, Plus(delta, scaling(layer))),)


def _left(layer: Layer, module: Module) -> tuple[tuple[Factor, ...], tuple[int, int]]:
    """The factors of w1[a, c], and (a, c)."""
    if layer.get("lokr_w1") is not None:
        _refuse_twice(layer, "lokr_w1", "lokr_w1_a", "lokr_w1_b")
        shape = layer.axis("lokr_w1", module, 0, of=2), layer.axis("lokr_w1", module, 1, of=2)
        return (layer.need("lokr_w1"),), shape
    rank = config_rank(layer)
    shape = layer.axis("lokr_w1_a", module, 0, of=2), layer.axis("lokr_w1_b", module, 1, of=2)
    w1_a = layer.check_shape("lokr_w1_a", module, shape[0], rank)
    return (w1_a, layer.check_shape("lokr_w1_b", module, rank, shape[1])), shape


def _right(layer: Layer, module: Module, b: int, d: int) -> tuple[tuple[Factor, ...], Factor | None]:
    """The factors of w2[b, d, *kernel], and its core."""
    kernel = module.parameters["weight"][2:]
    if layer.get("lokr_w2") is not None:
        _refuse_twice(layer, "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
        whole = layer.check_shape("lokr_w2", module, b, d, *kernel)
        return (whole if len(kernel) == 1 else whole.then("reshape", b, d * math.prod(kernel)),), None
    rank = config_rank(layer)
    if layer.get("lokr_t2") is not None:
        w2_a, w2_b = layer.check_shape("lokr_w2_a", module, rank, b), layer.check_shape("lokr_w2_b", module, rank, d)
        _, core = core_of(layer, "lokr_t2", module, rank)
        return (w2_a.T, w2_b), layer.check_shape("lokr_t2", module, *core)
    w2_a = layer.check_shape("lokr_w2_a", module, b, rank)
    return (w2_a, layer.check_shape("lokr_w2_b", module, rank, d * math.prod(kernel))), None


def _refuse_twice(layer: Layer, whole: str, *parts: str) -> None:
    """Raise AdapterError where a matrix is stored whole and in parts."""
    for role in parts:
        if layer.get(role) is not None:
            found = f"`{layer.need(whole).ref.name}` and `{layer.need(role).ref.name}`"
            raise AdapterError("two tensors mean the same", where=layer.path, found=found)


METHOD = Method(
    peft_type="LOKR",
    title="LoKr",
    roles=("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    edits=edits,
    kinds=frozenset({ModuleKind.LINEAR, ModuleKind.CONV}),
    kernels=(1, 2),
    check=check_settings,
)
