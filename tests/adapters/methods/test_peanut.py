"""PEANuT against PEFT's own merge."""

from __future__ import annotations

from typing import Any

import peft
import pytest
from transformers.activations import ACT2FN

from ingot.adapters.methods.peanut import ACTIVATIONS
from ingot.adapters.terms import Needs
from tests.adapters.methods.cuts import check_cuts
from tests.adapters.methods.judge import Judge
from tests.adapters.methods.wrong import INTEGER, NUMBER, check_refusals

LAYERS = ["q_proj", "down_proj"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"depth": 1, "act_fn": "silu"},
        {"depth": 3, "act_fn": "gelu", "scaling": -0.7},
    ],
    ids=str,
)
def test_linear_layers_are_pefts(judge: Judge, settings: dict[str, Any]) -> None:
    plan = judge.check("llama", peft.PeanutConfig(r=4, target_modules=LAYERS, **settings))
    assert {placed.term.needs for op in plan.ops for placed in op.terms} == {Needs.TILES}


def test_the_names_of_activations_are_those_of_transformers() -> None:
    assert set(ACTIVATIONS) == set(ACT2FN)


def test_cuts_do_not_matter(judge: Judge) -> None:
    check_cuts(judge, "llama", peft.PeanutConfig(r=4, depth=1, target_modules=LAYERS))


def test_wrong_adapters_are_refused(judge: Judge) -> None:
    config = peft.PeanutConfig(r=4, depth=2, target_modules=["q_proj"])
    settings = {"r": INTEGER, "depth": (*NUMBER, -1, 1.5), "act_fn": (*NUMBER, None), "scaling": (*NUMBER, 10**400)}
    sound = check_refusals(judge, "llama", config, settings)
    sound.refusal(settings={"r": 3})
    sound.refusal(settings={"depth": 3})
    assert "would be dropped" in str(sound.refusal(settings={"depth": 1}))
