"""Groups, shares and the sentences about a poor fit, on figures that were worked out by hand."""

from __future__ import annotations

import pytest

from ingot.extract.fit import Fit
from ingot.extract.model import Budget
from ingot.extract.render import share
from ingot.extract.result import group_fits, warnings

FITS = (
    Fit("layers.0.q", 4, total=100.0, held=99.0, left=1.5, rounding=0.5, nbytes=10),
    Fit("layers.1.q", 4, total=300.0, held=150.0, left=150.0, rounding=59.5, nbytes=10),
    Fit("head", 2, total=1.0, held=1.0, left=0.0, rounding=0.0, nbytes=7),
)


def test_groups_differ_in_more_than_numbers() -> None:
    one, other = group_fits(FITS)
    assert (one.pattern, other.pattern) == ("layers.*.q", "head")
    assert one.energy == pytest.approx((0.99 + 0.5) / 2)
    assert one.worst.name == "layers.1.q"
    assert one.rounding == pytest.approx(60 / 400)
    assert one.left == pytest.approx((151.5 / 400) ** 0.5)
    assert (one.ranks, other.ranks, one.nbytes) == ((4, 4), (2, 2), 20)


def test_a_poor_fit_is_told_with_its_worst_module_and_what_rounding_has_to_do_with_it() -> None:
    (said,) = warnings(FITS, Budget.of(4, None, None), "bfloat16")
    assert said == (
        "1 of 3 modules hold less than 90% of their difference; the least is 50.0%, in layers.1.q. Take a higher "
        "--rank, or --save-module q. At least 20% of their difference is TUNED's rounding to bfloat16, which "
        "no low rank holds."
    )


def test_modules_that_miss_the_energy_are_counted() -> None:
    (said,) = warnings(FITS, Budget.of(None, 0.995, 4), "float32")
    assert said.startswith(
        "2 of 3 modules hold less than the 0.995 that was asked for, at the largest rank of 4; the l"
    )
    assert "Raise --max-rank" in said


def test_an_energy_that_was_reached_is_nothing_to_warn_of_however_low() -> None:
    assert warnings(FITS, Budget.of(None, 0.4, 4), "float32") == ()


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "100 %"), (0.99996, "99.9960 %"), (0.993, "99.30 %"), (0.9, "90.0 %"), (0.451, "45.1 %"), (0.0, "0.0 %")],
)
def test_a_share_shows_two_digits_of_what_is_missing(value: float, text: str) -> None:
    assert share(value) == text
