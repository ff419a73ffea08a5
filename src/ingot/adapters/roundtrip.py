"""The base weight as QLoRA trained on it: quantized to NF4 and back.

    W' = dtype( code[q(W)] * absmax' )

in the blocks and by the double quantization of bitsandbytes; see `kernels.nf4`. No adapter brings this term: it comes
first where `--base-as nf4` asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ingot.adapters.factor import Factor
from ingot.adapters.forms import gather
from ingot.adapters.principal import torch_dtype
from ingot.adapters.terms import Apply, Load, Needs, Tiles
from ingot.errors import MismatchError

if TYPE_CHECKING:
    import torch

_BLOCK = 64


@dataclass(frozen=True)
class RoundTrip:
    """W[rows, columns] through NF4 and back, rounded to `dtype`, which W has.

    Blocks run along the rows of W as nn.Linear has it. A first pass finds the absmax of all blocks, since the second
    quantization depends on their mean; then each tile is on its own.

    Attributes:
        flipped: the matrix here is the transpose of nn.Linear's [out, in] (Conv1D): it is taken whole.
    """

    shape: tuple[int, int]
    dtype: str
    flipped: bool = False
    formula = "NF4(W)"

    @property
    def needs(self) -> Needs:
        return Needs.WHOLE if self.flipped else Needs.TILES

    @property
    def kept_nbytes(self) -> int:
        """The absmax of all blocks, as found and as stored; or, flipped, the whole matrix."""
        numel = self.shape[0] * self.shape[1]
        return 4 * numel if self.flipped else 2 * 4 * -(-numel // _BLOCK)

    def factors(self) -> tuple[Factor, ...]:
        return ()

    def part(self, rows: tuple[int, int], columns: tuple[int, int]) -> RoundTrip:
        if (rows, columns) != ((0, self.shape[0]), (0, self.shape[1])):
            raise MismatchError(
                "NF4 takes a weight whole, and this one stands in several tensors on disk",
                found=f"rows {list(rows)} and columns {list(columns)} of {list(self.shape)}",
                hint="Load the base with transformers, save it with save_pretrained, and merge into that checkpoint.",
            )
        return self

    def transposed(self) -> RoundTrip:
        return replace(self, shape=(self.shape[1], self.shape[0]), flipped=not self.flipped)

    def prepare(self, _load: Load, tiles: Tiles, /) -> Apply:
        import torch

        from ingot.kernels.nf4 import largest, restored, round_trip

        rows, columns = self.shape
        numel, dtype = rows * columns, torch_dtype(self.dtype)
        whole = gather(self.shape, tiles).T.float().contiguous() if self.flipped else None
        absmax: torch.Tensor | None = None
        for row, tile in [(0, whole)] if whole is not None else tiles():
            if absmax is None:
                absmax = torch.zeros(-(-numel // _BLOCK), device=tile.device)
            largest(tile.float().reshape(-1), row * columns, absmax)
        assert absmax is not None
        scale = restored(absmax)
        if whole is not None:
            changed = round_trip(whole.view(-1), 0, numel, absmax, scale).to(dtype).view(columns, rows).T

            def copy(tile: torch.Tensor, row: int) -> None:
                tile.copy_(changed[row : row + len(tile)])

            return copy

        def apply(tile: torch.Tensor, row: int) -> None:
            values = round_trip(tile.float().reshape(-1), row * columns, numel, absmax, scale)
            tile.copy_(values.to(dtype).view(tile.shape))

        return apply

    def flops(self) -> int:
        return 4 * self.shape[0] * self.shape[1]
