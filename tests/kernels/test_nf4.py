"""The NF4 round trip is bitsandbytes' own: quantize_4bit, then dequantize_4bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ingot.kernels import nf4
from ingot.kernels.codes import FP4, NF4

functional = pytest.importorskip("bitsandbytes.functional")


def weight(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(shape[0])) * 0.05).to(dtype)


def ours(given: torch.Tensor, *, double: bool, cuts: int = 5) -> torch.Tensor:
    """The round trip in pieces that begin anywhere."""
    flat = given.float().reshape(-1)
    step = -(-flat.numel() // cuts)
    starts = range(0, flat.numel(), step)
    absmax = torch.zeros(-(-flat.numel() // nf4.BLOCK))
    for at in starts:
        nf4.largest(flat[at : at + step], at, absmax)
    scale = nf4.restored(absmax) if double else absmax
    parts = [nf4.round_trip(flat[at : at + step], at, flat.numel(), absmax, scale) for at in starts]
    return torch.cat(parts).to(given.dtype).view(given.shape)


def theirs(given: torch.Tensor, **settings: Any) -> torch.Tensor:
    packed, state = functional.quantize_4bit(given, quant_type="nf4", **settings)
    dense: torch.Tensor = functional.dequantize_4bit(packed, state)
    return dense


def test_the_codes_are_bitsandbytes_own() -> None:
    assert torch.equal(torch.tensor(NF4), functional.get_4bit_type("nf4", device="cpu"))
    assert torch.equal(torch.tensor(FP4), functional.get_4bit_type("fp4", device="cpu"))
    assert torch.equal(nf4.dynamic_map(), functional.create_dynamic_map())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(64, 128), (33, 70), (5, 7), (3, 129)])
def test_without_double_quantization_it_is_bit_for_bit_theirs(shape: tuple[int, int], dtype: torch.dtype) -> None:
    given = weight(*shape, dtype=dtype)
    assert torch.equal(ours(given, double=False), theirs(given, compress_statistics=False))


def test_blocks_of_zeros_and_of_one_large_value_are_bit_for_bit_theirs() -> None:
    given = weight(8, 128)
    given[1] = 0
    given[2, :64], given[3, 0] = 0, 1000
    given[5, ::2] = -given[5, ::2].abs()
    assert torch.equal(ours(given, double=False), theirs(given, compress_statistics=False))


@pytest.mark.parametrize("shape", [(64, 128), (256, 320), (33, 70)])
def test_double_quantization_gives_the_absmax_that_the_nearest_code_stands_for(shape: tuple[int, int]) -> None:
    """bitsandbytes' CPU kernel finds the code by a table of 65,536 numbers, and so at times the second nearest; its GPU
    kernel, which training runs on, finds the nearest."""
    given = weight(*shape)
    absmax = functional.quantize_4bit(given, quant_type="nf4", compress_statistics=False)[1].absmax
    state = functional.quantize_4bit(given, quant_type="nf4", compress_statistics=True)[1]
    by_cpu = functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
    found = nf4.restored(absmax)
    assert (found == by_cpu).float().mean() > 0.99
    assert ((found - absmax).abs() <= (by_cpu - absmax).abs() + 1e-7).all()


@pytest.mark.parametrize("shape", [(64, 128), (33, 70)])
def test_with_double_quantization_it_is_bit_for_bit_theirs_where_their_table_finds_the_nearest(
    shape: tuple[int, int],
) -> None:
    given = weight(*shape)
    found, expected = ours(given, double=True), theirs(given, compress_statistics=True)
    same = torch.equal(found, expected)
    blocks = (found != expected).view(-1)[: found.numel() // 64 * 64].view(-1, 64).any(1)
    assert same or blocks.sum() <= max(1, len(blocks) // 100)


def test_the_nearest_code_is_found_beside_every_bound_and_every_edge_of_a_cell() -> None:
    code = torch.tensor(NF4)
    bounds = (code[:-1] + code[1:]) / 2
    at = torch.cat([bounds, torch.arange(65) / 32 - 1, code, torch.tensor([-0.0])])
    beside = [at]
    for target in (-2.0, 2.0):
        step = at
        for _ in range(4):
            step = torch.nextafter(step, torch.tensor(target))
            beside.append(step)
    values = torch.cat([*beside, torch.rand(100_000, generator=torch.Generator().manual_seed(0)) * 2 - 1]).clamp(-1, 1)
    assert torch.equal(nf4._nearest(values), torch.bucketize(values, bounds, out_int32=True))
