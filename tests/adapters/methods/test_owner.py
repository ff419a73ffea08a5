"""What is PEFT's own: asked for before it is needed, and told where another release has it no more."""

from __future__ import annotations

from importlib import util

import peft
import pytest
import torch

from ingot.adapters.methods import owner
from ingot.errors import MissingComponent
from tests.adapters.methods.judge import Judge
from tests.oracle.reference import plan_of

CONFIGS = {
    "peft": [peft.OSFConfig, peft.PsoftConfig, peft.FrodConfig, peft.AdamssConfig],
    "sklearn": [peft.AdamssConfig],
}


@pytest.mark.parametrize(("library", "config"), [(name, one) for name, all_ in CONFIGS.items() for one in all_])
def test_a_plan_says_that_a_library_is_missing(
    judge: Judge, monkeypatch: pytest.MonkeyPatch, library: str, config: type[peft.PeftConfig]
) -> None:
    rank = {} if config in (peft.OSFConfig, peft.FrodConfig) else {"r": 4}
    name = f"missing-{library}-{config.__name__}"
    adapter = judge.adapter("llama", config(target_modules=["q_proj"], **rank), name)
    found = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == library else found(name))
    with pytest.raises(MissingComponent, match=f"{library} is missing") as caught:
        plan_of(judge.base("llama"), adapter, adapter.with_name("never"))
    assert "pip install" in str(caught.value.hint)


@pytest.mark.parametrize("function", ["no_such_function", "slice_pca"])
def test_another_release_of_peft_is_told_in_a_sentence(function: str) -> None:
    with pytest.raises(MissingComponent, match=r"expected peft>=0\.21"):
        owner.call("adamss.utils", function, torch.zeros(1), no_such_option=1)
