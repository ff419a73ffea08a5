"""What several adapters bring whole: one alone, the same values, different rows, or a named choice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ingot.adapters.terms import Replace, ReplaceRows
from ingot.combine.combined import Combined
from ingot.errors import MismatchError, UsageError
from ingot.merge import prepare
from ingot.plan.model import Options, Plan
from tests import toy
from tests.engine.test_run import weights_of
from tests.oracle.cases import Case
from tests.oracle.reference import Workshop, adapter_tensors, load_output, merged, write_adapter

NORM = "base_model.model.norm.weight"
UP = "block.0.up"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    toy.make_base(tmp_path / "base", torch.float32)
    return tmp_path


def make(root: Path, name: str, *, norm: float | None = None, lora: str | None = UP, seed: int = 1) -> str:
    """An adapter with a LoRA on one module, and with a trained norm."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    if lora:
        rows, columns = toy.MODULES[lora]
        tensors[f"base_model.model.{lora}.lora_A.weight"] = torch.randn(2, columns, generator=generator)
        tensors[f"base_model.model.{lora}.lora_B.weight"] = torch.randn(rows, 2, generator=generator)
    if norm is not None:
        tensors[NORM] = torch.full((70,), norm)
    targets = [lora] if lora else ["nothing"]
    saved = ["norm"] if norm is not None else None
    config = {"r": 2, "lora_alpha": 2, "target_modules": targets, "modules_to_save": saved}
    toy.write_adapter(root / name, tensors, config)
    return str(root / name)


def plan_of(root: Path, adapters: list[tuple[str, float]], **options: Any) -> Plan:
    with prepare(str(root / "base"), adapters, Options(**options)) as job:
        return job.plan


def norm_of(root: Path, adapters: list[tuple[str, float]], **options: Any) -> float:
    out = root / f"out{len(list(root.iterdir()))}"
    with prepare(str(root / "base"), adapters, Options(**options), target=out) as job:
        job.run()
    values = weights_of(out)["norm.weight"]
    assert len(set(values.tolist())) == 1
    return float(values[0])


@pytest.mark.parametrize("method", ["linear", "ties", "sequential", "sce"])
def test_what_one_adapter_alone_brings_whole_is_taken_whatever_the_method(root: Path, method: str) -> None:
    adapters = [(make(root, "a", norm=2.0), 1.0), (make(root, "b", seed=2), 1.0)]
    assert norm_of(root, adapters, method=method) == 2.0
    plan = plan_of(root, adapters, method=method)
    (term,) = next(op.terms for op in plan.ops if op.name == "norm.weight")
    assert isinstance(term.term, Replace)


@pytest.mark.parametrize("method", ["linear", "ties", "sequential"])
def test_two_that_bring_the_same_tensor_are_an_error_that_names_them_and_the_way_out(root: Path, method: str) -> None:
    adapters = [(make(root, "first", norm=2.0), 1.0), (make(root, "second", norm=3.0, seed=2), 1.0)]
    with pytest.raises(MismatchError, match=r"several adapters change one parameter.*norm\.weight") as refused:
        plan_of(root, adapters, method=method)
    assert refused.value.found == "adapters 1 (first) and 2 (second)"
    assert "--take 1" in str(refused.value.hint)
    for take, value in ((1, 2.0), (2, 3.0)):
        assert norm_of(root, adapters, method=method, take=(take,)) == value
        plan = plan_of(root, adapters, method=method, take=(take,))
        loser = 2 - take
        assert list(plan.explained) == [f"{loser}:{NORM}"]
        assert f"adapter {take}" in plan.explained[f"{loser}:{NORM}"]
        assert len(plan.claims) == 5


def test_the_first_that_is_taken_and_brings_the_tensor_wins(root: Path) -> None:
    adapters = [
        (make(root, "a"), 1.0),
        (make(root, "b", norm=2.0, seed=2), 1.0),
        (make(root, "c", norm=3.0, seed=3), 1.0),
    ]
    assert norm_of(root, adapters, take=(1, 3, 2)) == 3.0
    with pytest.raises(MismatchError, match="several adapters"):
        plan_of(root, adapters, take=(1,))
    for wrong in (0, 4, -1):
        with pytest.raises(UsageError, match="--take names no adapter"):
            plan_of(root, adapters, take=(wrong,))


def test_equal_values_are_no_conflict(root: Path) -> None:
    adapters = [(make(root, "a", norm=2.0), 1.0), (make(root, "b", norm=2.0, seed=2), 1.0)]
    assert norm_of(root, adapters) == 2.0
    assert not plan_of(root, adapters).explained


def test_a_whole_tensor_beside_an_update_of_the_same_parameter_is_a_conflict_unless_the_update_comes_after(
    root: Path,
) -> None:
    values = {"weight": torch.full(toy.MODULES[UP], 2.0), "bias": torch.ones(96)}
    whole = {f"base_model.model.{UP}.{name}": value for name, value in values.items()}
    toy.write_adapter(root / "whole", whole, {"r": 2, "target_modules": ["nothing"], "modules_to_save": ["0.up"]})
    update = make(root, "update")
    for method in ("linear", "ties"):
        with pytest.raises(MismatchError, match=r"several adapters.*block\.0\.up\.weight"):
            plan_of(root, [(str(root / "whole"), 1.0), (update, 1.0)], method=method)
    with pytest.raises(MismatchError, match="several adapters"):
        plan_of(root, [(update, 1.0), (str(root / "whole"), 1.0)], method="sequential")
    out = root / "out"
    adapters = [(str(root / "whole"), 1.0), (update, 0.5)]
    with prepare(str(root / "base"), adapters, Options(method="sequential"), target=out) as job:
        job.run()
    tensors = weights_of(root / "update")
    a, b = (tensors[f"base_model.model.{UP}.lora_{side}.weight"] for side in "AB")
    torch.testing.assert_close(weights_of(out)[f"{UP}.weight"], 2.0 + 0.5 * (b @ a))
    plan = plan_of(root, adapters, take=(1,))
    assert sorted(plan.explained) == sorted(f"1:{name}" for name in tensors)


def test_a_weight_has_no_meaning_for_a_whole_tensor_unless_it_is_taken_as_it_is(root: Path) -> None:
    adapters = [(make(root, "a", norm=2.0), 0.7), (make(root, "b", seed=2), 0.3)]
    with pytest.raises(MismatchError, match=r"a weight other than 1 .*norm\.weight, of adapter 1 \(a\)") as refused:
        plan_of(root, adapters)
    assert "--take 1" in str(refused.value.hint)
    assert norm_of(root, adapters, take=(1,)) == 2.0


def test_a_tensor_that_only_one_adapter_changes_is_thinned_out_all_the_same(root: Path) -> None:
    adapters = [(make(root, "a"), 0.5), (make(root, "b", lora="block.1.up"), 1.0)]
    plan = plan_of(root, adapters, method="ties", density=0.25)
    terms = {op.name: op.terms for op in plan.ops if op.terms}
    assert terms.keys() == {f"{UP}.weight", "block.1.up.weight"}
    for (placed,) in terms.values():
        assert isinstance(placed.term, Combined)
        assert len(placed.term.contributions) == 1
        assert placed.term.adapters == 2


@pytest.mark.parametrize("method", ["linear", "sequential"])
def test_what_only_adds_needs_no_term_of_its_own(root: Path, method: str) -> None:
    adapters = [(make(root, "a"), 0.5), (make(root, "b", seed=2), 1.0)]
    plan = plan_of(root, adapters, method=method)
    terms = next(op.terms for op in plan.ops if op.terms)
    assert [type(placed.term).__name__ for placed in terms] == ["LowRank", "LowRank"]
    assert [placed.term.scaling for placed in terms] == [0.5, 1.0]  # type: ignore[attr-defined]


TOKENS = Case("llama", "tokens", {"target_modules": ["q_proj"], "trainable_token_indices": [5, 1]})


def test_rows_of_other_tokens_are_no_conflict_and_those_of_the_same_are(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    base, one = workshop.base("llama"), workshop.adapter(TOKENS)
    other = write_adapter(tmp_path / "other", adapter_tensors(one), config(one) | {"trainable_token_indices": [2, 7]})
    merged(base, [(one, 1.0), (other, 1.0)], tmp_path / "both")
    rows = load_output(tmp_path / "both").state_dict()["model.embed_tokens.weight"]
    trained = next(value for name, value in adapter_tensors(one).items() if "trainable_tokens" in name)
    for tokens in ([5, 1], [2, 7]):
        torch.testing.assert_close(rows[tokens], trained, rtol=0, atol=0)
    same = write_adapter(
        tmp_path / "same",
        {name: value + ("trainable_tokens" in name) for name, value in adapter_tensors(one).items()},
        config(one),
    )
    with pytest.raises(MismatchError, match=r"several adapters change one parameter.*embed_tokens"):
        merged(base, [(one, 1.0), (same, 1.0)], tmp_path / "never")
    plan = merged(base, [(one, 1.0), (same, 1.0)], tmp_path / "taken", Options(take=(2,)))
    rows = load_output(tmp_path / "taken").state_dict()["model.embed_tokens.weight"]
    torch.testing.assert_close(rows[[5, 1]], trained + 1, rtol=0, atol=0)
    assert any(isinstance(placed.term, ReplaceRows) for op in plan.ops for placed in op.terms)
    overlapping = write_adapter(
        tmp_path / "overlapping", adapter_tensors(one), config(one) | {"trainable_token_indices": [5, 7]}
    )
    with pytest.raises(MismatchError, match="several adapters change one parameter"):
        merged(base, [(one, 1.0), (overlapping, 1.0)], tmp_path / "never")


def config(adapter: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_text())
    return found
