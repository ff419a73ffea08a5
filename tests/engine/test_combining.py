"""Whole merges of several adapters: the same bytes however they are cut, resumed or computed again."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ingot.combine.parameters import Method
from ingot.engine import chunk as chunk_module
from ingot.engine.outcome import Outcome
from ingot.errors import Interrupted
from ingot.merge import prepare
from ingot.plan.model import Options, Plan
from ingot.record import verify
from ingot.storage.digest_memory import DigestMemory
from tests import toy
from tests.combine import reference
from tests.engine.test_run import bytes_of, weights_of

METHODS = [str(method) for method in Method]
every_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A float32 base, beside it the adapters `one`, `two` and `dora`, and a place for the output."""
    toy.make_base(tmp_path / "base", torch.float32)
    toy.make_adapter(tmp_path / "one", seed=1)
    toy.make_adapter(tmp_path / "two", seed=2, rank=7)
    make_dora(tmp_path / "dora")
    return tmp_path, tmp_path / "out"


def make_dora(target: Path) -> None:
    tensors = toy.make_adapter(target, seed=3, rank=2)
    generator = torch.Generator().manual_seed(4)
    for path, (out, _) in toy.MODULES.items():
        tensors[f"base_model.model.{path}.lora_magnitude_vector"] = torch.rand(out, generator=generator) + 0.2
    settings = {"r": 2, "lora_alpha": 4, "target_modules": ["up", "down"], "use_dora": True}
    toy.write_adapter(target, tensors, settings)


def weights_for(method: str, *weights: float) -> tuple[float, ...]:
    return tuple(1.0 for _ in weights) if method == "sce" else weights


def merge(
    root: Path, out: Path, adapters: Mapping[str, float], *, jobs: int = 2, options: Options | None = None, **how: Any
) -> Outcome:
    named = [(str(root / name), weight) for name, weight in adapters.items()]
    with prepare(str(root / "base"), named, options, target=out, jobs=jobs) as job:
        return job.run(memory=DigestMemory(out.parent / "memory"), **how)


def plan_of(root: Path, adapters: Mapping[str, float], options: Options) -> Plan:
    with prepare(str(root / "base"), [(str(root / name), weight) for name, weight in adapters.items()], options) as job:
        return job.plan


@every_method
def test_every_tensor_is_the_papers_formula_of_its_own_deltas(places: tuple[Path, Path], method: str) -> None:
    root, out = places
    weights = weights_for(method, 0.7, -0.4)
    merge(root, out, dict(zip(("one", "two"), weights, strict=True)), options=Options(method=method, seed=5))
    base, found = weights_of(root / "base"), weights_of(out)
    for path, shape in toy.MODULES.items():
        name = f"{path}.weight"
        deltas = [lora_delta(root / adapter, path) for adapter in ("one", "two")]
        chances = [reference.draws(5, name, number, shape) for number in range(2)]
        expected = base[name].double().numpy() + reference.combined(method, deltas, weights, chances=chances)
        # where float32 and float64 decide otherwise of one element, it is off by far more
        off = np.abs(found[name].double().numpy() - expected) > 1e-6
        assert off.sum() <= 1, path
    assert found.keys() == base.keys()
    assert torch.equal(found["norm.weight"], base["norm.weight"])


def lora_delta(adapter: Path, path: str) -> np.ndarray:
    tensors = weights_of(adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    a, b = (tensors[f"base_model.model.{path}.lora_{side}.weight"].double().numpy() for side in "AB")
    return config["lora_alpha"] / config["r"] * b @ a


@every_method
@pytest.mark.parametrize("tile_elements", [1000, 1 << 19])
def test_chunks_and_workers_change_no_bit(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, method: str, tile_elements: int
) -> None:
    root, out = places
    adapters = dict(zip(("one", "dora"), weights_for(method, 0.7, 0.3), strict=True))
    options = Options(method=method, dtype="BF16", rounding="preserve")
    monkeypatch.setattr("ingot.kernels.grid.TILE_ELEMENTS", tile_elements)
    merge(root, out, adapters, jobs=1, options=options)
    monkeypatch.setattr(chunk_module, "CHUNK_NBYTES", 4096)
    monkeypatch.setattr("ingot.engine.changes.KEPT_NBYTES", 1)  # every term is prepared anew
    merge(root, out.with_name("again"), adapters, jobs=5, options=options)
    assert bytes_of(out) == bytes_of(out.with_name("again"))


@pytest.mark.parametrize("method", ["ties", "dare_linear", "linear"])
def test_a_resumed_run_has_the_same_bytes(places: tuple[Path, Path], method: str) -> None:
    root, out = places
    options, adapters = Options(method=method), {"one": 0.7, "dora": 0.3}
    merge(root, out, adapters, options=options)
    stop, again, written = threading.Event(), out.with_name("again"), []

    def stop_in_the_second_shard(nbytes: int) -> None:
        written.append(nbytes)
        if len(written) == 2:
            stop.set()

    with pytest.raises(Interrupted):
        merge(root, again, adapters, jobs=1, stop=stop, progress=stop_in_the_second_shard, options=options)
    assert merge(root, again, adapters, options=options).resumed[0] == "model-00001-of-00003.safetensors"
    assert bytes_of(out) == bytes_of(again)


@every_method
def test_what_was_combined_can_be_computed_again(places: tuple[Path, Path], method: str) -> None:
    root, out = places
    adapters = dict(zip(("one", "dora"), weights_for(method, 0.7, 0.3), strict=True))
    merge(root, out, adapters, options=Options(method=method, seed=4, dtype="BF16", rounding="stochastic"))
    found = verify(
        out, depth="against-inputs", base=str(root / "base"), adapters=[str(root / name) for name in adapters]
    )
    assert [check.detail for check in found.failures] == []
    assert "recomputed" in {check.name for check in found.checks}


@pytest.mark.parametrize(("first", "second"), [("one", "dora"), ("dora", "one"), ("one", "two")])
def test_sequential_is_one_merge_after_the_other(places: tuple[Path, Path], first: str, second: str) -> None:
    root, out = places
    merge(root, out, {first: 0.5, second: 1.0}, options=Options(method="sequential"))
    merge(root, root / "half", {first: 0.5})
    with prepare(str(root / "half"), [(str(root / second), 1.0)], target=root / "whole") as job:
        job.run()
    one, other = weights_of(out), weights_of(root / "whole")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_order_matters_where_adapters_follow_one_another(places: tuple[Path, Path]) -> None:
    root, out = places
    options = Options(method="sequential")
    merge(root, out, {"one": 1.0, "dora": 1.0}, options=options)
    merge(root, out.with_name("other"), {"dora": 1.0, "one": 1.0}, options=options)
    one, other = weights_of(out), weights_of(out.with_name("other"))
    assert not torch.allclose(one["block.1.up.weight"], other["block.1.up.weight"], rtol=0.1)


def test_linear_of_what_only_adds_has_the_bytes_it_always_had(places: tuple[Path, Path]) -> None:
    """One tile with all terms in it, each added with its weight; here again by hand."""
    root, out = places
    merge(root, out, {"one": 0.7, "two": -0.3}, options=Options(method="linear"))
    base, found = weights_of(root / "base"), weights_of(out)
    for path in toy.MODULES:
        expected = base[f"{path}.weight"].clone()
        for adapter, weight in (("one", 0.7), ("two", -0.3)):
            tensors = weights_of(root / adapter)
            a, b = (tensors[f"base_model.model.{path}.lora_{side}.weight"] for side in "AB")
            expected.addmm_(b, a, alpha=2.0 * weight)
        assert torch.equal(found[f"{path}.weight"], expected)


def test_the_seed_is_part_of_the_plan_where_chance_decides(places: tuple[Path, Path]) -> None:
    root, _ = places
    adapters = {"one": 0.5, "two": 0.5}

    def terms(method: str, seed: int) -> object:
        return [op.terms for op in plan_of(root, adapters, Options(method=method, seed=seed)).ops]

    assert terms("dare_ties", 0) != terms("dare_ties", 1)
    assert terms("ties", 0) == terms("ties", 1)


def test_every_number_is_part_of_the_plan_s_digest(places: tuple[Path, Path]) -> None:
    root, _ = places
    adapters = {"one": 0.5, "two": 0.5}
    options = [
        Options(),
        Options(method="ties"),
        Options(method="ties", density=0.4),
        Options(method="ties", lambda_=0.5),
        Options(method="ties", majority_sign="frequency"),
        Options(method="breadcrumbs"),
        Options(method="breadcrumbs", gamma=0.2),
        Options(method="della"),
        Options(method="della", epsilon=0.2),
        Options(take=(1,)),
    ]
    assert len({plan_of(root, adapters, one).digest for one in options}) == len(options)


@pytest.mark.parametrize(("method", "seed"), [("ties", None), ("della", 7)])
def test_record_table_and_card_tell_how_adapters_were_combined(
    places: tuple[Path, Path], method: str, seed: int | None
) -> None:
    root, out = places
    options = Options(method=method, density=0.25, lambda_=0.5, majority_sign="frequency", seed=7, take=(2,))
    merge(root, out, {"one": 0.7, "two": 0.3}, options=options)
    build: Any = json.loads((out / "ingot.json").read_bytes())["predicate"]["buildDefinition"]
    asked = build["externalParameters"]["options"]
    assert (asked["method"], asked["density"], asked["lambda_"], asked["take"]) == (method, 0.25, 0.5, [2])
    assert build["internalParameters"]["seed"] == seed
    rows = [json.loads(line) for line in (out / "ingot.tensors.jsonl").read_text().splitlines()]
    formulas = {formula for row in rows for formula in row.get("formulas", ())}
    assert formulas == {f"W + λ·{method}(Δ1, Δ2), Δ of W + s·B@A"}
    card = (out / "README.md").read_text()
    assert f"combined by {method} in float32" in card
    assert f"--method {method} --density 0.25 --lambda 0.5 --majority-sign frequency --take 2" in card


def test_a_small_update_is_seen_also_where_adapters_are_combined(tmp_path: Path) -> None:
    toy.make_base(tmp_path / "base")
    for seed, name in enumerate(("one", "two")):
        toy.make_adapter(tmp_path / name, seed=seed, scale=0.003)
    adapters = {"one": 1.0, "two": 1.0}
    assert any("loses a part" in warning for warning in plan_of(tmp_path, adapters, Options(method="ties")).warnings)
    chosen = plan_of(tmp_path, adapters, Options(method="ties", rounding="auto"))
    assert {op.rounding for op in chosen.ops if op.terms} == {"stochastic"}


def test_the_budget_holds_what_combining_takes(places: tuple[Path, Path]) -> None:
    root, _ = places
    adapters = {"one": 1.0, "two": 1.0}
    plain, combined = (plan_of(root, adapters, Options(method=method)).budget for method in ("linear", "ties"))
    assert plain is not None
    assert combined is not None
    assert combined.peak_memory_nbytes > plain.peak_memory_nbytes
    assert combined.flops > plain.flops
