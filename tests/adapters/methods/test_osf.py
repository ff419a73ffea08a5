"""OSF against PEFT's own merge of a second load, whose decomposition is computed anew."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch

from ingot.adapters.terms import Needs
from tests.adapters.methods.cuts import check_cuts
from tests.adapters.methods.judge import Judge
from tests.adapters.methods.wrong import check_refusals
from tests.oracle.reference import on_disk

LAYERS = ["q_proj", "down_proj", "k_proj"]  # square, wide, and tall


@pytest.mark.parametrize(
    "settings",
    [{"effective_rank": 5}, {"effective_rank": 0.75}, {}, {"rank_pattern": {"q_proj": 0.25, "down": 3}}],
    ids=str,
)
def test_linear_layers_are_pefts(judge: Judge, settings: dict[str, Any]) -> None:
    plan = judge.check("llama", peft.OSFConfig(target_modules=LAYERS, **settings))
    assert {placed.term.needs for op in plan.ops for placed in op.terms} == {Needs.WHOLE}


def test_peft_decomposes_a_weight_the_same_way_again(judge: Judge) -> None:
    adapter = judge.adapter("llama", peft.OSFConfig(target_modules=LAYERS), "osf-again")
    first = on_disk(judge.by_peft("llama", adapter))
    second = on_disk(judge.by_peft("llama", adapter))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_cuts_do_not_matter(judge: Judge) -> None:
    check_cuts(judge, "llama", peft.OSFConfig(target_modules=LAYERS))


def test_wrong_adapters_are_refused(judge: Judge) -> None:
    check_refusals(judge, "llama", peft.OSFConfig(target_modules=["q_proj"]), {})
