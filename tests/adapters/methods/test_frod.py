"""FRoD against PEFT's own merge of a second load, whose basis of outputs is computed anew."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from peft.tuners.frod.model import _category_from_key

from ingot.adapters.methods.frod import role_of
from ingot.adapters.terms import Needs
from ingot.errors import AdapterError
from tests.adapters.methods.cuts import check_cuts
from tests.adapters.methods.judge import Judge
from tests.adapters.methods.wrong import FLAG, check_refusals, spoiled
from tests.oracle.reference import adapter_tensors, merged, on_disk, write_adapter

LAYERS = ["q_proj", "down_proj", "k_proj"]


def config(**settings: Any) -> peft.FrodConfig:
    return peft.FrodConfig(**{"progressbar": False, "sparse_rate": 0.1, "target_modules": LAYERS, **settings})


@pytest.mark.parametrize("settings", [{}, {"sparse_rate": 0}, {"projection_prng_key": 5, "sparse_rate": 1}], ids=str)
def test_linear_layers_are_pefts(judge: Judge, settings: dict[str, Any]) -> None:
    plan = judge.check("llama", config(**settings))
    assert {placed.term.needs for op in plan.ops for placed in op.terms} == {Needs.WHOLE}


def test_transposed_layers_are_pefts(judge: Judge) -> None:
    judge.check("gpt2", config(target_modules=["c_attn", "c_proj"]))


def test_trained_biases_are_pefts(judge: Judge) -> None:
    judge.check("llama_bias", config(bias="frod_only"))


def test_peft_finds_the_same_basis_again(judge: Judge) -> None:
    adapter = judge.adapter("llama", config(), "frod-again")
    first = on_disk(judge.by_peft("llama", adapter))
    second = on_disk(judge.by_peft("llama", adapter))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize(
    "path",
    [
        "model.layers.0.self_attn.q_proj", "bert.encoder.layer.1.attention.output.dense", "lm_head", "layers.4.7",
        "bert.encoder.layer.1.output.dense", "transformer.h.0.attn.c_attn", "score.0", "blocks.3.fc1",
    ],
)  # fmt: skip
def test_a_role_is_pefts_category(path: str) -> None:
    assert role_of(path) == _category_from_key(path)


def test_cuts_do_not_matter(judge: Judge) -> None:
    check_cuts(judge, "llama", config())


def test_a_basis_that_was_not_saved_is_refused(judge: Judge) -> None:
    sound = spoiled(judge, "llama", config())
    shared = ("base_model.frod_V", "base_model.frod_s")
    own = {name: tensor for name, tensor in adapter_tensors(sound.adapter).items() if not name.startswith(shared)}
    assert "save_projection" in str(sound.refusal(own, {"save_projection": False}))
    assert "frod_V" in str(sound.refusal(own))


def test_places_outside_of_the_matrix_are_refused(judge: Judge) -> None:
    sound = spoiled(judge, "llama", config())
    name = "base_model.frod_s_indices.self_attn_q_proj"
    for place in (-1, 16):
        tensors = adapter_tensors(sound.adapter)
        tensors[name][0, 0] = place
        adapter = write_adapter(sound.adapter.with_name(f"frod-outside-{place}"), tensors, sound.config)
        with pytest.raises(AdapterError, match="outside"):
            merged(sound.base, adapter, adapter.with_name(f"frod-never-{place}"))


def test_wrong_adapters_are_refused(judge: Judge) -> None:
    flags = dict.fromkeys(("save_projection", "fan_in_fan_out"), FLAG)
    check_refusals(judge, "llama", config(target_modules=["k_proj"]), flags)
