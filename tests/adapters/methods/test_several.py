"""What every method can be together with: other adapters and their weights, whole modules, biases, token rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest

from tests.adapters.methods.judge import Judge
from tests.oracle.reference import assert_close, merged, on_disk

LAYERS: dict[str, Any] = {"target_modules": ["q_proj", "down_proj"]}
#: Methods whose config has a `bias`, and one that only adds to weights.
BIASED: dict[str, Callable[..., peft.PeftConfig]] = {
    "adalora": lambda **more: peft.AdaLoraConfig(init_r=3, total_step=10, **LAYERS, **more),
    "miss": lambda **more: peft.MissConfig(r=4, **LAYERS, **more),
    "glora": lambda **more: peft.GloraConfig(r=3, **LAYERS, **more),
}


@pytest.mark.parametrize(("name", "only"), [("adalora", "lora_only"), ("miss", "MiSS_only"), ("glora", "glora_only")])
def test_biases_that_were_trained_with_a_method_are_pefts(name: str, only: str, judge: Judge) -> None:
    judge.check("llama_bias", BIASED[name](bias="all"))
    judge.check("llama_bias", BIASED[name](bias=only))


@pytest.mark.parametrize("name", BIASED)
def test_modules_that_were_saved_with_a_method_are_pefts(name: str, judge: Judge) -> None:
    judge.check("llama", BIASED[name](modules_to_save=["lm_head", "input_layernorm"]))
    judge.check("bert_classifier", peft.LoHaConfig(r=3, target_modules=["query"], task_type="SEQ_CLS"))


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.7, -0.5)])
@pytest.mark.parametrize("config", [peft.LoHaConfig, peft.HiraConfig], ids=["adds", "rescales"])
def test_what_a_method_changes_adds_up_with_others(
    config: Callable[..., peft.PeftConfig], weights: tuple[float, float], judge: Judge, tmp_path: Path
) -> None:
    base = judge.base("llama")
    one = judge.adapter("llama", config(r=3, **LAYERS), f"{config.__name__}-{weights}")
    two = judge.adapter("llama", peft.LoraConfig(r=3, target_modules=["q_proj"]), f"{config.__name__}-two-{weights}")
    merged(base, list(zip([one, two], weights, strict=True)), tmp_path / "both")
    merged(base, one, tmp_path / "one")
    merged(base, two, tmp_path / "two")
    before, first, second = on_disk(base), on_disk(tmp_path / "one"), on_disk(tmp_path / "two")
    expected = {
        name: tensor + weights[0] * (first[name] - tensor) + weights[1] * (second[name] - tensor)
        for name, tensor in before.items()
    }
    assert_close(on_disk(tmp_path / "both"), expected)
