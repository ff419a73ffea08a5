"""PSOFT against PEFT's own merge of a second load, whose decomposition is computed anew."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch

from ingot.adapters.terms import Needs
from tests.adapters.methods.cuts import check_cuts
from tests.adapters.methods.judge import Judge
from tests.adapters.methods.wrong import FLAG, INTEGER, NUMBER, POSITIVE, check_refusals, spoiled
from tests.oracle.reference import on_disk

LAYERS = ["q_proj", "down_proj"]
LOWRANK = {"psoft_svd": "lowrank", "random_seed": 7, "psoft_svd_lowrank_niter": 3}


@pytest.mark.parametrize(
    "settings",
    [
        {"psoft_alpha": 6},
        {"ab_svd_init": "pissa_init", "psoft_alpha": 6},
        {"psoft_orth": False},
        {"psoft_mag_a": False},
        {"psoft_mag_b": False},
        {"use_cayley_neumann": True, "num_cayley_neumann_terms": 2},
        {"use_cayley_neumann": True, "num_cayley_neumann_terms": 6, "cayley_neumann_eps": 0.2},
        {**LOWRANK, "ab_svd_init": "pissa_init"},
    ],
    ids=str,
)
def test_linear_layers_are_pefts(judge: Judge, settings: dict[str, Any]) -> None:
    plan = judge.check("llama", peft.PsoftConfig(r=4, target_modules=LAYERS, **settings))
    assert {placed.term.needs for op in plan.ops for placed in op.terms} == {Needs.WHOLE}
    assert any("same kind of device" in warning for warning in plan.warnings)


@pytest.mark.parametrize("settings", [{}, LOWRANK], ids=str)
def test_peft_decomposes_a_weight_the_same_way_again(judge: Judge, settings: dict[str, Any]) -> None:
    adapter = judge.adapter("llama", peft.PsoftConfig(r=4, target_modules=LAYERS, **settings), f"psoft-{len(settings)}")
    first = on_disk(judge.by_peft("llama", adapter))
    torch.rand(5)
    second = on_disk(judge.by_peft("llama", adapter))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_cuts_do_not_matter(judge: Judge) -> None:
    check_cuts(judge, "llama", peft.PsoftConfig(r=4, target_modules=LAYERS))


def test_a_randomized_subspace_that_was_not_seeded_is_refused(judge: Judge) -> None:
    sound = spoiled(judge, "llama", peft.PsoftConfig(r=4, target_modules=LAYERS, **LOWRANK))
    assert "not seeded" in str(sound.refusal(settings={"random_seed": ...}))


def test_wrong_adapters_are_refused(judge: Judge) -> None:
    config = peft.PsoftConfig(r=4, target_modules=["q_proj"], use_cayley_neumann=True)
    flags = dict.fromkeys(("psoft_orth", "psoft_mag_a", "psoft_mag_b", "use_cayley_neumann"), FLAG)
    choices = dict.fromkeys(("ab_svd_init", "psoft_svd"), (*NUMBER, None))
    counts = dict.fromkeys(("random_seed", "psoft_svd_lowrank_niter"), (*NUMBER, -1, 1.5))
    terms = {"num_cayley_neumann_terms": INTEGER, "cayley_neumann_eps": POSITIVE, "r": INTEGER}
    sound = check_refusals(judge, "llama", config, {**flags, **choices, **counts, **terms})
    sound.refusal(settings={"r": 3})
    sound.refusal(settings={"r": 17})
    sound.refusal(settings={"psoft_orth": False})
    assert "would be dropped" in str(sound.refusal(settings={"psoft_mag_a": False}))
