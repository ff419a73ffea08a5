"""LoHa against PEFT's own merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest

from tests.adapters.methods.judge import Judge
from tests.adapters.methods.layers import check_layers
from tests.adapters.toys import Convolutions

LAYERS = ["q_proj", "down_proj"]


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4, "alpha": 6},
        {"r": 4, "rank_pattern": {"down_proj": 3}, "alpha_pattern": {r"layers\.1\.self_attn\.q_proj": 5}},
        {"r": 2, "init_weights": False},
    ],
    ids=["plain", "patterns", "random"],
)
def test_linear_layers_are_pefts(settings: dict[str, Any], judge: Judge) -> None:
    judge.check("llama", peft.LoHaConfig(target_modules=LAYERS, **settings))


@pytest.mark.parametrize("cores", [False, True], ids=["flat", "cores"])
def test_the_convolutions_of_a_model_are_pefts(cores: bool, judge: Judge) -> None:
    judge.check("whisper", peft.LoHaConfig(r=3, alpha=5, target_modules=["conv1"], use_effective_conv2d=cores))
    judge.check("vit", peft.LoHaConfig(r=3, target_modules=["projection"], use_effective_conv2d=cores))


@pytest.mark.parametrize("cores", [False, True], ids=["flat", "cores"])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_are_pefts(groups: int, cores: bool, tmp_path: Path) -> None:
    targets = ["conv1", "conv2", "point"]
    config = peft.LoHaConfig(r=3, alpha=5, target_modules=targets, use_effective_conv2d=cores)
    check_layers(Convolutions(groups), config, tmp_path)
