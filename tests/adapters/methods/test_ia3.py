"""IA3 against PEFT's own merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest

from tests.adapters.methods.judge import Judge
from tests.adapters.methods.layers import check_layers
from tests.adapters.toys import Convolutions, Gpt2ish


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
        {"target_modules": ["k_proj", "v_proj", "up_proj"], "feedforward_modules": []},
        {"target_modules": r".*\.(k_proj|down_proj)", "feedforward_modules": r".*\.1\..*\.down_proj"},
        {"target_modules": ["q_proj", "proj"], "feedforward_modules": ["proj"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("model", ["llama", "llama_bias"])
def test_linear_layers_are_pefts(model: str, settings: dict[str, Any], judge: Judge) -> None:
    judge.check(model, peft.IA3Config(**settings))


def test_conv1d_layers_of_gpt2_are_pefts(judge: Judge, tmp_path: Path) -> None:
    targets = ["c_attn", "mlp.c_proj", "c_fc"]
    judge.check("gpt2", peft.IA3Config(target_modules=targets, feedforward_modules=["mlp.c_proj"]))
    targets = ["c_attn", "c_proj", "lm_head"]
    check_layers(Gpt2ish(), peft.IA3Config(target_modules=targets, feedforward_modules=["c_proj"]), tmp_path)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("feedforward", [["conv2", "conv3"], ["point"]], ids=str)
def test_convolutions_are_pefts(feedforward: list[str], groups: int, tmp_path: Path) -> None:
    targets = ["conv2", "conv3", "point"]
    check_layers(
        Convolutions(groups), peft.IA3Config(target_modules=targets, feedforward_modules=feedforward), tmp_path
    )


def test_the_convolutions_of_a_model_are_pefts(judge: Judge) -> None:
    judge.check("vit", peft.IA3Config(target_modules=["projection"], feedforward_modules=[]))
    judge.check(
        "qwen2_vl", peft.IA3Config(target_modules=["patch_embed.proj"], feedforward_modules=["patch_embed.proj"])
    )
