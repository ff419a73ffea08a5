"""Uni-LoRA against PEFT's own merge."""

from __future__ import annotations

import peft
import pytest

from ingot.errors import AdapterError
from tests.adapters.methods.cuts import check_cuts
from tests.adapters.methods.judge import Judge
from tests.adapters.methods.redrawn import check_rounding
from tests.adapters.methods.wrong import FLAG, INTEGER, NUMBER, check_refusals, spoiled
from tests.oracle.reference import adapter_tensors, merged, write_adapter

LAYERS = ["q_proj", "k_proj", "down_proj"]


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("length", [1, 37, 5000])
def test_linear_layers_are_pefts(judge: Judge, length: int, saved: bool) -> None:
    config = peft.UniLoraConfig(r=3, theta_d_length=length, proj_seed=9, save_indices=saved, target_modules=LAYERS)
    judge.check("llama", config)


@pytest.mark.parametrize("targets", ["all-linear", r".*\.1\..*c_proj", ["c_attn", "c_fc"]], ids=str)
def test_layers_that_only_the_config_names_are_pefts(judge: Judge, targets: list[str] | str) -> None:
    judge.check("gpt2", peft.UniLoraConfig(r=3, target_modules=targets))


def test_some_layers_of_many_are_pefts(judge: Judge) -> None:
    judge.check("phi3", peft.UniLoraConfig(target_modules=["qkv_proj", "o_proj"], layers_to_transform=[1]))
    judge.check("bart", peft.UniLoraConfig(target_modules=r".*decoder.*(q_proj|fc1)"))


def test_conv1d_layers_of_gpt2_with_saved_indices_are_pefts(judge: Judge) -> None:
    judge.check("gpt2", peft.UniLoraConfig(r=3, save_indices=True, target_modules=["c_attn", "c_proj"]))


@pytest.mark.parametrize("saved", [True, False])
def test_the_head_whose_weight_peft_saves_too_is_pefts(judge: Judge, saved: bool) -> None:
    judge.check("llama", peft.UniLoraConfig(save_indices=saved, target_modules=["q_proj", "lm_head"]))


@pytest.mark.parametrize("bias", ["all", "unilora_only"])
def test_trained_biases_are_pefts(judge: Judge, bias: str) -> None:
    judge.check("llama_bias", peft.UniLoraConfig(target_modules=LAYERS, bias=bias))


def test_scales_are_drawn_in_the_bases_dtype(judge: Judge) -> None:
    check_rounding(judge, peft.UniLoraConfig(r=3, target_modules=LAYERS))


@pytest.mark.parametrize("saved", [True, False])
def test_cuts_do_not_matter(judge: Judge, saved: bool) -> None:
    check_cuts(judge, "llama", peft.UniLoraConfig(r=3, save_indices=saved, target_modules=LAYERS))


def test_wrong_adapters_are_refused(judge: Judge) -> None:
    config = peft.UniLoraConfig(r=3, save_indices=True, target_modules=["k_proj"])
    wrong = {"r": INTEGER, "theta_d_length": INTEGER, "save_indices": FLAG, "fan_in_fan_out": FLAG}
    sound = check_refusals(judge, "llama", config, wrong)
    assert "`save_indices`" in str(sound.refusal(settings={"save_indices": False}))


def test_wrong_adapters_without_indices_are_refused(judge: Judge) -> None:
    config = peft.UniLoraConfig(r=3, target_modules=["k_proj"])
    sound = check_refusals(judge, "llama", config, {"r": INTEGER, "proj_seed": (*NUMBER, -1, 1.5, None)})
    sound.refusal(settings={"save_indices": True})
    assert "would be dropped" in str(sound.refusal(settings={"target_modules": ["no_such_module"]}))
    assert "would be dropped" in str(sound.refusal(settings={"target_modules": None}))


@pytest.mark.parametrize("index", [-1, 256])
def test_an_element_that_the_vector_does_not_have_is_refused(judge: Judge, index: int) -> None:
    sound = spoiled(judge, "llama", peft.UniLoraConfig(r=3, save_indices=True, target_modules=["k_proj"]))
    tensors = adapter_tensors(sound.adapter)
    name = next(name for name in tensors if name.endswith("unilora_indices_A"))
    tensors[name][0, 0] = index
    directory = write_adapter(sound.adapter.with_name(f"unilora-{index}"), tensors, sound.config)
    with pytest.raises(AdapterError, match=rf"out of range: expected 0 to 255, found {index}.*unilora_indices_A"):
        merged(sound.base, directory, directory / "never")
