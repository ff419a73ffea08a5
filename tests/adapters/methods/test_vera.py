"""VeRA against PEFT's own merge."""

from __future__ import annotations

import peft
import pytest

from ingot.plan.model import Options
from tests.adapters.methods.cuts import check_cuts
from tests.adapters.methods.judge import Judge, jitter
from tests.adapters.methods.redrawn import check_rounding
from tests.adapters.methods.wrong import FLAG, INTEGER, NUMBER, check_refusals, spoiled
from tests.oracle.reference import adapter_tensors, assert_close, merged, on_disk, unheard, write_adapter

LAYERS = ["q_proj", "k_proj", "down_proj"]
pytestmark = pytest.mark.filterwarnings("ignore:Specified to not save")


@pytest.mark.parametrize("saved", [True, False])
def test_linear_layers_are_pefts(judge: Judge, saved: bool) -> None:
    judge.check(
        "llama_bias", peft.VeraConfig(r=4, save_projection=saved, projection_prng_key=11, target_modules=LAYERS)
    )


@pytest.mark.parametrize("saved", [True, False])
def test_conv1d_layers_of_gpt2_are_pefts(judge: Judge, saved: bool) -> None:
    judge.check("gpt2", peft.VeraConfig(r=4, save_projection=saved, target_modules=["c_attn", "c_proj"]))


def test_trained_biases_are_pefts(judge: Judge) -> None:
    judge.check("llama_bias", peft.VeraConfig(r=4, target_modules=LAYERS, bias="vera_only"))


def test_projections_are_drawn_in_the_bases_dtype(judge: Judge) -> None:
    check_rounding(judge, peft.VeraConfig(r=4, save_projection=False, target_modules=LAYERS))


def test_a_layer_that_is_not_in_the_file_counts_for_what_is_drawn(judge: Judge) -> None:
    """Without it the projections would be narrower, and every number of them another."""
    sound = spoiled(judge, "llama", peft.VeraConfig(r=4, save_projection=False, target_modules=LAYERS))
    tensors = {name: tensor for name, tensor in adapter_tensors(sound.adapter).items() if "down_proj" not in name}
    fewer = write_adapter(sound.adapter.with_name("vera-fewer"), tensors, sound.config)
    merged(sound.base, sound.adapter, sound.adapter / "ours")
    merged(sound.base, fewer, fewer / "ours", Options(accept_missing=True))
    whole, ours = on_disk(sound.adapter / "ours"), on_disk(fewer / "ours")
    for name, tensor in ours.items():
        assert ("down_proj" in name) != tensor.equal(whole[name]), name


def test_the_head_of_a_resized_vocabulary_counts_for_what_is_drawn(judge: Judge) -> None:
    settings = {"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["embed_tokens"]}
    config = peft.VeraConfig(r=4, save_projection=False, **settings)
    base, adapter = judge.base("llama"), judge.root / "vera-resized"
    with unheard():
        model = judge.load("llama")
        model.resize_token_embeddings(90, mean_resizing=False)
        wrapped = peft.get_peft_model(model, config)
        jitter(wrapped)
        wrapped.save_pretrained(adapter, save_embedding_layers=True)
        again = judge.load("llama")
        again.resize_token_embeddings(90, mean_resizing=False)
        peft.PeftModel.from_pretrained(again, adapter).merge_and_unload().save_pretrained(adapter / "by-peft")
    merged(base, adapter, adapter / "ours")
    assert_close(on_disk(adapter / "ours"), on_disk(adapter / "by-peft"), 1e-5)


def test_cuts_do_not_matter(judge: Judge) -> None:
    check_cuts(judge, "llama", peft.VeraConfig(r=4, target_modules=LAYERS))
    check_cuts(judge, "gpt2", peft.VeraConfig(r=4, save_projection=False, target_modules=["c_attn"]))


def test_wrong_adapters_are_refused(judge: Judge) -> None:
    wrong = {"r": INTEGER, "save_projection": FLAG, "fan_in_fan_out": FLAG}
    sound = check_refusals(judge, "llama", peft.VeraConfig(r=4, target_modules=["q_proj", "k_proj"]), wrong)
    assert "another configuration" in str(sound.refusal(settings={"r": 3}).hint)
    assert "`save_projection`" in str(sound.refusal(settings={"save_projection": False}))
    narrow = {name: t[:, :8] if name.endswith("vera_A") else t for name, t in adapter_tensors(sound.adapter).items()}
    assert "vera_A" in str(sound.refusal(narrow))


def test_wrong_seeds_are_refused(judge: Judge) -> None:
    config = peft.VeraConfig(r=4, save_projection=False, target_modules=["q_proj"])
    sound = check_refusals(judge, "llama", config, {"projection_prng_key": (*NUMBER, 1.5, -1, 2**63, None)})
    assert "all layers share is missing" in str(sound.refusal(settings={"save_projection": True}))
