"""Axes: where values stand, and which ticks are round."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingot.validate.report.page.axes import SHAPES, Axis, decades, mark, percent
from ingot.validate.report.page.logits import bins


def test_values_stand_at_their_share_of_the_axis_and_at_its_ends_beyond() -> None:
    axis = Axis(-1, 3)
    assert [axis.across(value) for value in (-2, -1, 0, 3, 9)] == ["0%", "0%", "25%", "100%", "100%"]
    assert axis.up(0) == "75%"
    logarithmic = Axis(1e-4, 1.0, log=True)
    assert logarithmic.across(1e-2) == "50%"
    assert logarithmic.across(0.0) == "0%"


def test_ticks_are_round_and_inside() -> None:
    assert Axis(0, 1.1).ticks(5) == pytest.approx([0, 0.5, 1.0])
    assert Axis(-22.1, 2.2).ticks(4) == pytest.approx([-20, -10, 0])
    assert Axis(1e-7, 10, log=True).ticks(4) == pytest.approx([1e-7, 1e-5, 1e-3, 0.1, 10])


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_of_any_axis_are_few_and_inside(low: float, span: float) -> None:
    axis = Axis(low, low + span)
    ticks = axis.ticks(6)
    assert 1 <= len(ticks) <= 7
    assert all(axis.low - 1e-6 * span <= tick <= axis.high + 1e-6 * span for tick in ticks)


def test_decades_hold_the_positive_values_and_no_more_than_asked() -> None:
    axis = decades([0.0, 3e-5, 0.02, math.nan, math.inf, -1.0])
    assert (axis.low, axis.high) == pytest.approx((1e-5, 0.1))
    assert decades([1e-20, 0.5], most=8).low == pytest.approx(1e-8)
    assert decades([]).log


def test_every_finite_value_is_in_one_bar_or_below_the_axis() -> None:
    values = [0.0, 1e-9, 1e-5, 1.1e-5, 9.99e-2, 5.0, math.nan, math.inf]
    below, counts = bins(values, Axis(1e-5, 0.1, log=True))
    assert below == 2
    assert len(counts) == 16
    assert sum(counts) == 4
    assert (counts[0], counts[-1]) == (2, 2)


@given(st.floats(1e-5, 0.0999))
def test_a_value_is_in_the_bar_whose_edges_hold_it(value: float) -> None:
    _, counts = bins([value], Axis(1e-5, 0.1, log=True))
    bar = counts.index(1)
    assert 1e-5 * 10 ** (bar / 4) <= value * (1 + 1e-6)
    assert value <= 1e-5 * 10 ** ((bar + 1) / 4) * (1 + 1e-6)


def test_percentages_are_short() -> None:
    assert [percent(share) for share in (0, 0.5, 1 / 3, 1)] == ["0%", "50%", "33.33%", "100%"]


def test_marks_differ_in_shape_and_colour_alike() -> None:
    assert len(set(SHAPES)) == len(SHAPES) == 8
    assert mark(9, "1%", "2%") == '<use href="#mark-1" x="1%" y="2%" class="series-1"></use>'
