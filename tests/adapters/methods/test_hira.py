"""HiRA against PEFT's own merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest

from tests.adapters.methods.judge import Judge
from tests.adapters.methods.layers import check_layers
from tests.adapters.toys import Convolutions, Gpt2ish, Mlp


@pytest.mark.parametrize(
    "settings",
    [{"r": 4}, {"r": 4, "rank_pattern": {"down_proj": 3}}, {"r": 2, "init_weights": "gaussian"}],
    ids=str,
)
def test_linear_layers_are_pefts(settings: dict[str, Any], judge: Judge) -> None:
    judge.check("llama", peft.HiraConfig(target_modules=["q_proj", "down_proj"], **settings))


def test_an_embedding_and_its_saved_copy_are_pefts(judge: Judge, tmp_path: Path) -> None:
    judge.check("llama", peft.HiraConfig(r=4, target_modules=["embed_tokens", "q_proj"]))
    check_layers(Mlp(), peft.HiraConfig(r=4, target_modules=["embed_tokens", "up"]), tmp_path)


def test_conv1d_layers_of_gpt2_are_pefts(judge: Judge, tmp_path: Path) -> None:
    judge.check("gpt2", peft.HiraConfig(r=4, target_modules=["c_attn", "attn.c_proj"]))
    check_layers(Gpt2ish(), peft.HiraConfig(r=4, target_modules=["c_attn", "c_proj", "lm_head", "wte"]), tmp_path)


def test_convolutions_are_pefts(judge: Judge, tmp_path: Path) -> None:
    judge.check("whisper", peft.HiraConfig(r=4, target_modules=["conv1"]))
    judge.check("qwen2_vl", peft.HiraConfig(r=4, target_modules=["patch_embed.proj"]))
    check_layers(Convolutions(), peft.HiraConfig(r=4, target_modules=["conv1", "conv2", "point", "conv3"]), tmp_path)
