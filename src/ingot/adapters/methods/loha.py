"""LoHa: the element-wise product of two low-rank matrices (Hyeon-Woo et al. 2021, arXiv:2108.06098).

    Linear          W[out, in]           + s * (w1_a[out, r] @ w1_b[r, in]) ∘ (w2_a[out, r] @ w2_b[r, in])
    Conv1d, Conv2d  W[out, in * kernel]  the same with w1_b, w2_b[r, in * kernel]; or, with cores t1, t2[r, r, *kernel],
                    w1_a, w2_a[r, out] and w1_b, w2_b[r, in]: either factor is Σ_pq t[p, q, *kernel] a[p, out] b[q, in]

s = alpha / r. A Conv1d's cores have a second kernel axis of 1. In a convolution with groups `in` is that of one group.
Source: `LoHaLayer` of PEFT's tuners/loha.
"""

from __future__ import annotations

from dataclasses import dataclass

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.forms import Plus, Rows
from ingot.adapters.methods.lycoris import check_settings, config_rank, core_of, core_product, scaling
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.module import Module, ModuleKind
from ingot.adapters.terms import Load


@dataclass(frozen=True)
class Hadamard:
    """D = (a1 @ b1) ∘ (a2 @ b2)."""

    a1: Factor  # [out, r]
    b1: Factor  # [r, in]
    a2: Factor
    b2: Factor
    formula = "W + s·(w1a@w1b)∘(w2a@w2b)"

    @property
    def shape(self) -> tuple[int, int]:
        return (self.a1.shape[0], self.b1.shape[1])

    @property
    def rank(self) -> int:
        return self.b1.shape[0]

    def factors(self) -> tuple[Factor, ...]:
        return (self.a1, self.b1, self.a2, self.b2)

    def make(self, load: Load, /) -> Rows:
        a1, b1, a2, b2 = map(load, self.factors())
        return lambda begin, end: (a1[begin:end] @ b1) * (a2[begin:end] @ b2)

    def flops(self) -> int:
        rows, columns = self.shape
        return rows * columns * (4 * self.rank + 1)


@dataclass(frozen=True)
class HadamardOfCores:
    """D[out, in * kernel] = X1 ∘ X2 with X[o, i, k] = Σ_pq t[p, q, k] * a[p, o] * b[q, i]."""

    a1: Factor  # [r, out]
    b1: Factor  # [r, in]
    t1: Factor  # [r, r, *kernel]
    a2: Factor
    b2: Factor
    t2: Factor
    formula = "W + s·(t1·w1a·w1b)∘(t2·w2a·w2b)"

    @property
    def shape(self) -> tuple[int, int]:
        kernel = self.t1.ref.numel // self.rank**2
        return (self.a1.shape[1], self.b1.shape[1] * kernel)

    @property
    def rank(self) -> int:
        return self.b1.shape[0]

    @property
    def kept_nbytes(self) -> int:
        return 8 * self.rank * self.shape[1]

    def factors(self) -> tuple[Factor, ...]:
        return (self.a1, self.b1, self.t1, self.a2, self.b2, self.t2)

    def make(self, load: Load, /) -> Rows:
        a1, b1, t1, a2, b2, t2 = map(load, self.factors())
        right1, right2 = core_product(t1, b1), core_product(t2, b2)
        return lambda begin, end: (a1.T[begin:end] @ right1) * (a2.T[begin:end] @ right2)

    def flops(self) -> int:
        rows, columns = self.shape
        return columns * (rows * (4 * self.rank + 1) + 4 * self.rank**2)


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    _, rows, columns = module.view("weight")
    cored = layer.get("hada_t1") is not None or layer.get("hada_t2") is not None
    rank = layer.check_rank("hada_w1_b", layer.axis("hada_w1_b", module, 0, of=2), config_rank(layer))
    if not cored:
        factors = (
            layer.check_shape("hada_w1_a", module, rows, rank),
            layer.check_shape("hada_w1_b", module, rank, columns),
            layer.check_shape("hada_w2_a", module, rows, rank),
            layer.check_shape("hada_w2_b", module, rank, columns),
        )
        return (Edit("weight", 0, Plus(Hadamard(*factors), scaling(layer))),)
    inputs, core = core_of(layer, "hada_t1", module, rank)
    cores = (
        layer.check_shape("hada_w1_a", module, rank, rows),
        layer.check_shape("hada_w1_b", module, rank, inputs),
        layer.check_shape("hada_t1", module, *core),
        layer.check_shape("hada_w2_a", module, rank, rows),
        layer.check_shape("hada_w2_b", module, rank, inputs),
        layer.check_shape("hada_t2", module, *core),
    )
    return (Edit("weight", 0, Plus(HadamardOfCores(*cores), scaling(layer))),)


METHOD = Method(
    peft_type="LOHA",
    title="LoHa",
    roles=("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    edits=edits,
    kinds=frozenset({ModuleKind.LINEAR, ModuleKind.CONV}),
    kernels=(1, 2),
    check=check_settings,
)
