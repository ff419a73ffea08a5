"""KaSA: LoRA in the form of an SVD, on a weight without its smallest singular values (arXiv:2412.06071).

    round(W - U[:, k-r:] @ S[k-r:] @ Vh[k-r:]) + s * (B[out, r] * d[r]) @ A[r, in]        k = min(out, in)

PEFT cuts the r smallest singular values off when it makes or loads the layer, by an SVD of W in float32, rounds what is
left to the base's dtype, trains on that, and saves only A, B and d (`lora_diag`). On Linear layers alone.
Source: `KasaLinearVariant` of PEFT's tuners/lora/variants.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.adapters.factor import Factor
from ingot.adapters.forms import Whole
from ingot.adapters.principal import SVD_NBYTES
from ingot.adapters.terms import Apply, Load, Needs
from ingot.errors import MismatchError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Kasa:
    """round(W - its r smallest singular components) + scaling * (b * diagonal) @ a.

    Attributes:
        dtype: of the base weight, as in a safetensors header: what the remainder is rounded to.
    """

    b: Factor  # [out, r]
    diagonal: Factor  # [r]
    a: Factor  # [r, in]
    scaling: float
    dtype: str
    needs = Needs.WHOLE
    formula = "W without its smallest singular values + s·(B·d)@A"

    def __post_init__(self) -> None:
        if self.rank >= min(self.shape):
            raise MismatchError(
                "KaSA would leave nothing of a weight",
                where=f"`{self.a.ref.name}`",
                expected=f"a rank below {min(self.shape)}",
                found=f"rank {self.rank}",
            )

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        return (self.b.shape[0], self.a.shape[1])

    @property
    def drawn_nbytes(self) -> int:
        """Of the SVD, besides three matrices of the weight's size."""
        return SVD_NBYTES * math.prod(self.shape)

    def factors(self) -> tuple[Factor, ...]:
        return (self.b, self.diagonal, self.a)

    def make(self, load: Load, whole: Whole, /) -> Apply:
        from ingot.kernels.dtypes import TORCH_DTYPE

        dtype = TORCH_DTYPE[self.dtype]
        left, right = self._tail(whole())
        b, a = load(self.b) * load(self.diagonal), load(self.a)

        def apply(tile: torch.Tensor, row: int) -> None:
            rows = slice(row, row + len(tile))
            tile.addmm_(left[rows], right, alpha=-1)
            tile.copy_(tile.to(dtype))
            tile.addmm_(b[rows], a, alpha=self.scaling)

        return apply

    def _tail(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """left[out, r] @ right[r, in]: the part of the r smallest singular values."""
        import torch

        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        kept = len(s) - self.rank
        return u[:, kept:] * s[kept:], vh[kept:].clone()

    def flops(self) -> int:
        rows, columns = self.shape
        return 4 * rows * columns * self.rank + 22 * rows * columns * min(rows, columns)
