"""The round trip of a weight through NF4, as bitsandbytes makes it.

    quantize    q = nearest code to W / absmax, for each block of 64 elements in row-major order
    dequantize  W' = code[q] * absmax, in float32, then rounded to the dtype that W had

With double quantization absmax itself is stored in 8 bits, for each 256 blocks:

    absmax' = map[nearest to (absmax - mean) / absmax2] * absmax2 + mean

Source: Dettmers et al. 2023, arXiv:2305.14314; the order of operations is that of bitsandbytes 0.50.2
(`functional.quantize_4bit`, `dequantize_4bit`, backends/default/ops.py).
"""

from __future__ import annotations

from functools import cache

import torch

from ingot.kernels.codes import NF4

#: Elements that share an absmax, and absmaxes that share a scale of their own.
BLOCK, OUTER_BLOCK = 64, 256
#: What a division by an absmax of zero becomes.
_LEAST = 1e-38


@cache
def dynamic_map() -> torch.Tensor:
    """The 256 values of the 8-bit code for absmax, ascending and finer towards zero (arXiv:1511.04561)."""
    values = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1)
        means = (edges[:-1] + edges[1:]) / 2.0
        values += (10 ** (exponent - 6) * means).tolist() + (-(10 ** (exponent - 6)) * means).tolist()
    return torch.tensor(sorted(values))


def largest(values: torch.Tensor, begin: int, absmax: torch.Tensor) -> None:
    """Take flat float32 values, the first of them element `begin` of the weight, into the absmax of their blocks."""
    lead, first = begin % BLOCK, begin // BLOCK
    padded = torch.nn.functional.pad(values.abs(), (lead, -(lead + values.numel()) % BLOCK))
    found = padded.view(-1, BLOCK).amax(1)
    place = absmax[first : first + len(found)]
    torch.maximum(place, found, out=place)


def restored(absmax: torch.Tensor) -> torch.Tensor:
    """What double quantization makes of the absmax of all blocks of one weight, float32."""
    mean = absmax.mean()
    apart = absmax - mean
    outer = torch.zeros(-(-len(apart) // OUTER_BLOCK), device=apart.device)
    padded = torch.nn.functional.pad(apart, (0, -len(apart) % OUTER_BLOCK)).view(-1, OUTER_BLOCK)
    torch.amax(padded.abs(), 1, out=outer)
    code = dynamic_map().to(apart.device)
    scaled = (padded * (1.0 / outer.clamp(min=_LEAST)).view(-1, 1)).clamp(-1, 1)
    index = torch.bucketize(scaled, (code[:-1] + code[1:]) / 2, out_int32=True)
    return (code[index] * outer.view(-1, 1)).view(-1)[: len(apart)] + mean


def round_trip(values: torch.Tensor, begin: int, numel: int, absmax: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Flat float32 values, the first of them element `begin` of a weight of `numel`, through NF4 and back.

    Args:
        absmax: of all blocks of the weight: what values are divided by.
        scale: what codes are multiplied by: `restored(absmax)`, or absmax itself without double quantization.
    """
    blocks = slice(begin // BLOCK, -(-(begin + values.numel()) // BLOCK))
    lead = begin % BLOCK
    scaled = by_block(values.clone(), 1.0 / absmax[blocks].clamp(min=_LEAST), BLOCK, lead)
    tail = numel - numel % BLOCK - begin  # the last block, where it is no whole one, is divided
    if tail < values.numel():
        scaled[max(0, tail) :] = values[max(0, tail) :] / absmax[-1].clamp(min=_LEAST)
    code = torch.tensor(NF4, device=values.device)
    return by_block(torch.index_select(code, 0, _nearest(scaled.clamp_(-1, 1))), scale[blocks], BLOCK, lead)


def by_block(values: torch.Tensor, factors: torch.Tensor, block: int, lead: int = 0) -> torch.Tensor:
    """Flat values, in place times the factor of their block; the first of them is number `lead` of the first block."""
    if not lead and values.numel() == block * len(factors):
        values.view(-1, block).mul_(factors.view(-1, 1))
        return values
    return values.mul_(factors.repeat_interleave(block)[lead : lead + values.numel()])


#: Cells of [-1, 1] so small that none holds two of the bounds between codes.
_CELLS = 64


@cache
def _cells() -> tuple[torch.Tensor, torch.Tensor]:
    """For each cell, how many bounds between codes lie below it, and the one that lies in it, or infinity."""
    code = torch.tensor(NF4)
    bounds = (code[:-1] + code[1:]) / 2
    edges = torch.arange(_CELLS + 2) * (2 / _CELLS) - 1
    below = torch.bucketize(edges[:-1], bounds)
    own = torch.bucketize(edges[1:], bounds) > below
    inside = torch.where(own, bounds[below.clamp(max=len(bounds) - 1)], torch.inf)
    return below.to(torch.int32), inside


def _nearest(scaled: torch.Tensor) -> torch.Tensor:
    """The number of the NF4 code that is nearest to each value of [-1, 1]: `torch.bucketize` in a sixth of its time."""
    below, inside = (table.to(scaled.device) for table in _cells())
    cell = ((scaled + 1) * (_CELLS / 2)).to(torch.int32).clamp_(0, _CELLS)  # NaN is any number there
    return torch.index_select(below, 0, cell).add_(scaled > torch.index_select(inside, 0, cell))
