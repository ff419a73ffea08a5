"""LoHa: the element-wise product of two low-rank matrices (Hyeon-Woo et al. 2021, arXiv:2108.06098).

    Linear  W[out, in]           + s * (w1_a[out, r] @ w1_b[r, in]) ∘ (w2_a[out, r] @ w2_b[r, in])
    Conv    W[out, in * kernel]  the same with w1_b, w2_b[r, in * kernel]; or, with cores t1, t2[r, r, *kernel],
            w1_a, w2_a[r, out] and w1_b, w2_b[r, in]: each factor is Σ_pq t[p, q, *kernel] * a[p, out] * b[q, in]

s = alpha / r. Source: `LoHaLayer.get_delta_weight` of PEFT's tuners/loha.
"""

from __future__ import annotations

from dataclasses import dataclass

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.forms import Plus, Rows
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.module import Module, ModuleKind
from ingot.adapters.patterns import pattern_value
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


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    _, rows, columns = module.view("weight")
    rank = layer.need("hada_w1_b").shape[0]
    factors = (
        layer.check_shape("hada_w1_a", module, rows, rank),
        layer.check_shape("hada_w1_b", module, rank, columns),
        layer.check_shape("hada_w2_a", module, rows, rank),
        layer.check_shape("hada_w2_b", module, rank, columns),
    )
    fields = layer.fields
    alpha = pattern_value(layer.path, fields.mapping_of_numbers("alpha_pattern"), fields.number("alpha", 8))
    return (Edit("weight", 0, Plus(Hadamard(*factors), float(alpha) / rank)),)


METHOD = Method(
    peft_type="LOHA",
    title="LoHa",
    roles=("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    edits=edits,
    kinds=frozenset({ModuleKind.LINEAR, ModuleKind.CONV}),
)
