"""A request becomes numbers, or a refusal that says what is wrong with it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ingot.combine.parameters import DENSITY, EPSILON, GAMMA, Combination, Majority, Method, combination
from ingot.errors import UsageError


def test_each_method_has_its_own_numbers_where_none_are_given() -> None:
    assert combination("linear", [0.7, 0.3]) == Combination(Method.LINEAR)
    assert combination("ties", [1, 1]) == Combination(Method.TIES, DENSITY)
    assert combination("breadcrumbs", [1, 1]) == Combination(Method.BREADCRUMBS, DENSITY, gamma=GAMMA)
    assert combination("della", [1, 1]) == Combination(Method.DELLA, DENSITY, epsilon=EPSILON)
    assert combination("sce", [1, 1], density=0.1, scale=2.0) == Combination(Method.SCE, 0.1, 2.0)
    assert combination("dare_ties", [1], majority="frequency").majority is Majority.FREQUENCY


@pytest.mark.parametrize(("density", "epsilon", "gamma"), [(0.9, 0.1, 0.01), (0.1, 0.05, 0.01), (1.0, 0.0, 0.0)])
def test_numbers_that_were_not_given_fit_the_density(density: float, epsilon: float, gamma: float) -> None:
    assert combination("della", [1], density=density).epsilon == pytest.approx(epsilon)
    assert combination("breadcrumbs", [1], density=density).gamma == pytest.approx(gamma)


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("mean", {}, "no such method"),
    ("ties", {"majority": "all"}, "no such majority"),
    ("linear", {"density": 0.5}, "linear does not use --density"),
    ("sequential", {"scale": 0.5}, "sequential does not use --lambda"),
    ("linear", {"gamma": 0.1}, "does not use --gamma"),
    ("ties", {"epsilon": 0.1}, "does not use --epsilon"),
    ("ties", {"gamma": 0.1}, "does not use --gamma"),
    ("dare_linear", {"majority": "frequency"}, "does not use --majority-sign"),
    ("sce", {"majority": "frequency"}, "does not use --majority-sign"),
    ("ties", {"scale": math.nan}, "--lambda"),
    ("ties", {"scale": 0.0}, "--lambda"),
    ("ties", {"scale": math.inf}, "--lambda"),
    *(("ties", {"density": wrong}, "--density is out of its range") for wrong in (0.0, -0.1, 1.1, math.nan, math.inf)),
    *(("breadcrumbs", {"gamma": wrong}, "--gamma is out of its range") for wrong in (-0.1, 0.6, math.nan)),
    *(("della", {"epsilon": wrong}, "--epsilon is out of its range") for wrong in (-0.1, 0.5, 0.6, math.nan)),
    ("della", {"density": 0.9, "epsilon": 0.2}, "--epsilon is out of its range"),
]


@pytest.mark.parametrize(("method", "how", "message"), WRONG, ids=str)
def test_what_makes_no_sense_is_refused_with_a_way_out(method: str, how: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        combination(method, [1.0, 1.0], **how)
    assert refused.value.hint or refused.value.expected


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf, 0.0])
def test_a_weight_is_a_finite_number_that_does_something(weight: float) -> None:
    with pytest.raises(UsageError, match="weight of an adapter"):
        combination("linear", [1.0, weight])


@pytest.mark.parametrize("density", [0.1, 0.2, 0.3, 0.6, 0.7, 0.8, 0.9])
def test_all_that_the_density_leaves_may_be_asked_for(density: float) -> None:
    assert combination("breadcrumbs", [1], density=density, gamma=round(1 - density, 1)).gamma == round(1 - density, 1)
    assert combination("della", [1], density=density, epsilon=min(round(1 - density, 1), density / 2)).epsilon > 0


def test_sce_takes_several_adapters_and_no_weights() -> None:
    with pytest.raises(UsageError, match="only one was named"):
        combination("sce", [1.0])
    with pytest.raises(UsageError, match="finds the weights of the adapters itself"):
        combination("sce", [1.0, 0.5])


def test_one_adapter_may_be_thinned_out() -> None:
    assert combination("ties", [0.5], density=0.2).density == 0.2
