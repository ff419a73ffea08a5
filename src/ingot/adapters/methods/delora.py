"""DeLoRA: low rank with the strength apart from the direction (Bini et al. 2025, arXiv:2503.18225).

    Linear  W[out, in] + B[out, r] diag(λ / (r ‖A_i‖ ‖B_i‖)) A[r, in] diag(w)

A_i is row i of delora_A, B_i column i of delora_B, both norms at least 1e-4; λ is delora_lambda[1], and w[in] is
delora_w_norm, the norms of the base's columns as they were in training. Source: `_compute_delta` of PEFT's
tuners/delora.
"""

from __future__ import annotations

from dataclasses import dataclass

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.fields import Fields
from ingot.adapters.forms import Plus, Rows
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.module import Module
from ingot.adapters.patterns import pattern_value
from ingot.adapters.terms import Load

SHORTEST = 1e-4


@dataclass(frozen=True)
class Normalized:
    """D = B diag(λ / (r ‖A_i‖ ‖B_i‖)) A diag(w)."""

    a: Factor  # [r, in]
    b: Factor  # [out, r]
    strength: Factor  # [1]
    norms: Factor  # [in]
    formula = "W + B@diag(λ/r‖a‖‖b‖)@A∘w"

    @property
    def shape(self) -> tuple[int, int]:
        return (self.b.shape[0], self.a.shape[1])

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def factors(self) -> tuple[Factor, ...]:
        return (self.a, self.b, self.strength, self.norms)

    def make(self, load: Load, /) -> Rows:
        a, b, strength, norms = map(load, self.factors())
        lengths = a.norm(dim=1).clamp(min=SHORTEST) * b.norm(dim=0).clamp(min=SHORTEST)
        left, right = b * (strength / self.rank / lengths), a * norms
        return lambda begin, end: left[begin:end] @ right

    def flops(self) -> int:
        rows, columns = self.shape
        return 2 * rows * columns * self.rank


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    _, rows, columns = module.view("weight")
    fields = layer.fields
    rank = pattern_value(layer.path, fields.mapping_of_integers("rank_pattern"), fields.integer("r", 8))
    delta = Normalized(
        layer.check_shape("delora_A", module, rank, columns),
        layer.check_shape("delora_B", module, rows, rank),
        layer.check_shape("delora_lambda", module, 1),
        layer.check_shape("delora_w_norm", module, columns),
    )
    return (Edit("weight", 0, Plus(delta)),)


def check(fields: Fields) -> None:
    fields.integer("r", 8)
    fields.mapping_of_integers("rank_pattern")


METHOD = Method(
    peft_type="DELORA",
    title="DeLoRA",
    roles=("delora_A", "delora_B", "delora_lambda", "delora_w_norm"),
    edits=edits,
    check=check,
)
