"""Numbers along the dense rows, each with a scale that it shares with a block: W = (q - z) * s.

    q[rows, columns]                       float8, int8, packed integers, 4-bit floats
    s[rows / height, columns / width]      z likewise, where there is one

One scale for the tensor, a row, a group of a row or a block differ in height and width alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from ingot.checkpoint.quantized.encoded import Parts
from ingot.checkpoint.quantized.packing import integers, nibbles
from ingot.errors import BaseError
from ingot.kernels.codes import E2M1, INT4

if TYPE_CHECKING:
    import torch

WEIGHT, SCALE, OUTER, ZERO, GROUPS = "weight", "scale", "outer scale", "zero point", "groups"


class Number(StrEnum):
    """How q is stored."""

    PLAIN = "plain"  # one element each: float8, int8
    E2M1 = "e2m1"  # two 4-bit floats a byte, the first in its low half
    PACKED = "packed"  # integers of `bits` in int32 words, each row from a word of its own; their middle means 0


@dataclass(frozen=True)
class Scaled:
    """See the module. The scale is exact; the product is rounded to `product`, then to the dense dtype.

    Attributes:
        block: (height, width) of what shares a scale.
        bits: of a PACKED number, and of its zero points, which are packed along the rows.
        exponents: scales are bytes of E8M0: 2^(byte - 127), 255 stands for NaN.
        outer: what is done with the tensor's second scale: "" where it has none, "multiply", or "divide".
        product: "F32", or the dtype that the library multiplies in.
    """

    title: str
    number: Number
    block: tuple[int, int]
    product: str = "F32"
    bits: int = 0
    exponents: bool = False
    outer: str = ""

    kept = ()

    def decode(self, parts: Parts, begin: int, end: int) -> torch.Tensor:
        """See `Format.decode`."""
        from ingot.kernels.dtypes import TORCH_DTYPE

        columns = parts.shape[-1]
        first, last = begin // columns, -(-end // columns)
        values = self._numbers(parts, first, last)
        rows, of_columns = self._scale_rows(parts, first, last), self._scale_columns(parts)
        if of_columns is None:  # neighbours share a scale: no copy of it for each of them
            seen = values.view(len(values), -1, min(columns, self.block[1]))
        else:
            seen = values.unsqueeze(2)
        if ZERO in parts:
            seen -= _spread(self._zeros(parts, rows), of_columns)
        seen *= _spread(self._scales(parts, rows), of_columns)
        return values.to(TORCH_DTYPE[self.product]).reshape(-1)[begin - first * columns : end - first * columns]

    def _numbers(self, parts: Parts, first: int, last: int) -> torch.Tensor:
        """q of rows [first, last), as contiguous float32[rows, columns]."""
        import torch

        columns = parts.shape[-1]
        if self.number is Number.E2M1:
            raw = parts.raw(WEIGHT, first * columns // 2, last * columns // 2)
            return nibbles(raw, E2M1, high_first=False).view(-1, columns)
        if self.number is Number.PLAIN:
            return widened(parts.elements(WEIGHT, first * columns, last * columns)).view(-1, columns)
        words = -(-columns * self.bits // 32)
        packed = parts.elements(WEIGHT, first * words, last * words).view(-1, words)
        if self.bits == 4:
            return nibbles(packed.view(torch.uint8), INT4, high_first=False)[:, :columns].contiguous()
        return integers(packed.T.contiguous(), self.bits)[:columns].T.float().contiguous() - (1 << (self.bits - 1))

    def _scale_rows(self, parts: Parts, first: int, last: int) -> torch.Tensor:
        """Which row of the scales belongs to each of the rows [first, last); matrices of a stack follow one another."""
        import torch

        height = parts.shape[-2] if len(parts.shape) > 1 else 1
        rows = torch.arange(first, last)
        return rows // height * -(-height // self.block[0]) + rows % height // self.block[0]

    def _scale_columns(self, parts: Parts) -> torch.Tensor | None:
        """Which column of the scales belongs to each column; None where each belongs to as many neighbours."""
        import torch

        columns = parts.shape[-1]
        if GROUPS in parts:
            groups = parts.elements(GROUPS, 0, columns)
            if int(groups.min()) >= 0:
                return _checked(groups, -(-columns // self.block[1]))
        width = min(columns, self.block[1])
        return torch.arange(columns) // width if columns % width else None

    def _scales(self, parts: Parts, rows: torch.Tensor) -> torch.Tensor:
        """Scales of these rows of scales: float32[len(rows), groups]."""
        scales = _rows_of(parts, SCALE, rows, -(-parts.shape[-1] // self.block[1]))
        if self.exponents:
            scales = powers_of_two(scales)
        scales = scales.float()
        if self.outer:
            second = parts.elements(OUTER, 0, 1).float()
            scales = scales * second if self.outer == "multiply" else scales / second
        return scales

    def _zeros(self, parts: Parts, rows: torch.Tensor) -> torch.Tensor:
        groups = -(-parts.shape[-1] // self.block[1])
        if self.number is not Number.PACKED:
            return _rows_of(parts, ZERO, rows, groups).float()
        first = int(rows[0]) // 32
        words = (-(-(int(rows[-1]) + 1) // 32) - first) * self.bits
        whole = -(-math.prod(parts.shape[:-1]) * self.bits // 32)
        packed = parts.elements(ZERO, first * self.bits * groups, min(first * self.bits + words, whole) * groups)
        unpacked = integers(packed.view(-1, groups), self.bits).float() - (1 << (self.bits - 1))
        return unpacked[rows - first * 32]


def widened(stored: torch.Tensor) -> torch.Tensor:
    """float32 of flat float8 or int8 numbers; of float8 by a table, in a quarter of the time that torch takes."""
    import torch

    if not stored.is_floating_point():
        return stored.float()
    every = torch.arange(256, dtype=torch.uint8).view(stored.dtype).float()
    return torch.index_select(every, 0, stored.view(torch.uint8).to(torch.int32))


def powers_of_two(exponents: torch.Tensor) -> torch.Tensor:
    """2^(byte - 127) of E8M0 bytes, or of float8_e8m0fnu; NaN for 255 (OCP Microscaling Formats v1.0, 5.4.1)."""
    import torch

    raw = exponents.view(torch.uint8)
    powers = torch.ldexp(torch.ones(raw.shape), raw.to(torch.int32) - 127)
    return powers.masked_fill_(raw == 255, float("nan"))


def _rows_of(parts: Parts, role: str, rows: torch.Tensor, groups: int) -> torch.Tensor:
    first, last = int(rows[0]), int(rows[-1]) + 1
    return parts.elements(role, first * groups, last * groups).view(-1, groups)[rows - first]


def _spread(of_blocks: torch.Tensor, columns: torch.Tensor | None) -> torch.Tensor:
    return (of_blocks if columns is None else of_blocks[:, columns]).unsqueeze(2)


def _checked(groups: torch.Tensor, count: int) -> torch.Tensor:
    if int(groups.max()) >= count or int(groups.min()) < 0:
        raise BaseError("g_idx names a group that has no scale", expected=f"0 to {count - 1}",
                        found=f"{int(groups.min())} to {int(groups.max())}")  # fmt: skip
    return groups.long()
