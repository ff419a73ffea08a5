"""Layers of a base whose model class is not known: what their shapes tell is believed, what needs more is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import peft
import pytest

from ingot.errors import MismatchError
from tests.adapters.methods.judge import Judge
from tests.adapters.methods.wrong import spoiled
from tests.oracle.reference import adapter_tensors, assert_close, merged, on_disk, plan_of, write_adapter

LAYERS = ["q_proj", "k_proj", "down_proj"]


def nameless(judge: Judge, model: str, config: peft.PeftConfig) -> Path:
    """An adapter that does not say the class of its model either."""
    sound = spoiled(judge, model, config)
    tensors, settings = adapter_tensors(sound.adapter), {**sound.config, "auto_mapping": None}
    return write_adapter(sound.adapter.with_name(f"{sound.adapter.name}-nameless"), tensors, settings)


def unknown(judge: Judge, model: str) -> Path:
    """The base with a model type that transformers does not know."""
    base = judge.root / f"unknown-{model}"
    if not base.exists():
        shutil.copytree(judge.base(model), base)
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps({**config, "model_type": "no_such", "architectures": ["NoSuch"]}))
    return base


@pytest.mark.parametrize(
    "config",
    [
        peft.VeraConfig(r=4, target_modules=LAYERS),
        peft.RandLoraConfig(r=3, target_modules=LAYERS),
        peft.C3AConfig(block_size=8, target_modules=LAYERS),
        peft.UniLoraConfig(save_indices=True, target_modules=LAYERS),
    ],
    ids=lambda config: config.peft_type.value,
)
def test_tensors_that_have_the_weights_shape_tell_enough(judge: Judge, config: peft.PeftConfig) -> None:
    adapter = nameless(judge, "llama", config)
    merged(unknown(judge, "llama"), adapter, adapter / "ours")
    assert_close(on_disk(adapter / "ours"), on_disk(judge.by_peft("llama", adapter)), 1e-5)


@pytest.mark.parametrize(
    ("model", "config", "message"),
    [
        ("llama", peft.FourierFTConfig(n_frequency=9, target_modules=LAYERS), "nothing tells which"),
        ("llama", peft.WaveFTConfig(n_frequency=9, target_modules=LAYERS), "nothing tells which"),
        ("llama", peft.TinyLoraConfig(target_modules=LAYERS), "their order in the base is not known"),
        ("gpt2", peft.VeraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True), "nothing tells which"),
    ],
    ids=lambda value: value.peft_type.value if isinstance(value, peft.PeftConfig) else "",
)
def test_what_depends_on_the_class_is_refused(judge: Judge, model: str, config: peft.PeftConfig, message: str) -> None:
    adapter = nameless(judge, model, config)
    with pytest.raises(MismatchError, match=message) as caught:
        plan_of(unknown(judge, model), adapter, adapter / "never")
    assert "config.json" in str(caught.value.hint)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("path", ["model.layers.0.mlp", "model.norm", "no.such.module"])
@pytest.mark.parametrize("kind", [peft.VeraConfig(r=4), peft.WaveFTConfig(n_frequency=9, proportional_parameters=True)])
def test_a_layer_on_another_module_is_refused(judge: Judge, kind: peft.PeftConfig, path: str, known: bool) -> None:
    kind.target_modules = {"q_proj"}
    sound = spoiled(judge, "llama", kind)
    moved = "model.layers.0.self_attn.q_proj"
    tensors = {name.replace(moved, path): tensor for name, tensor in adapter_tensors(sound.adapter).items()}
    sound.base = sound.base if known else unknown(judge, "llama")
    sound.refusal(tensors, {"target_modules": None, "auto_mapping": None})
