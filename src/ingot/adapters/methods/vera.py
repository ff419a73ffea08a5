"""VeRA: two random matrices that all layers share, scaled by two trained vectors (Kopiczko et al. 2023,
arXiv:2310.11454).

    W[out, in] + (λ_b[out] * B[out, r]) @ (λ_d[r] * A[r, in])        B = vera_B[:out], A = vera_A[:, :in]

There is no scaling. With `save_projection` false, A and B are drawn from `projection_prng_key`. Source:
`get_delta_weight` of PEFT's tuners/vera/layer.py, `_init_vera_A_vera_B` of its model.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.fields import Fields
from ingot.adapters.methods.drawn import Drawn, bare
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.methods.products import Product
from ingot.adapters.methods.projections import Projections, Seeded, Stored
from ingot.adapters.methods.weights import Weight, largest, refuse_unsaved, shared
from ingot.adapters.module import Module, ModuleKind
from ingot.adapters.terms import Load

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ScaledProjections(Product):
    """(λ_b * B) @ (λ_d * A), of which a layer takes the front."""

    b: Factor  # λ_b[out]
    d: Factor  # λ_d[rank]
    projections: Projections
    formula = "W + (λ_b∘B)@(λ_d∘A)"

    @property
    def drawn_nbytes(self) -> int:
        return self.projections.drawn_nbytes

    def factors(self) -> tuple[Factor, ...]:
        return (self.b, self.d, *self.projections.factors())

    def matrices(self, load: Load, /) -> tuple[torch.Tensor, torch.Tensor]:
        b, d = load(self.b), load(self.d)
        A, B = self.projections.read(load, b)
        rows, columns = self.shape
        return b[:, None] * B[:rows], d[:, None] * A[: self.rank, :columns]


class VeraSeed(Seeded):
    """A[r, inputs] and B[outputs, r]."""

    def draw(self) -> Drawn:
        from peft.tuners.vera.model import VeraModel

        model = bare(VeraModel, _find_dim=lambda _: (self.outputs, self.inputs))
        config = SimpleNamespace(r=self.rank, projection_prng_key=self.seed, save_projection=False)
        model._init_vera_A_vera_B(config, "default")
        return model.vera_A["default"], model.vera_B["default"]


def check(fields: Fields) -> None:
    """Read what a merge asks of VeRA's and PVeRA's settings. Raises AdapterError for a wrong type."""
    fields.integer("r", 256)
    fields.boolean("fan_in_fan_out")
    if not fields.boolean("save_projection", True):
        fields.seed("projection_prng_key", 0)


def projected(layer: Layer, module: Module, prefix: str, seeded: type[Seeded], halves: int = 1) -> tuple[Edit, ...]:
    """The edit of a layer whose tensors' names begin with `prefix`; λ_d and A are `halves` times r long."""
    weight = Weight.of(layer, module)
    rank = layer.fields.integer("r", 256)
    b = layer.check_shape(f"{prefix}_lambda_b", module, weight.outputs)
    d = layer.check_shape(f"{prefix}_lambda_d", module, halves * rank)
    projections: Projections
    if layer.fields.boolean("save_projection", True):
        outputs, inputs = largest(layer.modules.values())
        A = shared(layer, f"{prefix}_A", halves * rank, inputs).columns(0, weight.inputs)
        B = shared(layer, f"{prefix}_B", outputs, rank).rows(0, weight.outputs)
        projections = Stored(A, B)
    else:
        refuse_unsaved("save_projection", layer.shared.values())
        projections = seeded.of(layer, rank)
    return weight.plus(ScaledProjections(weight.shape, rank, b, d.then("narrow", 0, 0, rank), projections))


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    return projected(layer, module, "vera", VeraSeed)


METHOD = Method(
    peft_type="VERA",
    title="VeRA",
    roles=("vera_lambda_b", "vera_lambda_d"),
    edits=edits,
    shared=("vera_A", "vera_B"),
    kinds=frozenset({ModuleKind.LINEAR, ModuleKind.CONV1D}),
    check=check,
)
