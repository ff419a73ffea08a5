"""Rounding once and distances, against every number of the 16-bit dtypes."""

from __future__ import annotations

import pytest
import torch

from ingot.validate.weights.ulps import distance, half_ulp, rounded_once

HALVES = [torch.bfloat16, torch.float16]


def in_order(dtype: torch.dtype) -> torch.Tensor:
    """Every finite number of a 16-bit dtype from the lowest to the highest; zero once."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    values = bits.view(dtype)
    finite = values[torch.isfinite(values)].double()
    return finite.unique(sorted=True).to(dtype)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_value_beside_a_tie_goes_to_its_side_however_near_it_is(dtype: torch.dtype) -> None:
    numbers = in_order(dtype)
    low, high = numbers[:-1].double(), numbers[1:].double()
    tie = (low + high) / 2  # exact in float64
    above = torch.nextafter(tie, torch.tensor(torch.inf, dtype=torch.float64))
    below = torch.nextafter(tie, torch.tensor(-torch.inf, dtype=torch.float64))
    assert torch.equal(rounded_once(above, dtype).double(), high)
    assert torch.equal(rounded_once(below, dtype).double(), low)
    assert not torch.equal(above.to(dtype).double(), high)  # torch alone rounds twice: else this file is not needed
    even = torch.where(numbers[:-1].view(torch.int16) % 2 == 0, low, high)
    assert torch.equal(rounded_once(tie, dtype).double(), even)


@pytest.mark.parametrize("dtype", HALVES)
def test_numbers_of_the_dtype_stay_and_their_distance_is_the_count_of_steps(dtype: torch.dtype) -> None:
    numbers = in_order(dtype)
    assert torch.equal(rounded_once(numbers.double(), dtype), numbers)
    assert (distance(numbers[1:], numbers[:-1]) == 1).all()
    assert int(distance(numbers[:1], numbers[-1:])) == len(numbers) - 1


@pytest.mark.parametrize("dtype", HALVES)
def test_half_an_ulp_is_half_the_way_to_the_next_number(dtype: torch.dtype) -> None:
    numbers = in_order(dtype).double()
    positive = numbers[numbers >= 0]
    assert torch.equal(half_ulp(positive[:-1], dtype), (positive[1:] - positive[:-1]) / 2)


def test_zeros_of_both_signs_are_equal_and_wide_dtypes_do_not_overflow() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        zero, one = torch.tensor([0.0], dtype=dtype), torch.tensor([1.0], dtype=dtype)
        assert int(distance(zero, -zero)) == 0
        assert int(distance(one, torch.nextafter(one, zero))) == 1
        assert int(distance(-one, one)) > 1
    most = torch.tensor([torch.finfo(torch.float64).max], dtype=torch.float64)
    assert int(distance(-most, most)) == 2**62
    assert torch.equal(rounded_once(most, torch.float32), torch.tensor([torch.inf]))
