"""MXFP4 as gpt-oss stores its experts: 4-bit floats in blocks of 32, each with a power of two.

    P_blocks[E, out, groups, 16]   two numbers a byte, the first in its low half
    P_scales[E, out, groups]       bytes of E8M0: 2^(byte - 127)
    P[E, in, out] = (e2m1(P_blocks) * 2^(P_scales - 127)) transposed, in bfloat16, exact

The model holds its experts transposed, so that a row of P is a column of what is stored: one expert's blocks are read
at once, and decoded as they are asked for. Source: OCP Microscaling Formats v1.0; transformers (integrations/mxfp4.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.checkpoint.quantized.encoded import Encoded, Found, Parts
from ingot.checkpoint.quantized.expect import expect, missing
from ingot.checkpoint.quantized.packing import nibbles
from ingot.checkpoint.quantized.scaled import powers_of_two
from ingot.formats.tensor_ref import TensorRef
from ingot.kernels.codes import E2M1

if TYPE_CHECKING:
    import torch

_BLOCK = 32


@dataclass(frozen=True)
class Mxfp4Experts:
    """See the module."""

    kept = ("blocks", "scales")
    title = "MXFP4 experts"

    def decode(self, parts: Parts, begin: int, end: int) -> torch.Tensor:
        """See `Format.decode`."""
        import torch

        _, inputs, out = parts.shape
        first, last = begin // out, -(-end // out)
        strips = []
        for expert in range(first // inputs, -(-last // inputs)):
            top, bottom = max(0, first - expert * inputs), min(inputs, last - expert * inputs)
            strips.append(self._rows(parts, expert, top, bottom))
        return torch.cat(strips).view(-1)[begin - first * out : end - first * out]

    def _rows(self, parts: Parts, expert: int, top: int, bottom: int) -> torch.Tensor:
        """Rows [top, bottom) of one expert's P[in, out]: bfloat16."""
        import torch

        _, inputs, out = parts.shape
        per_expert = out * inputs // _BLOCK
        blocks = parts.kept("blocks", expert * per_expert * 16, (expert + 1) * per_expert * 16).view(out, -1, 16)
        scales = parts.kept("scales", expert * per_expert, (expert + 1) * per_expert).view(out, -1)
        groups = slice(top // _BLOCK, -(-bottom // _BLOCK))
        values = nibbles(blocks[:, groups], E2M1, high_first=False)
        values *= powers_of_two(scales[:, groups]).unsqueeze(2)
        start = groups.start * _BLOCK
        return values.view(out, -1)[:, top - start : bottom - start].T.to(torch.bfloat16)


def find_mxfp4(tensors: Mapping[str, TensorRef], dtype: str) -> Found:
    """The encoded experts of a gpt-oss checkpoint. Raises BaseError where blocks and scales do not go together."""
    found = Found()
    for name, blocks in tensors.items():
        if not name.endswith("_blocks"):
            continue
        parameter = name.removesuffix("_blocks")
        scales = tensors.get(f"{parameter}_scales") or missing(f"{parameter}_scales", blocks)
        expect(blocks, ("U8",), (*blocks.shape[:-1], 16), ndim=4)
        expect(scales, ("U8",), blocks.shape[:-1])
        experts, out, groups, _ = blocks.shape
        shape = (experts, groups * _BLOCK, out)
        parts = (("blocks", blocks), ("scales", scales))
        found.encoded.append(Encoded(parameter, dtype, shape, Mxfp4Experts(), parts, pieces=experts))
    return found
