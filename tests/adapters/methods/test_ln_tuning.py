"""LN tuning against PEFT's own merge."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest

from tests.adapters.methods.judge import Judge
from tests.adapters.methods.layers import check_layers
from tests.adapters.toys import Convolutions, Gpt2ish, Mlp


@pytest.mark.parametrize("model", ["llama", "gpt2", "bert"])
def test_the_norms_that_peft_chooses_are_its(model: str, judge: Judge) -> None:
    config = peft.LNTuningConfig(task_type="CAUSAL_LM") if model != "bert" else peft.LNTuningConfig()
    if model == "bert":
        config.target_modules = ["LayerNorm"]
    judge.check(model, config)


def test_any_other_layer_is_pefts(judge: Judge, tmp_path: Path) -> None:
    judge.check("llama_bias", peft.LNTuningConfig(target_modules=["q_proj", "input_layernorm"]))
    check_layers(Mlp(), peft.LNTuningConfig(target_modules=["norm", "up", "embed_tokens"]), tmp_path / "mlp")
    check_layers(Gpt2ish(), peft.LNTuningConfig(target_modules=["c_attn"]), tmp_path / "gpt2")
    check_layers(Convolutions(), peft.LNTuningConfig(target_modules=["conv1", "conv3"]), tmp_path / "conv")
