"""DEFT and PaRa against PEFT's own merge."""

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
SETTINGS = [
    {"decomposition_method": "relu"},
    {"decomposition_method": "qr", "alpha": 6},
    {"decomposition_method": "relu", "alpha": -2},
    {"decomposition_method": "qr", "para": True},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_linear_layers_are_pefts(judge: Judge, settings: dict[str, Any]) -> None:
    plan = judge.check("llama", peft.DeftConfig(r=4, target_modules=LAYERS, **settings))
    assert {placed.term.needs for op in plan.ops for placed in op.terms} == {Needs.TILES}


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_transposed_layers_are_pefts_and_need_their_tile_alone(judge: Judge, settings: dict[str, Any]) -> None:
    plan = judge.check("gpt2", peft.DeftConfig(r=4, target_modules=["c_attn", "c_proj"], **settings))
    assert {placed.term.needs for op in plan.ops for placed in op.terms} == {Needs.TILE}


def test_a_rank_above_the_outputs_is_theirs(judge: Judge) -> None:
    judge.check("llama", peft.DeftConfig(r=10, alpha=5, target_modules=["k_proj"]))  # 8 outputs


def test_trained_biases_are_pefts(judge: Judge) -> None:
    judge.check("llama_bias", peft.DeftConfig(r=4, bias="deft_only", target_modules=LAYERS))


def test_cuts_do_not_matter(judge: Judge) -> None:
    check_cuts(judge, "llama", peft.DeftConfig(r=4, target_modules=LAYERS))
    check_cuts(judge, "gpt2", peft.DeftConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True))


def test_wrong_adapters_are_refused(judge: Judge) -> None:
    config = peft.DeftConfig(r=4, alpha=3, target_modules=["q_proj"])
    flags = dict.fromkeys(("para", "fan_in_fan_out"), FLAG)
    settings = {"r": INTEGER, "alpha": (*NUMBER, 10**400), "decomposition_method": (*NUMBER, None)}
    sound = check_refusals(judge, "llama", config, {**flags, **settings})
    sound.refusal(settings={"r": 3})
    assert "would be dropped" in str(sound.refusal(settings={"para": True}))
    sound.refusal({name: tensor for name, tensor in adapter_tensors(sound.adapter).items() if "deft_P" in name})
