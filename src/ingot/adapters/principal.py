"""PiSSA and OLoRA: what PEFT takes out of the base weight when it loads such an adapter.

Both initialize A and B with the principal part P of W, train on W - P, and save only A and B. So the merged weight is
round(W - P) + s * B @ A, where P = s * B0 @ A0 is found again from W by the same decomposition in float32:

    PiSSA  P = U[:, :r] @ S[:r] @ Vh[:r]   of the SVD of W[out, in]   (Meng et al. 2024, arXiv:2404.02948)
    OLoRA  P = s * Q[:, :r] @ R[:r]        of the QR of W[out, in]    (Büyükakyüz 2024, arXiv:2406.01775)

PEFT rounds the residual to the base's dtype, and so do we; source: `pissa_init`, `olora_init` of PEFT 0.21.2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from ingot.adapters.factor import Factor
from ingot.adapters.forms import gather
from ingot.adapters.terms import Apply, Load, Needs, Tiles
from ingot.errors import MismatchError

if TYPE_CHECKING:
    import torch


#: Bytes an element of W that an SVD of it takes at its peak, besides three matrices of W's size. Measured with torch on
#: a CPU: W and 6.4 times that for a square matrix, less for others.
SVD_NBYTES = 4 * 5


class Method(StrEnum):
    """The decomposition that finds the principal part."""

    SVD = "svd"
    QR = "qr"

    @property
    def tool(self) -> str:
        return "PiSSA" if self is Method.SVD else "OLoRA"

    @classmethod
    def of(cls, initialization: bool | str) -> Method | None:
        """The method that `init_lora_weights` asks for; None for one that leaves the base as it is."""
        if initialization == "pissa":
            return cls.SVD
        return cls.QR if isinstance(initialization, str) and initialization.lower() == "olora" else None


@dataclass(frozen=True)
class Principal:
    """round(W - P): the base weight without its principal part, rounded to `dtype`.

    The decomposition needs the whole matrix at once.

    Attributes:
        dtype: of the base weight, as in a safetensors header.
        flipped: the matrix here is W's transpose [in, out].
    """

    shape: tuple[int, int]
    rank: int
    scaling: float
    method: Method
    dtype: str
    flipped: bool = False
    needs = Needs.WHOLE

    @property
    def formula(self) -> str:
        return f"W - {self.method.tool}'s principal part"

    @property
    def drawn_nbytes(self) -> int:
        """Of the decomposition, besides three matrices of the weight's size."""
        rows, columns = self.shape
        return SVD_NBYTES * rows * columns if self.method is Method.SVD else 0

    def factors(self) -> tuple[Factor, ...]:
        return ()

    def part(self, rows: tuple[int, int], columns: tuple[int, int]) -> Principal:
        if (rows, columns) != ((0, self.shape[0]), (0, self.shape[1])):
            raise MismatchError(
                f"{self.method.tool} decomposes a weight that stands in several tensors on disk",
                found=f"rows {list(rows)} and columns {list(columns)} of {list(self.shape)}",
                hint="Convert the adapter to plain LoRA with PEFT's `path_initial_model_for_weight_conversion`.",
            )
        return self

    def transposed(self) -> Principal:
        return replace(self, shape=(self.shape[1], self.shape[0]), flipped=not self.flipped)

    def prepare(self, _load: Load, tiles: Tiles, /) -> Apply:
        left, right = self.decompose(gather(self.shape, tiles))
        dtype = torch_dtype(self.dtype)

        def apply(tile: torch.Tensor, row: int) -> None:
            tile.addmm_(left[row : row + len(tile)].to(tile.dtype), right.to(tile.dtype), alpha=-1)
            tile.copy_(tile.to(dtype))

        return apply

    def decompose(self, matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """left[rows, r] and right[r, columns] with P = left @ right, multiplied in the order in which PEFT does it."""
        import torch

        weight = matrix.T if self.flipped else matrix
        if self.method is Method.SVD:
            u, s, vh = torch.linalg.svd(weight, full_matrices=False)
            root = torch.diag(torch.sqrt(s[: self.rank] / self.scaling))
            a, b = root @ vh[: self.rank], u[:, : self.rank] @ root
        else:
            q, r = torch.linalg.qr(weight)
            a, b = r[: self.rank], q[:, : self.rank]
        b = self.scaling * b
        return (a.T, b.T) if self.flipped else (b, a)

    def flops(self) -> int:
        rows, columns = self.shape
        short = min(rows, columns)
        return 2 * rows * columns * self.rank + (22 if self.method is Method.SVD else 4) * rows * columns * short


def torch_dtype(name: str) -> torch.dtype:
    import torch

    dtypes = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    if name not in dtypes:
        raise MismatchError(
            "PiSSA and OLoRA start from float32, float16 or bfloat16",
            found=name,
            hint="Convert the adapter to plain LoRA with PEFT's `path_initial_model_for_weight_conversion`.",
        )
    return dtypes[name]
