"""GraLoRA against PEFT's own merge."""

from __future__ import annotations

from typing import Any

import peft
import pytest

from ingot.adapters.terms import Needs
from tests.adapters.methods.cuts import check_cuts
from tests.adapters.methods.judge import Judge
from tests.adapters.methods.wrong import FLAG, INTEGER, NUMBER, check_refusals
from tests.oracle.reference import adapter_tensors

LAYERS = ["q_proj", "down_proj"]


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 8, "gralora_k": 4, "alpha": 6},
        {"r": 3, "gralora_k": 1},
        {"r": 8, "gralora_k": 2, "alpha": 6, "hybrid_r": 3},
        {"r": 4, "gralora_k": 2, "alpha": -3},
    ],
    ids=str,
)
def test_linear_layers_are_pefts(judge: Judge, settings: dict[str, Any]) -> None:
    plan = judge.check("llama", peft.GraloraConfig(target_modules=LAYERS, **settings))
    assert {placed.term.needs for op in plan.ops for placed in op.terms} == {Needs.TILE}


@pytest.mark.parametrize("declared", [True, False])
def test_transposed_layers_are_pefts(judge: Judge, declared: bool) -> None:
    modules = ["c_attn", "c_proj", "c_fc"]
    judge.check("gpt2", peft.GraloraConfig(r=4, hybrid_r=2, fan_in_fan_out=declared, target_modules=modules))


def test_trained_biases_are_pefts(judge: Judge) -> None:
    judge.check("llama_bias", peft.GraloraConfig(r=4, bias="gralora_only", target_modules=LAYERS))


def test_cuts_do_not_matter(judge: Judge) -> None:
    check_cuts(judge, "llama", peft.GraloraConfig(r=8, gralora_k=4, hybrid_r=2, target_modules=LAYERS))
    check_cuts(judge, "gpt2", peft.GraloraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True))


def test_wrong_adapters_are_refused(judge: Judge) -> None:
    config = peft.GraloraConfig(r=4, hybrid_r=2, target_modules=["q_proj"])
    counts = {"r": (*INTEGER, 5), "gralora_k": INTEGER, "hybrid_r": (*NUMBER, -1, 1.5)}
    sound = check_refusals(judge, "llama", config, {**counts, "alpha": (*NUMBER, None), "fan_in_fan_out": FLAG})
    sound.refusal(settings={"r": 8})
    sound.refusal(settings={"gralora_k": 4})
    assert "would be dropped" in str(sound.refusal(settings={"hybrid_r": 0}))
    plain = {name: tensor for name, tensor in adapter_tensors(sound.adapter).items() if "general" not in name}
    sound.refusal(plain)
