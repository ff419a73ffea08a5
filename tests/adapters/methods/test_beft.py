"""BEFT against PEFT's own merge."""

from __future__ import annotations

import peft
import pytest

from ingot.errors import MismatchError
from tests.adapters.methods.judge import Judge


def test_biases_are_pefts(judge: Judge) -> None:
    judge.check("llama_bias", peft.BeftConfig(target_modules=["v_proj", "down_proj"]))
    judge.check("qwen2", peft.BeftConfig(target_modules=["v_proj"], init_weights=False))


def test_a_layer_without_a_bias_is_refused(judge: Judge) -> None:
    with pytest.raises(MismatchError, match="a layer that has none") as caught:
        judge.check("llama", peft.BeftConfig(target_modules=["v_proj"]))
    assert caught.value.hint is not None
    assert "unmerged" in caught.value.hint
