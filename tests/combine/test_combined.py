"""Each method against its paper's formula in float64, on tiles that are ragged and values that are equal."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from peft.utils import merge_utils

from ingot.adapters.dora import Dora
from ingot.adapters.terms import Add, Needs, Term
from ingot.combine.combined import Combined, Contribution
from ingot.combine.parameters import Combination, Method
from ingot.errors import MismatchError
from tests.combine import reference
from tests.combine.toys import Bench

METHODS = [str(method) for method in Method if not method.exact and method is not Method.SCE]
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "sparse": {"density": 0.2},
    "one in many": {"density": 0.0001},
    "all": {"density": 1.0},
    "scaled": {"density": 0.7, "scale": -1.5},
}
OWN: dict[str, dict[str, Any]] = {
    "breadcrumbs": {"density": 0.3, "gamma": 0.2},
    "breadcrumbs_ties": {"density": 0.6, "gamma": 0.4},
    "della": {"density": 0.4, "epsilon": 0.3},
    "della_linear": {"density": 0.4, "epsilon": 0.0},
}
#: Where chance divides by the density: shares whose inverse is exact, so that values which cancel do so in float32 too.
CHANCE: dict[str, dict[str, Any]] = {
    **SETTINGS, "sparse": {"density": 0.25}, "one in many": {"density": 2**-5}, "scaled": {"scale": -1.5}
}  # fmt: skip


@pytest.fixture(params=[64, 1 << 19], ids=["ragged tiles", "one tile"])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingot.kernels.grid.TILE_ELEMENTS", request.param)


def chances(bench: Bench, count: int, seed: int) -> list[np.ndarray]:
    return [reference.draws(seed, "w", number, (bench.rows, bench.columns)) for number in range(count)]


def check(bench: Bench, method: str, weights: list[float], seed: int = 3, **how: Any) -> None:
    terms: list[Any] = [bench.lora(number, rank=2 + number) for number in range(len(weights))]
    found = bench.added(bench.combined(method, list(terms), weights, seed, **how))
    frequency = how.pop("majority", "total") == "frequency"
    deltas = [bench.delta(term) for term in terms]
    expected = reference.combined(
        method, deltas, weights, frequency=frequency, chances=chances(bench, len(weights), seed), **how
    )
    np.testing.assert_allclose(found, expected, atol=2e-6 * max(1.0, np.abs(expected).max()), rtol=1e-5)
    assert np.abs(expected).max() > 0


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("weights", [[0.5], [0.75, 0.25], [1.0, -0.5], [0.5, 2.0, -1.0]], ids=str)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("tiles")
def test_a_method_is_its_formula_where_values_are_equal(method: str, weights: list[float], setting: str) -> None:
    how = (CHANCE if Method(method).by_chance else SETTINGS)[setting]
    if method.startswith("della"):
        density = how.get("density", 0.5)
        how = how | {"epsilon": min(0.15, density / 2, 1 - density)}
    check(Bench(19, 23, whole=True, seed=len(weights)), method, weights, **how)


@pytest.mark.parametrize("weights", [[0.75, 0.25], [0.3, -0.4, 1.1]], ids=str)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("tiles")
def test_a_method_is_its_formula_on_any_values(method: str, weights: list[float]) -> None:
    check(Bench(31, 17, seed=1), method, weights, density=0.4, **({"epsilon": 0.15} if "della" in method else {}))


@pytest.mark.parametrize("method", OWN)
@pytest.mark.usefixtures("tiles")
def test_a_method_s_own_numbers(method: str) -> None:
    check(Bench(19, 23, whole=True, seed=7), method, [1.0, 0.5], **OWN[method])


@pytest.mark.parametrize("weights", [[1.0, 1.0], [0.5, 2.0, -1.0], [1.0, 0.5, 0.25]], ids=str)
@pytest.mark.parametrize("method", [method for method in METHODS if Method(method).elects])
def test_signs_are_elected_by_their_number_where_that_is_asked_for(method: str, weights: list[float]) -> None:
    how = {"epsilon": 0.15} if method == "della" else {}
    check(Bench(19, 23, whole=True, seed=2), method, weights, majority="frequency", **how)


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.usefixtures("tiles")
def test_sce_selects_by_variance_and_weighs_by_energy(density: float, count: int, whole: bool) -> None:
    bench = Bench(19, 23, whole=whole, seed=count)
    terms: list[Any] = [bench.lora(number, scaling=1 + number) for number in range(count)]
    found = bench.added(bench.combined("sce", list(terms), [1.0] * count, density=density, scale=0.5))
    expected = reference.combined("sce", [bench.delta(term) for term in terms], [], density=density, scale=0.5)
    np.testing.assert_allclose(found, expected, atol=3e-6, rtol=1e-5)


def test_an_adapter_that_leaves_a_tensor_alone_takes_part_in_the_variance() -> None:
    bench = Bench(19, 23, whole=True)
    term = bench.lora(0)
    parts = (Contribution(0, 1.0, (bench.everywhere(term),)),)
    combined = Combined(Combination(Method.SCE, 0.3), parts, (19, 23), "w", 0, 3)
    expected = reference.combined("sce", [bench.delta(term)], [], density=0.3, adapters=3)
    np.testing.assert_allclose(bench.added(combined), expected, atol=1e-6)


@pytest.mark.parametrize("weights", [[0.25], [0.75, -0.5]], ids=str)
@pytest.mark.usefixtures("tiles")
def test_linear_adds_what_each_makes_of_the_same_weight(weights: list[float]) -> None:
    bench = Bench(19, 23)
    terms = [Dora(bench.lora(n), bench.factor(n, 19)) for n in range(len(weights))]
    found = bench.added(bench.combined("linear", list(terms), weights))
    expected = reference.combined("linear", [dora_delta(bench, term) for term in terms], weights)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def dora_delta(bench: Bench, term: Dora) -> np.ndarray:
    moved = bench.weight.double().numpy() + bench.delta(term.update)
    norm = np.linalg.norm(moved, axis=term.axis, keepdims=True)
    magnitude = bench.values(term.magnitude)
    return (magnitude[:, None] if term.axis == 1 else magnitude) / norm * moved - bench.weight.double().numpy()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("method", ["ties", "dare_linear", "breadcrumbs", "della", "sce"])
@pytest.mark.usefixtures("tiles")
def test_changes_that_depend_on_the_weight_are_deltas_like_others(method: str, axis: int) -> None:
    bench = Bench(19, 23, seed=4)
    dora = Dora(bench.lora(0), bench.factor(0, 19 if axis else 23), axis)
    lora = bench.lora(1)
    found = bench.added(bench.combined(method, [dora, lora], [1.0, 1.0], 3, density=0.3))
    expected = reference.combined(
        method, [dora_delta(bench, dora), bench.delta(lora)], [1.0, 1.0], density=0.3, chances=chances(bench, 2, 3)
    )
    np.testing.assert_allclose(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.usefixtures("tiles")
def test_an_adapter_may_change_blocks_of_a_tensor_in_several_steps() -> None:
    """A fused projection: two modules in one tensor, of which one is changed twice."""
    bench = Bench(20, 23, whole=True)
    upper, lower = bench.lora(0).part((0, 7), (0, 23)), bench.lora(0).part((7, 20), (3, 23))
    bias = Add(bench.factor(0, 20, 23), 0.5)
    dora = Dora(bench.lora(1).part((7, 20), (0, 23)), bench.factor(1, 13))
    first = Contribution(
        0,
        1.0,
        (
            bench.everywhere(bias),
            type(bench.everywhere(bias))(upper, (0, 7), (0, 23)),
            type(bench.everywhere(bias))(lower, (7, 20), (3, 23)),
        ),
    )
    second = Contribution(1, 0.5, (type(bench.everywhere(bias))(dora, (7, 20), (0, 23)),))
    combined = Combined(Combination(Method.MAGNITUDE_PRUNE, 0.5), (first, second), (20, 23), "w", 0, 2)
    one = bias.scaling * bench.values(bias.values)
    one[:7] += bench.delta(upper)
    one[7:, 3:] += bench.delta(lower)
    two = np.zeros((20, 23))
    moved = bench.weight.double().numpy()[7:] + bench.delta(dora.update)
    two[7:] = bench.values(dora.magnitude)[:, None] / np.linalg.norm(moved, axis=1, keepdims=True) * moved
    two[7:] -= bench.weight.double().numpy()[7:]
    expected = reference.combined("magnitude_prune", [one, two], [1.0, 0.5])
    np.testing.assert_allclose(bench.added(combined), expected, atol=1e-5)


@pytest.mark.parametrize(("majority", "density"), [("total", 0.3), ("total", 1.0), ("frequency", 1.0)])
def test_ties_with_equal_weights_is_what_pefts_function_makes_of_full_deltas(majority: Any, density: float) -> None:
    bench = Bench(31, 17, seed=6)
    terms: list[Any] = [bench.lora(number, rank=2 + number) for number in range(3)]
    deltas = [torch.from_numpy(bench.delta(term)) for term in terms]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a density of 1
        expected = merge_utils.ties(deltas, torch.ones(3), density, majority)
    found = bench.added(bench.combined("ties", terms, [1.0] * 3, density=density, majority=majority))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_a_negative_weight_turns_an_update_around_also_where_signs_are_elected() -> None:
    bench = Bench(19, 23, whole=True)
    term = bench.lora(0)
    plus, minus = (bench.added(bench.combined("ties", [term], [weight])) for weight in (1.0, -1.0))
    assert np.abs(plus).max() > 0
    assert (plus == -minus).all()


@pytest.mark.parametrize("method", METHODS)
def test_where_all_is_kept_of_one_adapter_its_update_is_the_result(method: str) -> None:
    bench = Bench(19, 23, whole=True)
    term = bench.lora(0)
    found = bench.added(bench.combined(method, [term], [1.0], density=1.0))
    np.testing.assert_allclose(found, bench.delta(term), atol=1e-6)


@pytest.mark.parametrize("method", ["dare_linear", "della_linear"])
def test_chance_keeps_the_share_and_the_expectation(method: str) -> None:
    bench = Bench(400, 300, seed=9)
    term = bench.lora(0)
    delta, found = bench.delta(term), bench.added(bench.combined(method, [term], [1.0], density=0.3))
    assert (found != 0).mean() == pytest.approx(0.3, abs=0.01)
    assert (found * delta).sum() / (delta * delta).sum() == pytest.approx(1, abs=0.02)
    if method == "della_linear":
        sizes = np.abs(delta)
        large = sizes > np.median(sizes, axis=1, keepdims=True)
        assert (found != 0)[large].mean() > (found != 0)[~large].mean() + 0.1


def test_each_adapter_seed_and_name_has_chances_of_its_own() -> None:
    bench = Bench(60, 50)
    term = bench.lora(0)

    def pattern(seed: int = 0, tensor: str = "w", adapter: int = 0) -> bytes:
        part = Contribution(adapter, 1.0, (bench.everywhere(term),))
        combined = Combined(Combination(Method.DARE_LINEAR, 0.5), (part,), (60, 50), tensor, seed, 2)
        return (bench.added(combined) != 0).tobytes()

    patterns = {pattern(), pattern(seed=1), pattern(tensor="v"), pattern(adapter=1)}
    assert len(patterns) == 4
    assert pattern() in patterns


NEEDS: list[tuple[Callable[[Bench], list[Term]], str, Needs]] = [
    (lambda b: [b.lora(0), b.lora(1)], "ties", Needs.TILES),
    (lambda b: [b.lora(0), b.lora(1)], "dare_ties", Needs.TILE),
    (lambda b: [Dora(b.lora(0), b.factor(0, b.rows))], "linear", Needs.TILE),
]


@pytest.mark.parametrize(("terms", "method", "needs"), NEEDS)
def test_it_says_what_it_must_see_and_what_it_does(
    terms: Callable[[Bench], list[Term]], method: str, needs: Needs
) -> None:
    bench = Bench(8, 6)
    made = terms(bench)
    combined = bench.combined(method, made, [0.5] * len(made))
    assert combined.needs is needs
    assert combined.flops() >= sum(term.flops() for term in made)
    assert all(word in combined.formula for word in ("Δ1", made[0].formula))
    assert {factor.adapter for factor in combined.factors()} == set(range(len(made)))
    with pytest.raises(MismatchError):
        combined.transposed()
    with pytest.raises(MismatchError):
        combined.part((0, 4), (0, 6))
    assert combined.part((0, 8), (0, 6)) is combined


def test_the_sum_is_in_the_dtype_of_the_tile() -> None:
    bench = Bench(8, 6)
    bench.tensors = {}
    term = Dora(bench.lora(0), bench.factor(0, 8))
    combined = bench.combined("linear", [term], [0.5])
    wide = bench.weight.double()

    def load(factor: Any) -> torch.Tensor:
        return bench.load(factor).double()

    change = combined.prepare(load, lambda *_: iter([(0, wide.clone())]))  # type: ignore[arg-type]
    result = wide.clone()
    change(result, 0)
    np.testing.assert_allclose((result - wide).numpy(), 0.5 * dora_delta(bench, term), atol=1e-14)
