"""Several adapters at once, and the places and formats in which PEFT saves one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file

from ingot.plan.model import Options
from tests.oracle.cases import Case
from tests.oracle.reference import (
    PREFIX,
    WEIGHTS,
    Workshop,
    adapter_tensors,
    assert_close,
    by_formula,
    config_of,
    load_base,
    load_output,
    merged,
    merged_model,
    on_disk,
    unheard,
    worst,
    write_adapter,
)

ONE = Case("llama", "one", {"target_modules": ["q_proj", "down_proj"]})
TWO = Case("llama", "the second of two", {"target_modules": ["q_proj", "v_proj"], "r": 2, "use_rslora": True})
BIASED = Case("llama_bias", "lora_bias", {"target_modules": ["q_proj", "down_proj"], "lora_bias": True})
BIASED_TOO = Case("llama_bias", "lora_bias again", {"target_modules": ["q_proj"], "lora_bias": True, "r": 3})


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.7, 0.3), (-0.5, 2.0)])
@pytest.mark.parametrize(("one", "two"), [(ONE, TWO), (BIASED, BIASED_TOO)], ids=["plain", "lora_bias"])
def test_several_adapters_add_up_with_their_weights(
    one: Case, two: Case, weights: tuple[float, float], workshop: Workshop, target: Path
) -> None:
    base, adapters = workshop.base(one.model), [workshop.adapter(one), workshop.adapter(two)]
    merged(base, list(zip(adapters, weights, strict=True)), target)
    model = load_base(one, base)
    before = {name: tensor.double() for name, tensor in model.state_dict().items()}
    expected = dict(before)
    for adapter, weight in zip(adapters, weights, strict=True):
        for name, after in by_formula(model, adapter).items():
            expected[name] = expected[name] + weight * (after - before[name])
    assert_close(load_output(target).state_dict(), expected)


def test_the_sum_is_not_pefts_linear_combination_which_multiplies_one_adapters_a_with_the_others_b(
    workshop: Workshop, target: Path
) -> None:
    equal = Case("llama", "the second of two, rank 4", {"target_modules": ["q_proj", "down_proj"]})
    base, adapters = workshop.base("llama"), [workshop.adapter(ONE), workshop.adapter(equal)]
    merged(base, [(adapters[0], 0.7), (adapters[1], 0.3)], target)

    def combined(how: str) -> dict[str, torch.Tensor]:
        with unheard():
            model = peft.PeftModel.from_pretrained(load_base(ONE, base), adapters[0])
            model.load_adapter(adapters[1], "other")
            model.add_weighted_adapter(["default", "other"], [0.7, 0.3], "sum", combination_type=how)
            model.set_adapter("sum")
            return dict(model.merge_and_unload().state_dict())

    ours = load_output(target).state_dict()
    assert_close(ours, combined("cat"))
    assert max(worst(ours, combined("linear")).values()) > 0.01


@pytest.mark.parametrize("method", ["linear", "sequential"])
def test_a_dora_with_a_weight_is_that_part_of_its_change(method: str, workshop: Workshop, target: Path) -> None:
    case = Case("llama", "dora", {"target_modules": ["q_proj"], "use_dora": True})
    base, adapter = workshop.base("llama"), workshop.adapter(case)
    merged(base, [(adapter, 0.5)], target, Options(method=method))
    model = load_base(ONE, base)
    before = {name: tensor.double() for name, tensor in model.state_dict().items()}
    halved = {name: (before[name] + after) / 2 for name, after in by_formula(model, adapter).items()}
    assert_close(load_output(target).state_dict(), before | halved)


def test_changes_that_depend_on_the_weight_add_up_from_the_same_base(workshop: Workshop, target: Path) -> None:
    dora = Case("llama", "dora", {"target_modules": ["q_proj"], "use_dora": True})
    other = Case("llama", "dora too", {"target_modules": ["q_proj", "v_proj"], "use_dora": True, "r": 2})
    cases = (dora, other, ONE)
    base, adapters = workshop.base("llama"), [workshop.adapter(case) for case in cases]
    weights = (0.7, -0.3, 1.0)
    merged(base, list(zip(adapters, weights, strict=True)), target)
    model = load_base(ONE, base)
    before = {name: tensor.double() for name, tensor in model.state_dict().items()}
    expected = dict(before)
    for adapter, weight in zip(adapters, weights, strict=True):
        for name, after in by_formula(model, adapter).items():
            expected[name] = expected[name] + weight * (after - before[name])
    assert_close(load_output(target).state_dict(), expected)


def test_two_doras_in_peft_are_neither_their_sum_nor_one_after_the_other(workshop: Workshop, target: Path) -> None:
    """PEFT takes the norm of the second from the base, and applies it to what the first left: docs/combining.md."""
    one = Case("llama", "dora", {"target_modules": ["q_proj"], "use_dora": True})
    two = Case("llama", "dora too", {"target_modules": ["q_proj", "v_proj"], "use_dora": True, "r": 2})
    base, adapters = workshop.base("llama"), [workshop.adapter(one), workshop.adapter(two)]
    with unheard():
        model = peft.PeftModel.from_pretrained(load_base(one, base), adapters[0])
        model.load_adapter(adapters[1], "other")
        model.base_model.set_adapter(["default", "other"])
        theirs = {name: value.double() for name, value in model.merge_and_unload().state_dict().items()}
    before = {name: value.double() for name, value in load_base(one, base).state_dict().items()}
    name = "model.layers.0.self_attn.q_proj.weight"
    made = dict(before)
    for case, adapter in ((one, adapters[0]), (two, adapters[1])):
        alone = by_formula(load_base(one, base), adapter)[name]
        tensors = adapter_tensors(adapter)
        a, b = (tensors[f"{PREFIX}{name.removesuffix('.weight')}.lora_{side}.weight"].double() for side in "AB")
        delta = 6 / case.options.get("r", 4) * b @ a
        scale = alone.norm(dim=1) / (before[name] + delta).norm(dim=1)
        made[name] = scale[:, None] * (made[name] + delta)
    assert_close({name: theirs[name]}, {name: made[name]})
    for method in ("linear", "sequential"):
        merged(base, [(adapter, 1.0) for adapter in adapters], target.with_name(method), Options(method=method))
        ours = load_output(target.with_name(method)).state_dict()
        assert worst({name: ours[name]}, {name: theirs[name]})[name] > 0.01


def test_two_adapters_on_different_modules_may_be_of_any_kind(workshop: Workshop, target: Path) -> None:
    dora = Case("llama", "dora on k_proj", {"target_modules": ["k_proj"], "use_dora": True})
    base, adapters = workshop.base("llama"), [workshop.adapter(ONE), workshop.adapter(dora)]
    merged(base, [(adapters[0], 0.5), (adapters[1], 1.0)], target)
    model = load_base(ONE, base)
    before = {name: tensor.double() for name, tensor in model.state_dict().items()}
    halved = {name: (before[name] + after) / 2 for name, after in by_formula(model, adapters[0]).items()}
    assert_close(load_output(target).state_dict(), before | halved | by_formula(model, adapters[1]))


def test_an_adapter_with_a_name_lies_in_a_folder_of_its_own(workshop: Workshop, tmp_path: Path, target: Path) -> None:
    base = workshop.base("llama")
    with unheard():
        model = peft.PeftModel.from_pretrained(load_base(ONE, base), workshop.adapter(ONE), adapter_name="tuned")
        model.save_pretrained(tmp_path / "saved")
    merged(base, tmp_path / "saved" / "tuned", target)
    assert_close(on_disk(target), on_disk(workshop.by_peft(ONE)))


def test_an_adapter_as_pickle_gives_the_same_bytes(workshop: Workshop, tmp_path: Path, target: Path) -> None:
    base, saved = workshop.base("llama"), workshop.adapter(ONE)
    shutil.copytree(saved, tmp_path / "adapter")
    tensors = adapter_tensors(saved)
    (tmp_path / "adapter" / WEIGHTS).unlink()
    torch.save(tensors, tmp_path / "adapter" / "adapter_model.bin")
    merged(base, tmp_path / "adapter", target)
    merged(base, saved, target.with_name("again"))
    for file in sorted(target.glob("*.safetensors")):
        assert file.read_bytes() == target.with_name("again").joinpath(file.name).read_bytes()


def test_names_that_kept_the_adapters_name_are_read(workshop: Workshop, tmp_path: Path, target: Path) -> None:
    base, saved = workshop.base("llama"), workshop.adapter(ONE)
    tensors = {name.replace(".weight", ".default.weight"): t for name, t in adapter_tensors(saved).items()}
    adapter = write_adapter(tmp_path / "adapter", tensors, json.loads((saved / "adapter_config.json").read_text()))
    merged(base, adapter, target)
    assert_close(on_disk(target), on_disk(workshop.by_peft(ONE)))


def test_merging_twice_in_a_row_is_merging_both_at_once(workshop: Workshop, target: Path) -> None:
    base, adapters = workshop.base("llama"), [workshop.adapter(ONE), workshop.adapter(TWO)]
    merged(base, adapters[0], target)
    merged(target, adapters[1], target.with_name("second"))
    merged(base, [(adapter, 1.0) for adapter in adapters], target.with_name("both"))
    assert_close(on_disk(target.with_name("second")), on_disk(target.with_name("both")))


def test_converted_pissa_is_a_plain_adapter_of_twice_the_rank(workshop: Workshop, tmp_path: Path, target: Path) -> None:
    """PEFT's `path_initial_model_for_weight_conversion`: the way out that our hints name."""
    base = workshop.base("llama")
    options = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "up_proj"], init_lora_weights="pissa")
    with unheard():
        model = peft.get_peft_model(load_base(ONE, base), options)
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(tmp_path / "initial")
        model.peft_config["default"].init_lora_weights = "pissa"
        generator = torch.Generator().manual_seed(11)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data += torch.randn(parameter.shape, generator=generator) * 0.05
        model.save_pretrained(tmp_path / "adapter", path_initial_model_for_weight_conversion=str(tmp_path / "initial"))
        trained = model.merge_and_unload().state_dict()
    merged(base, tmp_path / "adapter", target)
    assert adapter_tensors(tmp_path / "adapter")[f"{PREFIX}model.layers.0.self_attn.q_proj.lora_A.weight"].shape[0] == 8
    # PEFT takes the principal part out of W in float32, so that the trained model itself holds a rounding more.
    assert_close(load_output(target).state_dict(), trained, 1e-5)


def test_the_output_in_another_dtype_says_so(workshop: Workshop, target: Path) -> None:
    base, adapter = workshop.base("llama"), workshop.adapter(ONE)
    merged(base, adapter, target, Options(dtype="BF16"))
    assert {tensor.dtype for tensor in on_disk(target).values()} == {torch.bfloat16}
    assert config_of(target)["dtype"] == "bfloat16"
    expected = merged_model(ONE, base, adapter).state_dict()
    ours = load_output(target, torch.bfloat16).state_dict()
    exact = sum(int((ours[name] == tensor.to(torch.bfloat16)).sum()) for name, tensor in expected.items())
    assert exact >= 0.999 * sum(tensor.numel() for tensor in expected.values())


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("llama", {"target_modules": ["q_proj", "down_proj"]}),
        ("llama_tied", {"target_modules": ["lm_head"]}),
        ("mixtral", {"target_modules": [], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}),
    ],
)
def test_a_base_in_many_shards_keeps_them(
    model: str, options: dict[str, Any], workshop: Workshop, tmp_path: Path, target: Path
) -> None:
    case, whole = Case(model, f"shards {options}", options), workshop.base(model)
    with unheard():
        load_base(case, whole).save_pretrained(tmp_path / "base", max_shard_size="6KB")
    names = sorted(file.name for file in (tmp_path / "base").glob("*.safetensors"))
    assert len(names) > 2
    merged(tmp_path / "base", workshop.adapter(case), target)
    merged(whole, workshop.adapter(case), target.with_name("one"))
    assert sorted(file.name for file in target.glob("*.safetensors")) == names
    assert_close(on_disk(target), on_disk(target.with_name("one")), 0.0)
    assert_close(load_output(target).state_dict(), load_output(target.with_name("one")).state_dict(), 0.0)
    for name in names:  # every tensor stays in its shard; an untied head is a new one
        assert set(load_file(tmp_path / "base" / name)) <= set(load_file(target / name))
