"""RandLoRA: a sum of random low-rank bases with trained scales, of full rank (Albert et al. 2025, arXiv:2502.00987).

    W[out, in] + s * (B @ A),  s = randlora_alpha / r

With m the smaller of out and in, M the larger, n = ceil(m / r) bases, and what all layers share, A0[r, 1, >= m] and
B0[>= M, >= n, r]:

    A[r * n, m] = λ[r, n, 1] * A0[:, :, :m] * γ[1, n, m]
    B[M, n * r] = B0[:M, :n]

and both are transposed and change places where out < in. (PEFT pairs the columns of B, basis by basis, with the rows of
A, row by row: so does this.) With `save_projection` false, A0 and B0 are drawn from `projection_prng_key`, as `sparse`
and `very_sparse` say. Source: `get_scaled_bases` of PEFT's tuners/randlora/layer.py, `_pre_injection_hook` of its
model.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.fields import Fields
from ingot.adapters.methods.drawn import PEFT_NBYTES, Drawn, bare
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.methods.products import Product
from ingot.adapters.methods.projections import Projections, Seeded, Stored
from ingot.adapters.methods.weights import Weight, largest, refuse_unsaved, shared
from ingot.adapters.module import Module, ModuleKind
from ingot.adapters.terms import Load

if TYPE_CHECKING:
    import torch

COPY = "a layer's copy of the bases that all layers share: PEFT loads the shared ones over it"


@dataclass(frozen=True)
class ScaledBases(Product):
    """B @ A of the shared bases; `rank` is r * n."""

    scales: Factor  # λ[r, n]
    columns: Factor  # γ[n, m]
    projections: Projections
    formula = "W + s·Σ Bⱼ@(λⱼ∘A∘γⱼ)"

    @property
    def drawn_nbytes(self) -> int:
        return self.projections.drawn_nbytes

    def factors(self) -> tuple[Factor, ...]:
        return (self.scales, self.columns, *self.projections.factors())

    def matrices(self, load: Load, /) -> tuple[torch.Tensor, torch.Tensor]:
        scales, columns = load(self.scales), load(self.columns)
        A0, B0 = self.projections.read(load, scales)
        bases, narrow = columns.shape
        A = (scales[:, :, None] * A0[:, :, :narrow] * columns).flatten(end_dim=1)
        B = B0[: max(self.shape), :bases].flatten(start_dim=1)
        return (B, A) if narrow == self.shape[1] else (A.T, B.T)


@dataclass(frozen=True)
class RandLoraSeed(Seeded):
    """A0[r, 1, m] and B0[M, n, r] of the largest layer."""

    sparse: bool
    very_sparse: bool

    @property
    def drawn_nbytes(self) -> int:
        """Of B0, of its parts before they are joined, of its rounded form, and of a second worker's scaled one."""
        return PEFT_NBYTES + 20 * self.inputs * self.outputs

    def draw(self) -> Drawn:
        from peft.tuners.randlora.model import RandLoraModel

        model = bare(RandLoraModel, _find_dim=lambda _: (self.outputs, self.inputs))
        config = SimpleNamespace(
            r=self.rank, projection_prng_key=self.seed, save_projection=False, sparse=self.sparse,
            very_sparse=self.very_sparse,
        )  # fmt: skip
        model._pre_injection_hook(model, config, "default")
        return model.randlora_A["default"], model.randlora_B["default"]


def check(fields: Fields) -> None:
    fields.integer("r", 32)
    fields.number("randlora_alpha", 640)
    fields.boolean("fan_in_fan_out")
    if not fields.boolean("save_projection", True):
        fields.seed("projection_prng_key", 0)
        fields.boolean("sparse")
        fields.boolean("very_sparse")


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    weight, fields = Weight.of(layer, module), layer.fields
    rank = fields.integer("r", 32)
    narrow = min(weight.shape)
    bases = -(-narrow // rank)
    scales = layer.check_shape("randlora_lambda", module, rank, bases)
    columns = layer.check_shape("randlora_gamma", module, bases, narrow)
    projections: Projections
    if fields.boolean("save_projection", True):
        least, most = sorted(largest(layer.modules.values()))
        A = shared(layer, "randlora_A", rank, 1, least)
        projections = Stored(A, shared(layer, "randlora_B", most, -(-least // rank), rank).rows(0, max(weight.shape)))
    else:
        refuse_unsaved("save_projection", layer.shared.values())
        sparse, very_sparse = fields.boolean("sparse"), fields.boolean("very_sparse")
        projections = RandLoraSeed.of(layer, rank, sparse=sparse, very_sparse=very_sparse)
    delta = ScaledBases(weight.shape, rank * bases, scales, columns, projections)
    return weight.plus(delta, fields.number("randlora_alpha", 640) / rank)


METHOD = Method(
    peft_type="RANDLORA",
    title="RandLoRA",
    roles=("randlora_lambda", "randlora_gamma"),
    edits=edits,
    shared=("randlora_A", "randlora_B"),
    unused={"randlora_A": COPY, "randlora_B": COPY},
    kinds=frozenset({ModuleKind.LINEAR, ModuleKind.CONV1D}),
    check=check,
)
