"""OSF: the small singular directions of a weight trained anew (Nayak et al. 2025, arXiv:2504.07097).

    Linear  W[out, in] + U[out, q] diag(S[q]) V[q, in] - U0 diag(S0) V0

U, S, V are stored; U0, S0, V0 are what they started from, the last q of the min(out, in) singular vectors and values of
W in float32, rounded to the base's dtype. PEFT computes them again whenever it loads the adapter. Their product does
not depend on the signs of singular vectors. Source: PEFT's tuners/osf, 0.21.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.forms import Rewritten, Whole
from ingot.adapters.methods import owner
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.module import Module
from ingot.adapters.terms import Apply, Load, Needs

_U, _S, _V = (f"osf_svd_params.{name}" for name in ("U_low", "S_low", "V_low"))


@dataclass(frozen=True)
class SmallDirections:
    """W + U S V - U0 S0 V0. `dtype` is the base weight's, as in a safetensors header."""

    u: Factor  # [out, q]
    s: Factor  # [q]
    v: Factor  # [q, in]
    dtype: str
    formula = "W + U·S·V - U₀·S₀·V₀"
    needs = Needs.WHOLE

    @property
    def shape(self) -> tuple[int, int]:
        return (self.u.shape[0], self.v.shape[1])

    def factors(self) -> tuple[Factor, ...]:
        return (self.u, self.s, self.v)

    @property
    def kept_nbytes(self) -> int:
        return 4 * 2 * self.s.shape[0] * sum(self.shape)

    @property
    def drawn_nbytes(self) -> int:
        return owner.PEFT_NBYTES + 4 * 3 * math.prod(self.shape)  # the singular vectors, and what finds them

    def make(self, load: Load, whole: Whole, /) -> Apply:
        import torch

        from ingot.kernels.dtypes import TORCH_DTYPE

        u, s, v = map(load, self.factors())
        with owner.ALONE:
            weight = whole().to(TORCH_DTYPE[self.dtype])
            parts = owner.call("osf.utils", "decompose_weight_matrix", weight, min(self.shape) - len(s))
            u0, s0, v0 = (parts[name].detach() for name in ("U_low", "S_low", "V_low"))
        left = torch.cat([u * s, -(u0 * s0).to(u.dtype)], dim=1)
        right = torch.cat([v, v0.to(v.dtype)])
        return lambda tile, row: tile.addmm_(left[row : row + len(tile)], right)

    def flops(self) -> int:
        rows, columns = self.shape
        return 2 * rows * columns * (2 * self.s.shape[0] + 11 * min(rows, columns))


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    owner.require("OSF")
    _, rows, columns = module.view("weight")
    trained = layer.axis(_S, module, 0, of=1)
    if trained > min(rows, columns):
        raise layer.mismatch(_S, module, f"at most {min(rows, columns)} values")
    change = SmallDirections(
        layer.check_shape(_U, module, rows, trained),
        layer.need(_S),
        layer.check_shape(_V, module, trained, columns),
        module.dtypes.get("weight", "F32"),
    )
    return (Edit("weight", 0, Rewritten(change)),)


METHOD = Method(peft_type="OSF", title="OSF", roles=(_U, _S, _V), edits=edits)
