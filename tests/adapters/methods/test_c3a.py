"""C3A against PEFT's own merge."""

from __future__ import annotations

import peft
import pytest

from tests.adapters.methods.cuts import check_cuts
from tests.adapters.methods.judge import Judge
from tests.adapters.methods.wrong import INTEGER, check_refusals

LAYERS = ["q_proj", "k_proj", "up_proj"]


@pytest.mark.parametrize("block", [1, 4, 8])
def test_linear_layers_are_pefts(judge: Judge, block: int) -> None:
    judge.check("llama", peft.C3AConfig(block_size=block, target_modules=LAYERS))


def test_the_pattern_of_blocks_is_pefts(judge: Judge) -> None:
    pattern = {"model.layers.1.mlp.up_proj": 2, "0.self_attn.k_proj": 4, "q_proj|v_proj": 16, "layers": 13}
    judge.check("llama", peft.C3AConfig(block_size=8, block_size_pattern=pattern, target_modules=LAYERS))


def test_cuts_do_not_matter(judge: Judge) -> None:
    check_cuts(judge, "llama", peft.C3AConfig(block_size=8, target_modules=LAYERS))


def test_wrong_adapters_are_refused(judge: Judge) -> None:
    wrong = {"block_size": INTEGER, "block_size_pattern": ([1], "k_proj", {"k_proj": 0}, {"k_proj": 1.5})}
    sound = check_refusals(judge, "llama", peft.C3AConfig(block_size=8, target_modules=["k_proj"]), wrong)
    assert "`block_size`" in str(sound.refusal(settings={"block_size": 5}))
    sound.refusal(settings={"block_size": 4})
    sound.refusal(settings={"block_size_pattern": {"(": 4}})
