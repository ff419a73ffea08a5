"""TinyLoRA against PEFT's own merge."""

from __future__ import annotations

import peft
import pytest

from tests.adapters.methods.cuts import check_cuts
from tests.adapters.methods.judge import Judge
from tests.adapters.methods.redrawn import check_rounding
from tests.adapters.methods.wrong import FLAG, INTEGER, NUMBER, check_refusals
from tests.oracle.reference import adapter_tensors

LAYERS = ["q_proj", "k_proj", "down_proj", "embed_tokens"]
pytestmark = pytest.mark.filterwarnings("ignore:Specified to not save")


@pytest.mark.parametrize("tying", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("saved", [True, False])
def test_linear_layers_and_embeddings_are_pefts(judge: Judge, saved: bool, tying: float) -> None:
    config = peft.TinyLoraConfig(r=3, u=5, weight_tying=tying, save_projection=saved, target_modules=LAYERS)
    judge.check("llama", config)


@pytest.mark.parametrize("saved", [True, False])
def test_conv1d_layers_of_gpt2_are_pefts(judge: Judge, saved: bool) -> None:
    config = peft.TinyLoraConfig(r=30, u=6, save_projection=saved, target_modules=["c_attn", "c_proj", "wpe"])
    judge.check("gpt2", config)


@pytest.mark.parametrize("model", ["phi3", "gemma2", "starcoder2", "qwen3_moe", "bart"])
def test_layers_are_counted_in_pefts_order(judge: Judge, model: str) -> None:
    targets = r".*(o_proj|qkv_proj|q_proj|v_proj|down_proj|c_fc|fc1)"
    judge.check(model, peft.TinyLoraConfig(u=3, weight_tying=0.4, save_projection=False, target_modules=targets))


def test_projections_are_drawn_in_the_bases_dtype(judge: Judge) -> None:
    config = peft.TinyLoraConfig(r=3, u=5, save_projection=False, target_modules=LAYERS[:3])
    check_rounding(judge, config)


def test_cuts_do_not_matter(judge: Judge) -> None:
    check_cuts(judge, "llama", peft.TinyLoraConfig(r=3, u=5, target_modules=LAYERS[:3]))


def test_wrong_adapters_are_refused(judge: Judge) -> None:
    wrong = {
        "r": INTEGER, "u": INTEGER, "weight_tying": (*NUMBER, -0.1, 1.1), "save_projection": FLAG,
        "fan_in_fan_out": FLAG,
    }  # fmt: skip
    sound = check_refusals(judge, "llama", peft.TinyLoraConfig(r=3, u=5, target_modules=["q_proj"]), wrong)
    sound.refusal(settings={"weight_tying": 1.0})
    assert "`save_projection`" in str(sound.refusal(settings={"save_projection": False}))


def test_wrong_seeds_are_refused(judge: Judge) -> None:
    config = peft.TinyLoraConfig(r=3, u=5, save_projection=False, target_modules=["q_proj"])
    sound = check_refusals(judge, "llama", config, {"projection_seed": (*NUMBER, -1, 1.5, None)})
    sound.refusal(settings={"save_projection": True})
    fewer = {name: t for name, t in adapter_tensors(sound.adapter).items() if not name.endswith("tinylora_v.1")}
    assert "for each group" in str(sound.refusal(fewer))
