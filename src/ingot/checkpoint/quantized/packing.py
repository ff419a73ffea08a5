"""Bits to numbers: codes of four bits, and integers that are packed one after another into words."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@cache
def _pairs(code: tuple[float, ...], high_first: bool) -> torch.Tensor:
    """The two numbers of every byte: float32[256, 2]."""
    import torch

    table, byte = torch.tensor(code, dtype=torch.float32), torch.arange(256)
    high, low = table[byte >> 4], table[byte & 15]
    return torch.stack([high, low] if high_first else [low, high], dim=1)


def nibbles(packed: torch.Tensor, code: tuple[float, ...], *, high_first: bool) -> torch.Tensor:
    """`code` of each half of uint8 packed[..., n], as float32[..., 2n]."""
    import torch

    values = torch.index_select(_pairs(code, high_first), 0, packed.reshape(-1).to(torch.int32))
    return values.view(*packed.shape[:-1], 2 * packed.shape[-1])


def integers(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Unsigned integers of `bits` bits in int32 words[n, m], as uint8[n * 32 / bits, m].

    Along the first axis the words are one stream of bits, the lowest of each word first: with 3 bits, number 10 has its
    low bits at the end of word 0 and its high bit at the beginning of word 1.
    """
    import torch

    count = words.shape[0] * 32 // bits
    if 32 % bits == 0:
        shifts = torch.arange(0, 32, bits, dtype=torch.int32).view(1, -1, 1)
        # an arithmetic shift fills with the sign; the mask takes it away
        return ((words.unsqueeze(1) >> shifts) & ((1 << bits) - 1)).to(torch.uint8).reshape(count, -1)
    first = torch.arange(count, dtype=torch.int64) * bits
    word, shift = first // 32, (first % 32).view(-1, 1)
    wide = words.to(torch.int64) & 0xFFFF_FFFF
    following = torch.cat([wide[1:], wide.new_zeros(1, wide.shape[1])])
    return (((wide[word] | following[word] << 32) >> shift) & ((1 << bits) - 1)).to(torch.uint8)
