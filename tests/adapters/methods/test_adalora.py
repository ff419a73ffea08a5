"""AdaLoRA against PEFT's own merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
from torch import nn

from tests.adapters.methods.judge import Judge, jitter
from tests.adapters.methods.layers import check_layers
from tests.adapters.toys import Convolutions, Gpt2ish

SCHEDULE: dict[str, Any] = {"total_step": 10, "init_r": 4}


def pruned(model: nn.Module) -> None:
    """Random values, and a `rank_pattern` as the end of a training leaves it: some ranks of each module, or none."""
    jitter(model)
    layers = [name for name, module in model.base_model.model.named_modules() if hasattr(module, "lora_E")]
    kept = ([True, False, True, True], [False, False, False, False], [True, True, True, True])
    patterns = {f"{name}.lora_E.default": kept[number % 3] for number, name in enumerate(layers)}
    model.peft_config["default"].rank_pattern = patterns


@pytest.mark.parametrize(
    "settings",
    [
        {"lora_alpha": 6},
        {"lora_alpha": 0},
        {"lora_alpha": -3, "use_rslora": True, "alpha_pattern": {"q_proj": 5}},
        {"lora_alpha": 7, "trainable_token_indices": [3, 1]},
    ],
    ids=str,
)
def test_linear_layers_are_pefts(settings: dict[str, Any], judge: Judge) -> None:
    judge.check("llama", peft.AdaLoraConfig(target_modules=["q_proj", "down_proj"], **SCHEDULE, **settings))


@pytest.mark.parametrize("alpha", [6, 0])
def test_layers_of_pruned_ranks_are_pefts(alpha: int, judge: Judge) -> None:
    config = peft.AdaLoraConfig(target_modules=["q_proj", "down_proj", "o_proj"], lora_alpha=alpha, **SCHEDULE)
    judge.check("llama", config, train=pruned)


def test_conv1d_layers_of_gpt2_are_pefts(judge: Judge, tmp_path: Path) -> None:
    judge.check("gpt2", peft.AdaLoraConfig(target_modules=["c_attn", "attn.c_proj"], **SCHEDULE))
    check_layers(Gpt2ish(), peft.AdaLoraConfig(target_modules=["c_attn", "c_proj", "lm_head"], **SCHEDULE), tmp_path)


def test_convolutions_are_pefts(judge: Judge, tmp_path: Path) -> None:
    judge.check("vit", peft.AdaLoraConfig(target_modules=["projection"], **SCHEDULE))
    check_layers(Convolutions(), peft.AdaLoraConfig(target_modules=["conv2", "point"], **SCHEDULE), tmp_path)
