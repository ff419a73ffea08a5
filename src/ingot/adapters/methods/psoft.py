"""PSOFT: the principal subspace of a weight rotated and scaled (openreview.net/forum?id=FSHrinMArK).

    Linear  W[out, in] + V[out, r] diag(S[r]) (R - I) U[r, in]          `psoft_init`
            W[out, in] + V diag(S^1/2) (R - I) diag(S^1/2) U            `pissa_init`

V, S, U are the first r singular vectors and values of W in float32, which PEFT computes again whenever it loads the
adapter: by the full SVD, or by a randomized one from `random_seed`. R[r, r] = diag(vector_b) C diag(vector_a), where C
is the Cayley transform (I + Q) (I - Q)^-1 of the stored skew-symmetric Q, or its Cayley-Neumann series, or where
`psoft_orth` is false the stored matrix itself. PEFT's scaling cancels. Source: PEFT's tuners/psoft.

The signs of singular vectors are the decomposition's choice and do not cancel: PEFT, and so ingot, gets back what was
trained only from the same choice. On 512 x 512 random weights and r = 64 another LAPACK (numpy's instead of torch's)
turned 8 signs and changed the update by all of its size; two threads instead of one changed it by 3e-4 of its size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.fields import Fields
from ingot.adapters.forms import Rewritten, Whole
from ingot.adapters.methods import owner
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.methods.rotation import cayley, cayley_neumann, skew
from ingot.adapters.module import Module
from ingot.adapters.terms import Apply, Load, Needs
from ingot.errors import AdapterError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Middle:
    """R.

    Attributes:
        values: Q above its diagonal, [r * (r - 1) / 2], or the whole matrix [r, r] where not `orthogonal`.
        outer, inner: vector_b[r] and vector_a[r].
        terms: of the Cayley-Neumann series; None for the Cayley transform itself.
        eps: Q is shortened to this Frobenius norm before the series.
    """

    values: Factor
    outer: Factor | None
    inner: Factor | None
    rank: int
    orthogonal: bool
    terms: int | None
    eps: float | None

    def factors(self) -> tuple[Factor, ...]:
        return tuple(factor for factor in (self.values, self.outer, self.inner) if factor is not None)

    def load(self, load: Load) -> torch.Tensor:
        matrix = load(self.values)
        if self.orthogonal:
            matrix = self._orthogonal(skew(matrix[None], self.rank))[0]
        if self.outer is not None:
            matrix = load(self.outer)[:, None] * matrix
        return matrix if self.inner is None else matrix * load(self.inner)

    def _orthogonal(self, skewed: torch.Tensor) -> torch.Tensor:
        if self.terms is None:
            return cayley(-skewed)
        norm = skewed.norm()
        if self.eps is not None and norm > self.eps:
            skewed = skewed * (self.eps / (norm + 1e-12))
        return cayley_neumann(skewed, self.terms)


@dataclass(frozen=True)
class Subspace:
    """W + V diag(S) (R - I) U.

    Attributes:
        symmetric: diag(S) stands half on each side of R - I: `pissa_init`.
        seed, iterations: of the randomized SVD; None for the full one.
    """

    middle: Middle
    shape: tuple[int, int]
    symmetric: bool
    seed: int | None
    iterations: int
    formula = "W + V·S·(R-I)·U"
    needs = Needs.WHOLE

    def factors(self) -> tuple[Factor, ...]:
        return self.middle.factors()

    @property
    def kept_nbytes(self) -> int:
        return 4 * self.middle.rank * sum(self.shape)

    @property
    def drawn_nbytes(self) -> int:
        return owner.PEFT_NBYTES + 4 * 3 * math.prod(self.shape)  # the singular vectors, and what finds them

    def make(self, load: Load, whole: Whole, /) -> Apply:
        import torch

        turned = self.middle.load(load)
        turned = turned - torch.eye(self.middle.rank, dtype=turned.dtype, device=turned.device)
        with owner.ALONE:
            v, s, u = (part.clone().to(turned.dtype) for part in self._decompose(whole().float()))
        if self.symmetric:
            turned = s.sqrt()[:, None] * turned * s.sqrt()
        left = (v if self.symmetric else v * s) @ turned
        return lambda tile, row: tile.addmm_(left[row : row + len(tile)], u)

    def _decompose(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """V[out, r], S[r], U[r, in]. PEFT's method is one of a class, and uses nothing of it."""
        mode = "full" if self.seed is None else "lowrank"
        options = {"svd_mode": mode, "niter": self.iterations, "random_seed": self.seed or 0}
        method = "PsoftLayer._compute_svd_factors"
        v, s, u = owner.call("psoft.layer", method, None, weight, self.middle.rank, **options)
        return v, s, u

    def flops(self) -> int:
        rows, columns = self.shape
        return 2 * rows * columns * (self.middle.rank + 11 * min(rows, columns))


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    owner.require("PSOFT")
    fields = layer.fields
    _, rows, columns = module.view("weight")
    rank = fields.integer("r", 32)
    orthogonal = fields.boolean("psoft_orth", True)
    stored = (rank * (rank - 1) // 2,) if orthogonal else (rank, rank)
    if rank > min(rows, columns):
        raise layer.mismatch("psoft_R.weight", module, f"a rank r of at most {min(rows, columns)}")
    series = orthogonal and fields.boolean("use_cayley_neumann")
    middle = Middle(
        layer.check_shape("psoft_R.weight", module, *stored),
        layer.check_shape("psoft_R.vector_b", module, rank) if fields.boolean("psoft_mag_b", True) else None,
        layer.check_shape("psoft_R.vector_a", module, rank) if fields.boolean("psoft_mag_a", True) else None,
        rank, orthogonal,
        terms=fields.integer("num_cayley_neumann_terms", 5) if series else None,
        eps=_limit(fields),
    )  # fmt: skip
    subspace = Subspace(
        middle, (rows, columns),
        symmetric=_initialization(fields) == "pissa_init",
        seed=fields.seed("random_seed", 0) if _decomposition(fields) == "lowrank" else None,
        iterations=fields.count("psoft_svd_lowrank_niter", 10),
    )  # fmt: skip
    return (Edit("weight", 0, Rewritten(subspace)),)


def _limit(fields: Fields) -> float | None:
    return None if fields.raw.get("cayley_neumann_eps") is None else fields.number("cayley_neumann_eps", 1.0)


def _initialization(fields: Fields) -> str:
    return fields.choice("ab_svd_init", ("psoft_init", "pissa_init"))


def _decomposition(fields: Fields) -> str:
    return fields.choice("psoft_svd", ("full", "lowrank"))


def check(fields: Fields) -> None:
    fields.integer("r", 32)
    for key in ("psoft_orth", "psoft_mag_a", "psoft_mag_b", "use_cayley_neumann"):
        fields.boolean(key)
    fields.integer("num_cayley_neumann_terms", 5)
    fields.seed("random_seed", 0)
    fields.count("psoft_svd_lowrank_niter", 10)
    _limit(fields)
    _initialization(fields)
    if _decomposition(fields) == "lowrank" and "random_seed" not in fields.raw:
        raise AdapterError(
            "the randomized SVD of this adapter was not seeded, so its subspace is lost", where=fields.where,
            found="`psoft_svd` lowrank without `random_seed`, as PEFT before 0.20 saved it",
            hint="Merge it in the session that trained it, or train it with `psoft_svd` full.",
        )  # fmt: skip


METHOD = Method(
    peft_type="PSOFT",
    title="PSOFT",
    roles=("psoft_R.weight", "psoft_R.vector_a", "psoft_R.vector_b"),
    edits=edits,
    check=check,
    caution="A PSOFT adapter rotates singular vectors of the base, which it does not hold: only the same library on "
    "the same kind of device finds them again. Merge where it was trained (--device), and check its scores.",
)
