"""GLoRA against PEFT's own merge."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch

from tests.adapters.methods.judge import Judge
from tests.oracle.reference import load_output, merged, unheard


@pytest.mark.parametrize("d_e", ["vector", "constant", "none"])
@pytest.mark.parametrize("c", ["lora", "vector", "none"])
@pytest.mark.parametrize("a_b", ["lora", "vector", "constant", "none"])
def test_every_form_of_every_path_is_pefts(a_b: str, c: str, d_e: str, judge: Judge) -> None:
    config = peft.GloraConfig(r=3, target_modules=["q_proj", "down_proj"], config_A_B=a_b, config_C=c, config_D_E=d_e)
    judge.check("llama_bias", config, changes=(a_b, c, d_e) != ("none", "none", "none"))


def test_layers_without_a_bias_are_pefts(judge: Judge) -> None:
    judge.check("llama", peft.GloraConfig(r=3, target_modules=["q_proj", "down_proj"]))


def test_a_model_with_some_biases_is_pefts(judge: Judge) -> None:
    judge.check("qwen2", peft.GloraConfig(r=3, target_modules=["q_proj", "o_proj"], config_D_E="vector"))


def test_the_bias_of_a_tied_head_sees_the_weight_that_it_is_tied_to(judge: Judge, tmp_path: Path) -> None:
    """PEFT's merge stores the embeddings changed and the head tied to them; here the model that was trained decides."""
    adapter = judge.adapter("bert", peft.GloraConfig(r=3, target_modules=["cls.predictions.decoder"]), "tied-head")
    merged(judge.base("bert"), adapter, tmp_path / "out")
    ids = torch.tensor([[1, 3, 5, 7, 3]])
    with unheard(), torch.no_grad():
        trained = peft.PeftModel.from_pretrained(judge.load("bert"), adapter).eval()
        torch.testing.assert_close(load_output(tmp_path / "out")(ids).logits, trained(ids).logits)
