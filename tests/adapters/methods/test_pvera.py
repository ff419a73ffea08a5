"""PVeRA against PEFT's own merge."""

from __future__ import annotations

import peft
import pytest

from tests.adapters.methods.cuts import check_cuts
from tests.adapters.methods.judge import Judge
from tests.adapters.methods.redrawn import check_rounding
from tests.adapters.methods.wrong import FLAG, INTEGER, NUMBER, check_refusals

LAYERS = ["q_proj", "k_proj", "down_proj"]
pytestmark = pytest.mark.filterwarnings("ignore:Specified to not save")


@pytest.mark.parametrize("saved", [True, False])
def test_linear_layers_are_pefts(judge: Judge, saved: bool) -> None:
    judge.check("llama", peft.PveraConfig(r=4, save_projection=saved, projection_prng_key=11, target_modules=LAYERS))


def test_the_mean_is_merged_where_inference_draws_too(judge: Judge) -> None:
    judge.check("llama", peft.PveraConfig(r=4, sample_at_inference=True, target_modules=LAYERS))


@pytest.mark.parametrize("saved", [True, False])
def test_conv1d_layers_of_gpt2_are_pefts(judge: Judge, saved: bool) -> None:
    judge.check("gpt2", peft.PveraConfig(r=4, save_projection=saved, target_modules=["c_attn", "c_proj"]))


def test_projections_are_drawn_in_the_bases_dtype(judge: Judge) -> None:
    check_rounding(judge, peft.PveraConfig(r=4, save_projection=False, target_modules=LAYERS))


def test_cuts_do_not_matter(judge: Judge) -> None:
    check_cuts(judge, "llama", peft.PveraConfig(r=4, target_modules=LAYERS))


def test_wrong_adapters_are_refused(judge: Judge) -> None:
    wrong = {"r": INTEGER, "save_projection": FLAG, "fan_in_fan_out": FLAG}
    check_refusals(judge, "llama", peft.PveraConfig(r=4, target_modules=["q_proj", "k_proj"]), wrong)
    config = peft.PveraConfig(r=4, save_projection=False, target_modules=["q_proj"])
    sound = check_refusals(judge, "llama", config, {"projection_prng_key": (*NUMBER, 1.5, -1)})
    assert "all layers share is missing" in str(sound.refusal(settings={"save_projection": True}))
