"""Figures of interference against dense deltas in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ingot.combine.apart import apart
from ingot.engine.interference import PLACES, ROWS
from ingot.merge import prepare
from ingot.plan.interference import GroupInterference, Interference
from ingot.plan.model import Options
from tests import toy
from tests.engine.test_combining import lora_delta, make_dora
from tests.engine.test_run import weights_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    toy.make_base(tmp_path / "base", torch.float32)
    toy.make_adapter(tmp_path / "one", seed=1)
    toy.make_adapter(tmp_path / "two", seed=2, rank=7)
    make_dora(tmp_path / "dora")
    return tmp_path


def measured(root: Path, adapters: dict[str, float], options: Options | None = None) -> Interference:
    named = [(str(root / name), weight) for name, weight in adapters.items()]
    with prepare(str(root / "base"), named, options) as job:
        return job.interference()


def group_of(found: Interference, path: str) -> GroupInterference:
    return next(group for group in found.groups if group.pattern == f"{path}.weight")


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))


def seen(matrix: np.ndarray) -> np.ndarray:
    """The rows that are looked at."""
    if len(matrix) <= PLACES * ROWS:
        return matrix
    starts = [(2 * place + 1) * len(matrix) // (2 * PLACES) - ROWS // 2 for place in range(PLACES)]
    return np.concatenate([matrix[start : start + ROWS] for start in starts])


@pytest.mark.parametrize("method", ["linear", "ties", "sequential", "dare_linear"])
def test_of_products_cosine_and_size_are_exact_whatever_the_method(root: Path, method: str) -> None:
    found = measured(root, {"one": 0.7, "two": -0.5}, Options(method=method))
    base = weights_of(root / "base")
    assert found.alone == 0
    for path in toy.MODULES:
        group = group_of(found, path)
        one, two = 0.7 * lora_delta(root / "one", path), -0.5 * lora_delta(root / "two", path)
        weight = base[f"{path}.weight"].double().numpy()
        (pair,) = group.pairs
        assert (group.count, group.looked, group.exact, pair.adapters) == (1, 1, True, (0, 1))
        assert pair.cosine == pytest.approx(cosine(one, two), abs=1e-6)
        rms_of_weight = np.sqrt(np.square(seen(weight)).mean())
        for number, delta in enumerate((one, two)):
            assert group.sizes[number] == pytest.approx(np.sqrt(np.square(delta).mean()) / rms_of_weight, rel=1e-5)
        against = np.sign(seen(one)) * np.sign(seen(two)) < 0
        assert pair.conflicts == pytest.approx(against.mean(), abs=1e-3)


def test_what_is_no_product_is_seen_in_some_rows(root: Path) -> None:
    base = weights_of(root / "base")
    group = group_of(measured(root, {"one": 1.0, "dora": 0.5}), "block.1.up")
    weight = base["block.1.up.weight"].double().numpy()
    with prepare(str(root / "base"), [(str(root / "dora"), 1.0)], target=root / "merged") as job:
        job.run()
    dora = weights_of(root / "merged")["block.1.up.weight"].double().numpy() - weight
    one = lora_delta(root / "one", "block.1.up")
    (pair,) = group.pairs
    assert not group.exact
    assert pair.shared is None
    assert pair.cosine == pytest.approx(cosine(seen(one), seen(dora)), abs=1e-4)
    assert group.sizes[1] == pytest.approx(0.5 * np.linalg.norm(seen(dora)) / np.linalg.norm(seen(weight)), rel=1e-4)


def test_three_adapters_are_compared_in_pairs(root: Path) -> None:
    group = group_of(measured(root, {"one": 1.0, "two": 1.0, "dora": 1.0}), "block.0.up")
    assert [pair.adapters for pair in group.pairs] == [(0, 1), (0, 2), (1, 2)]
    assert group.sizes.keys() == {0, 1, 2}


def test_the_same_adapter_twice_says_the_same_and_turned_around_the_contrary(root: Path) -> None:
    for weight, expected, conflicts in ((2.0, 1.0, 0.0), (-1.0, -1.0, 1.0)):
        for group in measured(root, {"one": 1.0, "one/../one": weight}).groups:
            (pair,) = group.pairs
            assert pair.cosine == pytest.approx(expected)
            assert pair.conflicts == conflicts
            assert pair.shared == pytest.approx(1.0)


def test_tensors_that_one_adapter_changes_alone_are_only_counted(root: Path) -> None:
    tensors = weights_of(root / "two")
    kept = {name: tensor for name, tensor in tensors.items() if "block.1" in name}
    toy.write_adapter(root / "some", kept, {"r": 7, "lora_alpha": 14, "target_modules": [r"1.up", "1.down"]})
    found = measured(root, {"one": 1.0, "some": 1.0})
    assert found.alone == 2
    assert {group.pattern for group in found.groups} == {"block.1.up.weight", "block.1.down.weight"}


def test_shared_inputs_are_the_cosine_of_what_both_do_to_inputs(root: Path) -> None:
    found = measured(root, {"one": 0.5, "two": -2.0})
    for path in toy.MODULES:
        (pair,) = group_of(found, path).pairs
        grams = [delta.T @ delta for delta in (lora_delta(root / name, path) for name in ("one", "two"))]
        norms = np.linalg.norm(grams[0]) * np.linalg.norm(grams[1])
        assert pair.shared == pytest.approx((grams[0] * grams[1]).sum() / norms, abs=1e-6)
        turned = [np.linalg.qr(np.random.default_rng(seed).normal(size=grams[0].shape))[0] for seed in range(40)]
        by_chance = np.mean([(grams[0] * (q @ grams[1] @ q.T)).sum() / norms for q in turned])
        assert pair.by_chance == pytest.approx(by_chance, rel=0.15)


def test_the_terms_of_a_plan_are_taken_apart_by_adapter(root: Path) -> None:
    names = {"one": 0.5, "dora": 1.0, "two": 2.0}
    for method, weights in (("linear", (0.5, 1.0, 2.0)), ("ties", (0.5, 1.0, 2.0)), ("sequential", (1.0, 1.0, 1.0))):
        with prepare(str(root / "base"), [(str(root / n), w) for n, w in names.items()], Options(method=method)) as job:
            for op in job.plan.ops:
                base, parts = apart(op.terms)
                assert base == ()
                assert [part.adapter for part in parts] == ([0, 1, 2] if op.terms else [])
                assert tuple(part.weight for part in parts) == (weights if op.terms else ())
