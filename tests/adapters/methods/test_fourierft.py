"""FourierFT against PEFT's own merge."""

from __future__ import annotations

import peft
import pytest

from tests.adapters.methods.cuts import check_cuts
from tests.adapters.methods.judge import Judge
from tests.adapters.methods.wrong import NUMBER, POSITIVE, check_refusals

LAYERS = ["q_proj", "k_proj", "down_proj"]


@pytest.mark.parametrize("count", [1, 20, 128])
def test_linear_layers_are_pefts(judge: Judge, count: int) -> None:
    judge.check("llama", peft.FourierFTConfig(n_frequency=count, scaling=40.0, target_modules=LAYERS))


def test_the_pattern_of_counts_is_pefts(judge: Judge) -> None:
    """A key is found after a dot, or is the whole path; parts of an alternative are not held together."""
    pattern = {"model.layers.1.mlp.down_proj": 9, "0.self_attn.k_proj": 7, "q_proj|v_proj": 11, "layers": 13}
    judge.check("llama", peft.FourierFTConfig(n_frequency=20, n_frequency_pattern=pattern, target_modules=LAYERS))


def test_conv1d_layers_of_gpt2_are_pefts(judge: Judge) -> None:
    judge.check("gpt2", peft.FourierFTConfig(n_frequency=30, random_loc_seed=3, target_modules=["c_attn", "c_proj"]))


def test_cuts_do_not_matter(judge: Judge) -> None:
    check_cuts(judge, "llama", peft.FourierFTConfig(n_frequency=30, target_modules=LAYERS))
    check_cuts(judge, "gpt2", peft.FourierFTConfig(n_frequency=30, target_modules=["c_attn"]))


def test_wrong_adapters_are_refused(judge: Judge) -> None:
    wrong = {
        "n_frequency": (*POSITIVE, 1.5), "n_frequency_pattern": ([1], "k_proj", {"k_proj": 0}, {"k_proj": "1"}),
        "scaling": NUMBER, "random_loc_seed": (*NUMBER, -1, 1.5, None),
    }  # fmt: skip
    sound = check_refusals(judge, "llama", peft.FourierFTConfig(n_frequency=20, target_modules=["k_proj"]), wrong)
    sound.refusal(settings={"n_frequency": 19})
    sound.refusal(settings={"n_frequency_pattern": {"(": 1}})
