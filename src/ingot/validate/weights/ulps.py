"""Float64 values against a narrower dtype: rounded once, and how many numbers of the dtype lie between two of them.

torch rounds float64 to 16 bits by way of float32, which rounds twice: 1 + 2^-8 + 2^-40 becomes the tie 1 + 2^-8 first,
and then 1 in bfloat16, where 1 + 2^-7 is nearer. Rounding to odd in between keeps on which side of the tie a value was
(Boldo & Melquiond 2008, "Emulation of FMA and correctly rounded sums", doi:10.1109/TC.2007.70819).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class _Format:
    """Integers of the same width, bits of the stored mantissa, and the exponent of the smallest normal number."""

    integer: torch.dtype
    mantissa: int
    lowest_exponent: int


_FORMATS = {
    torch.float16: _Format(torch.int16, 10, -14),
    torch.bfloat16: _Format(torch.int16, 7, -126),
    torch.float32: _Format(torch.int32, 23, -126),
    torch.float64: _Format(torch.int64, 52, -1022),
}
_EXPONENT_BITS = 0x7FF0_0000_0000_0000
_FARTHEST = 2.0**62


def rounded_once(exact: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """float64 values in `dtype`: the nearest one, ties to even."""
    if dtype in (torch.float64, torch.float32):
        return exact.to(dtype)
    near = exact.float()
    back = near.double()
    bits = near.view(torch.int32)
    # the odd one of the two float32 around an inexact value; bits of one sign are in the order of the magnitude
    step = torch.where(exact.abs() > back.abs(), 1, -1).to(torch.int32)
    return torch.where((back == exact) | (bits & 1 == 1), bits, bits + step).view(torch.float32).to(dtype)


def distance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Units in the last place between two tensors of one dtype: 0 where they are equal, and between 0.0 and -0.0."""
    if one.dtype is torch.float64:  # two of opposite sign may be farther apart than int64 reaches
        a, b = _ordered(one), _ordered(other)
        far = (a.double() - b.double()).abs()
        return torch.where(far < _FARTHEST, (a - b).abs(), far.clamp_(max=_FARTHEST).long())
    wide = torch.int32 if one.dtype.itemsize == 2 else torch.int64
    return (_ordered(one).to(wide) - _ordered(other).to(wide)).abs_()


def half_ulp(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Half the distance of two neighbours of `dtype` in the binade of each float64 value; below the normal numbers,
    that of the subnormal ones."""
    numbers = _FORMATS[dtype]
    binade = (values.view(torch.int64) & _EXPONENT_BITS).view(torch.float64)
    return binade.clamp_(min=2.0**numbers.lowest_exponent).mul_(2.0 ** -(numbers.mantissa + 1))


def _ordered(values: torch.Tensor) -> torch.Tensor:
    """The bits as integers in the order of the numbers; both zeros are 0."""
    bits = values.contiguous().view(_FORMATS[values.dtype].integer)
    lowest = torch.iinfo(bits.dtype).min
    return torch.where(bits < 0, lowest - bits, bits)
