"""Super-Tuning against PEFT's own merge."""

from __future__ import annotations

from typing import Any

import peft
import pytest

from ingot.errors import AdapterError
from tests.adapters.methods.cuts import check_cuts
from tests.adapters.methods.judge import Judge
from tests.adapters.methods.wrong import FLAG, INTEGER, NUMBER, check_refusals, spoiled
from tests.oracle.reference import adapter_tensors, merged, write_adapter

LAYERS = ["q_proj", "k_proj", "down_proj"]


@pytest.mark.parametrize("settings", [{}, {"select_top": False}, {"r": 3}, {"r": 2, "lora_alpha": 5.0}], ids=str)
def test_linear_layers_are_pefts(judge: Judge, settings: dict[str, Any]) -> None:
    judge.check("llama", peft.SupertuningConfig(sparsity=0.9, target_modules=LAYERS, **settings))


def test_cuts_do_not_matter(judge: Judge) -> None:
    check_cuts(judge, "llama", peft.SupertuningConfig(sparsity=0.9, r=2, target_modules=LAYERS))


def test_wrong_adapters_are_refused(judge: Judge) -> None:
    config = peft.SupertuningConfig(sparsity=0.9, target_modules=["k_proj"])
    sound = check_refusals(judge, "llama", config, {"r": INTEGER, "save_precomputed_indices": FLAG, "lora_alpha": (1,)})
    sound.refusal(settings={"r": 2})
    error = sound.refusal(settings={"save_precomputed_indices": False})
    assert "were not saved" in str(error)
    assert "merge_and_unload" in str(error.hint)


def test_wrong_hybrids_are_refused(judge: Judge) -> None:
    config = peft.SupertuningConfig(sparsity=0.9, r=2, target_modules=["k_proj"])
    sound = check_refusals(judge, "llama", config, {"lora_alpha": NUMBER})
    sound.refusal(settings={"r": 3})
    sound.refusal(settings={"r": None, "lora_alpha": None})


@pytest.mark.parametrize("index", [-1, 128])
def test_an_element_that_the_weight_does_not_have_is_refused(judge: Judge, index: int) -> None:
    sound = spoiled(judge, "llama", peft.SupertuningConfig(sparsity=0.9, target_modules=["k_proj"]))
    tensors = adapter_tensors(sound.adapter)
    name = next(name for name in tensors if name.endswith("supertuning_indices"))
    tensors[name][0] = index
    adapter = write_adapter(sound.adapter.with_name(f"supertuning-{index}"), tensors, sound.config)
    with pytest.raises(AdapterError, match=f"out of range: expected 0 to 127, found {index}.*supertuning_indices"):
        merged(sound.base, adapter, adapter / "never")
