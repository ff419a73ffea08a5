"""PVeRA: VeRA whose hidden vector is drawn from a normal distribution (arXiv:2512.07703); merged, it is the mean.

    W[out, in] + (λ_b[out] * B[out, r]) @ (λ_d[r] * A[r, in])        B = pvera_B[:out], A = pvera_A[:r, :in]

λ_d is the front half of pvera_lambda_d[2r], and A that of pvera_A: the other halves make the variance, which only
training uses, or inference with `sample_at_inference`. With `save_projection` false, A and B are drawn from
`projection_prng_key`. Source: `get_delta_weight` of PEFT's tuners/pvera/layer.py, `_init_pvera_A_pvera_B` of its
model.py.
"""

from __future__ import annotations

from types import SimpleNamespace

from ingot.adapters.edit import Edit
from ingot.adapters.methods.drawn import Drawn, bare
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.methods.projections import Seeded
from ingot.adapters.methods.vera import check, projected
from ingot.adapters.module import Module, ModuleKind


class PveraSeed(Seeded):
    """A[2r, inputs] and B[outputs, r]."""

    def draw(self) -> Drawn:
        from peft.tuners.pvera.model import PveraModel

        model = bare(PveraModel, _find_dim=lambda _: (self.outputs, self.inputs))
        config = SimpleNamespace(r=self.rank, projection_prng_key=self.seed, save_projection=False)
        model._init_pvera_A_pvera_B(config, "default")
        return model.pvera_A["default"], model.pvera_B["default"]


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    return projected(layer, module, "pvera", PveraSeed, halves=2)


METHOD = Method(
    peft_type="PVERA",
    title="PVeRA",
    roles=("pvera_lambda_b", "pvera_lambda_d"),
    edits=edits,
    shared=("pvera_A", "pvera_B"),
    kinds=frozenset({ModuleKind.LINEAR, ModuleKind.CONV1D}),
    check=check,
)
