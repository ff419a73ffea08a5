"""Rounding modes against all numbers that bfloat16 and float16 have, in float64."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from ingot.kernels.finite import first_non_finite
from ingot.kernels.rounding import STRIP_NBYTES, Round, Stochastic, nearest, neighbours, uniform

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
SPELLING = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
MAX = {torch.bfloat16: (2 - 2**-7) * 2.0**127, torch.float16: 65504.0}
#: From here on nearest makes an infinity.
OVERFLOW = {torch.bfloat16: (2 - 2**-8) * 2.0**127, torch.float16: 65520.0}


@cache
def numbers(dtype: torch.dtype) -> np.ndarray:
    """All finite numbers of the dtype, ascending, in float64; there is one zero."""
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    values = patterns.view(dtype).double().numpy()
    return np.unique(values[np.isfinite(values)] + 0.0)


def awkward(dtype: torch.dtype) -> torch.Tensor:
    """float32 values of every magnitude: subnormals, the edges of binades, both ends of the range, exact ones."""
    generator = torch.Generator().manual_seed(1)
    patterns = torch.randint(-(2**31), 2**31, (40_000,), generator=generator).to(torch.int32)
    anything = patterns.view(torch.float32)
    exact = torch.from_numpy(numbers(dtype)).float()
    beside = torch.cat([torch.nextafter(exact, torch.tensor(x)) for x in (-torch.inf, torch.inf)])
    halves = (exact[1:].double() + exact[:-1].double()).div(2).float()
    values = torch.cat([anything, exact, beside, halves, torch.tensor([0.0, -0.0, MAX[dtype], -MAX[dtype]])])
    return values[values.abs() < OVERFLOW[dtype]].unsqueeze(0)


@every_dtype
def test_neighbours_are_the_numbers_on_both_sides(dtype: torch.dtype) -> None:
    values = awkward(dtype)
    low, gap = (part.double().numpy()[0] for part in neighbours(values, dtype))
    exact, grid = values.double().numpy()[0], numbers(dtype)
    at = np.searchsorted(grid, exact, side="right") - 1  # the last number that is not above
    inside = np.abs(exact) <= MAX[dtype]
    above = grid[np.minimum(at + (grid[at] != exact), len(grid) - 1)]
    assert inside.sum() > 50_000
    assert np.array_equal(low[inside], grid[at][inside])
    assert np.array_equal((low + gap)[inside], above[inside])
    outside = ~inside  # nearest keeps these finite, and so must every other mode
    assert np.array_equal(low[outside], np.sign(exact[outside]) * MAX[dtype])
    assert not gap[outside].any()


@every_dtype
@pytest.mark.parametrize("rounding", [nearest, Stochastic.of(3, "w")], ids=["nearest", "stochastic"])
def test_what_is_exact_stays_to_the_bit(rounding: Round, dtype: torch.dtype) -> None:
    exact = torch.cat([torch.from_numpy(numbers(dtype)), torch.tensor([-0.0, 0.0])]).to(dtype).unsqueeze(0)
    out = torch.empty_like(exact)
    rounding(exact.float(), 0, out)
    assert torch.equal(out.view(torch.int16), exact.view(torch.int16))


@every_dtype
def test_stochastic_rounding_takes_a_neighbour_and_no_infinity(dtype: torch.dtype) -> None:
    values = awkward(dtype)
    out = torch.empty(values.shape, dtype=dtype)
    for seed in range(4):
        Stochastic.of(seed, "w")(values, 0, out)
        low, gap = neighbours(values, dtype)
        assert bool(((out.float() == low) | (out.float() == low + gap)).all())
        assert bool(torch.isfinite(out).all())


@every_dtype
def test_what_is_not_finite_reaches_the_check(dtype: torch.dtype) -> None:
    bad = [torch.nan, torch.inf, -torch.inf, OVERFLOW[dtype], -OVERFLOW[dtype], 3.4e38]
    for value in bad:
        tile = torch.full((2, 7), 0.1)
        tile[1, 3] = value
        out, expected = torch.empty(2, 7, dtype=dtype), torch.empty(2, 7, dtype=dtype)
        Stochastic.of(0, "w")(tile, 0, out)
        nearest(tile, 0, expected)
        raw = memoryview(bytearray(out.view(torch.int16).numpy().tobytes()))
        assert first_non_finite(raw, SPELLING[dtype]) == 10
        assert torch.equal(out[1, 3], expected[1, 3]) or torch.isnan(expected[1, 3])


@every_dtype
@pytest.mark.parametrize("size", [0.03, 5e-5, 4e-7, 1e-39])
def test_stochastic_rounding_is_unbiased(dtype: torch.dtype, size: float) -> None:
    values = torch.randn(300, 1000, generator=torch.Generator().manual_seed(5)) * size
    low, gap = (part.double() for part in neighbours(values, dtype))
    out = torch.empty(values.shape, dtype=dtype)
    Stochastic.of(11, "a tensor")(values, 0, out)
    open_ = gap > 0
    chance = ((values.double() - low) / gap)[open_]
    up = (out.double() > low)[open_].double()
    assert open_.sum() > 1000
    for part in (chance >= 0, chance < 0.1, (chance > 0.4) & (chance < 0.6), chance > 0.9):
        variance = (chance * (1 - chance))[part].sum()
        assert abs(float((up - chance)[part].sum())) <= 4 * max(1.0, float(variance.sqrt()))


def test_the_chances_are_uniform_and_do_not_repeat() -> None:
    found = uniform(Stochastic.of(0, "w").key, 0, (1000, 1000), torch.device("cpu")).double()
    assert 0 <= float(found.min()) < 1e-5
    assert 1 - 1e-5 < float(found.max()) < 1
    counts = torch.histc(found, 256, 0, 1)
    chi_square = float(((counts - found.numel() / 256) ** 2).sum() / (found.numel() / 256))
    assert abs(chi_square - 255) < 5 * (2 * 255) ** 0.5
    centred = found - 0.5
    for shifted in (centred[1:] * centred[:-1], centred[:, 1:] * centred[:, :-1], centred[::7] * centred[5::7][:143]):
        assert abs(float(shifted.mean())) < 5 / 12 / 970**2 * 970  # five standard deviations


def test_the_chances_are_those_of_the_written_formula() -> None:
    def mix(x: int, between: int) -> int:
        def signed(word: int) -> int:
            return (word & 0xFFFFFFFF) - (1 << 32 if word & 0x80000000 else 0)

        x = (x ^ signed(x) >> 16) * 0x7FEB352D & 0xFFFFFFFF ^ between & 0xFFFFFFFF
        return signed((x ^ signed(x) >> 15) * 0x846CA68B)

    key = Stochastic.of(7, "model.layers.0.weight").key
    found = uniform(key, 1000, (3, 20), torch.device("cpu"))
    for row in range(3):
        one = mix(1000 + row + key[0] & 0xFFFFFFFF, key[1])
        other = mix((one ^ key[1]) & 0xFFFFFFFF, key[0])
        for column in range(20):
            word = mix(one + column * 0x9E3779B9 & 0xFFFFFFFF, other)
            assert float(found[row, column]) == (word >> 8) / 2**24 + 0.5


def test_seed_and_name_give_other_bits() -> None:
    tile = torch.randn(50, 50, generator=torch.Generator().manual_seed(2))

    def rounded(seed: int, name: str) -> torch.Tensor:
        out = torch.empty(50, 50, dtype=torch.bfloat16)
        Stochastic.of(seed, name)(tile, 0, out)
        return out

    assert torch.equal(rounded(0, "a"), rounded(0, "a"))
    shares = [float((rounded(0, "a") == other).float().mean()) for other in (rounded(1, "a"), rounded(0, "b"))]
    assert all(0.5 < share < 0.8 for share in shares)  # two independent draws agree in 2/3 on average


@every_dtype
@pytest.mark.parametrize("height", [1, 7, 100])
def test_tiles_and_strips_change_no_bit(dtype: torch.dtype, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tile = torch.randn(200, 333, generator=torch.Generator().manual_seed(4)) * 0.02
    rounding, whole = Stochastic.of(9, "w"), torch.empty(200, 333, dtype=dtype)
    rounding(tile, 5000, whole)
    monkeypatch.setattr("ingot.kernels.rounding.STRIP_NBYTES", STRIP_NBYTES // 17)
    parts = torch.empty_like(whole)
    for first in reversed(range(0, 200, height)):
        rounding(tile[first : first + height].clone(), 5000 + first, parts[first : first + height])
    assert torch.equal(whole, parts)


def test_float32_is_not_rounded() -> None:
    tile, out = torch.randn(9, 9), torch.empty(9, 9)
    Stochastic.of(0, "w")(tile, 0, out)
    assert torch.equal(tile, out)
