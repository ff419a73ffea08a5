"""GLoRA against PEFT's own merge."""

from __future__ import annotations

import peft
import pytest

from tests.adapters.methods.judge import Judge


@pytest.mark.parametrize("d_e", ["vector", "constant", "none"])
@pytest.mark.parametrize("c", ["lora", "vector", "none"])
@pytest.mark.parametrize("a_b", ["lora", "vector", "constant", "none"])
def test_every_form_of_every_path_is_pefts(a_b: str, c: str, d_e: str, judge: Judge) -> None:
    if (a_b, c, d_e) == ("none", "none", "none"):
        pytest.skip("changes nothing")
    targets = ["q_proj", "down_proj"]
    judge.check("llama_bias", peft.GloraConfig(r=3, target_modules=targets, config_A_B=a_b, config_C=c, config_D_E=d_e))


def test_layers_without_a_bias_are_pefts(judge: Judge) -> None:
    judge.check("llama", peft.GloraConfig(r=3, target_modules=["q_proj", "down_proj"]))


@pytest.mark.parametrize("model", ["nomic_bert", "qwen2"])
def test_the_bias_sees_its_weight_wherever_it_stands(model: str, judge: Judge) -> None:
    judge.check(model, peft.GloraConfig(r=3, target_modules=["q_proj", "k_proj"], config_D_E="vector"))
