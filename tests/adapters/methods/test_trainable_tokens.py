"""The standalone method of trainable tokens against PEFT's own merge."""

from __future__ import annotations

import peft
import pytest

from tests.adapters.methods.judge import Judge


@pytest.mark.parametrize("model", ["llama", "llama_tied", "gpt2", "bart", "t5"])
def test_the_rows_of_the_input_embedding_are_pefts(model: str, judge: Judge) -> None:
    judge.check(model, peft.TrainableTokensConfig(token_indices=[5, 0, 66]))


def test_an_embedding_and_a_head_that_are_named_are_pefts(judge: Judge) -> None:
    judge.check("llama", peft.TrainableTokensConfig(token_indices=[3], target_modules=["embed_tokens", "lm_head"]))
