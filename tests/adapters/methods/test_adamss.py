"""AdaMSS against PEFT's own merge of a second load, whose clusters are found anew."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch

from ingot.adapters.terms import Needs
from ingot.errors import MismatchError
from tests.adapters.methods.cuts import check_cuts
from tests.adapters.methods.judge import Judge
from tests.adapters.methods.wrong import INTEGER, NUMBER, check_refusals, spoiled
from tests.oracle.reference import adapter_tensors, merged, on_disk, write_adapter

LAYERS = ["q_proj", "down_proj"]


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 6, "num_subspaces": 3},
        {"num_subspaces": 20},  # more than there are rows
        {"r": 6, "num_subspaces": 3, "subspace_rank": 2, "random_seed": 5},
        {"r": 6, "num_subspaces": 2, "subspace_rank": 3, "use_dynamic_rank": True, "svd_threshold": 0.4},
    ],
    ids=str,
)
@pytest.mark.parametrize("model", ["llama", "llama_bias"])
def test_weights_and_biases_are_pefts(judge: Judge, model: str, settings: dict[str, Any]) -> None:
    plan = judge.check(model, peft.AdamssConfig(target_modules=LAYERS, **settings))
    assert {placed.term.needs for op in plan.ops for placed in op.terms} == {Needs.WHOLE}


def test_peft_finds_the_same_clusters_again(judge: Judge) -> None:
    config = peft.AdamssConfig(r=6, num_subspaces=3, target_modules=LAYERS)
    adapter = judge.adapter("llama_bias", config, "adamss-again")
    first = on_disk(judge.by_peft("llama_bias", adapter))
    torch.rand(5)
    second = on_disk(judge.by_peft("llama_bias", adapter))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_cuts_do_not_matter(judge: Judge) -> None:
    check_cuts(judge, "llama_bias", peft.AdamssConfig(r=6, num_subspaces=3, target_modules=LAYERS))


def test_clusters_of_another_draw_are_refused(judge: Judge) -> None:
    sound = spoiled(judge, "llama_bias", peft.AdamssConfig(r=2, num_subspaces=3, target_modules=LAYERS))
    adapter = write_adapter(
        sound.adapter.with_name("adamss-other"), adapter_tensors(sound.adapter), {**sound.config, "random_seed": 1}
    )
    with pytest.raises(MismatchError, match="clusters"):
        merged(sound.base, adapter, adapter.with_name("adamss-never"))


def test_clusters_that_were_not_seeded_are_refused(judge: Judge) -> None:
    sound = spoiled(judge, "llama", peft.AdamssConfig(r=6, num_subspaces=3, target_modules=LAYERS))
    assert "not seeded" in str(sound.refusal(settings={"random_seed": ...}))


def test_wrong_adapters_are_refused(judge: Judge) -> None:
    config = peft.AdamssConfig(r=6, num_subspaces=3, target_modules=["q_proj"])
    settings = {"r": INTEGER, "num_subspaces": INTEGER, "random_seed": (*NUMBER, -1, 1.5)}
    sound = check_refusals(judge, "llama_bias", config, settings)
    sound.refusal(settings={"r": 5})
    sound.refusal(settings={"num_subspaces": 2})
    sound.refusal(settings={"num_subspaces": 4})
