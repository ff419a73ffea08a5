"""What has no merged form is refused with its reason and a way out, before anything is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn

from ingot.errors import IngotError
from ingot.merge import prepare
from tests.oracle.cases import Case
from tests.oracle.reference import (
    PREFIX,
    Workshop,
    adapter_tensors,
    load_base,
    plan_of,
    randomize,
    unheard,
    write_adapter,
)

PLAIN = Case("llama", "plain", {"target_modules": ["q_proj", "v_proj"]})

#: Changes to the config of a plain LoRA adapter, and what the message must say.
FEATURES: dict[str, tuple[dict[str, Any], str]] = {
    "aLoRA": ({"alora_invocation_tokens": [1, 2]}, "aLoRA"),
    "Arrow": ({"arrow_config": {"top_k": 3}}, "Arrow"),
    "LoftQ": ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, "LoftQ"),
    "LoRA-GA": ({"init_lora_weights": "lora_ga"}, "LoRA-GA"),
    "CorDA": ({"init_lora_weights": "corda"}, "CorDA"),
    "pissa_niter": ({"init_lora_weights": "pissa_niter_16"}, "pissa_niter"),
    "QALoRA": ({"use_qalora": True}, "QALoRA"),
    "KaSA without its diagonal": ({"kasa_config": {"beta": 1.0}}, "lora_diag"),
    "X-LoRA": ({"peft_type": "XLORA"}, "XLORA"),
    "Poly": ({"peft_type": "POLY"}, "POLY"),
    "an unknown method": ({"peft_type": "TOMORROW"}, "TOMORROW"),
    "an unknown initialization": ({"init_lora_weights": "tomorrow"}, "tomorrow"),
    "parts of a fused layer": ({"enable_lora": [True, False, True]}, "enable_lora"),
    "DoRA with lora_bias": ({"use_dora": True, "lora_bias": True}, "lora_bias"),
}

#: PEFT's own configs of methods that have no merged form, trained on the tiny Llama and saved by PEFT.
METHODS: dict[str, Callable[[], peft.PeftConfig]] = {
    "prompt tuning": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "prefix tuning": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "P-tuning": lambda: peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=8),
}


def refused(base: Path, adapter: Path, target: Path) -> IngotError:
    with pytest.raises(IngotError) as caught:
        plan_of(base, adapter, target)
    assert caught.value.exit_code in (11, 12)
    assert caught.value.hint
    assert list(target.parent.iterdir()) == []
    return caught.value


@pytest.mark.parametrize("name", FEATURES)
def test_a_lora_without_merged_form_is_refused(name: str, workshop: Workshop, tmp_path: Path, target: Path) -> None:
    changes, said = FEATURES[name]
    trained = workshop.adapter(PLAIN)
    config = {**json.loads((trained / "adapter_config.json").read_text()), **changes}
    adapter = write_adapter(tmp_path / "adapter", adapter_tensors(trained), config)
    error = refused(workshop.base("llama"), adapter, target)
    assert said.lower() in f"{error.message} {error.hint}".lower()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_without_merged_form_is_refused_by_its_name(
    name: str, workshop: Workshop, tmp_path: Path, target: Path
) -> None:
    config = METHODS[name]()
    with unheard():
        peft.get_peft_model(load_base(PLAIN, workshop.base("llama")), config).save_pretrained(tmp_path / "adapter")
    error = refused(workshop.base("llama"), tmp_path / "adapter", target)
    assert str(config.peft_type.value) in error.message


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, groups=2)
        self.conv.weight.data.normal_()


def test_lora_on_a_convolution_with_groups_is_refused(tmp_path: Path, target: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "base").mkdir()
    model = Grouped()
    save_file(model.state_dict(), tmp_path / "base" / "model.safetensors")
    (tmp_path / "base" / "config.json").write_text('{"model_type": "toy"}')
    with unheard():
        wrapped = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["conv"]))
        randomize(wrapped, 0)
        wrapped.save_pretrained(tmp_path / "adapter")
    error = refused(tmp_path / "base", tmp_path / "adapter", target)
    assert "groups" in error.message
    assert "conv" in error.message


def test_a_head_that_needs_more_than_base_and_adapter_bring_is_refused(workshop: Workshop, target: Path) -> None:
    """A BertForMaskedLM has no pooler; PEFT puts a random one under the classifier and saves nothing of it."""
    case = Case(
        "bert", "classifier alone", {"target_modules": ["query"]}, labels=3, train_as="BertForSequenceClassification"
    )
    error = refused(workshop.base("bert"), workshop.adapter(case), target)
    assert "bert.pooler.dense.weight" in error.message


def test_lora_bias_on_a_layer_without_bias_is_refused(workshop: Workshop, tmp_path: Path, target: Path) -> None:
    trained = workshop.adapter(
        Case("llama_bias", "lora_bias", {"target_modules": ["q_proj", "down_proj"], "lora_bias": True})
    )
    config = json.loads((trained / "adapter_config.json").read_text())
    adapter = write_adapter(tmp_path / "adapter", adapter_tensors(trained), config)
    assert "lora_B.bias" in refused(workshop.base("llama"), adapter, target).message


@pytest.mark.parametrize("model", ["qwen2", "mistral", "gpt2", "mixtral", "bert", "phi3", "gemma3_text"])
def test_an_adapter_of_another_architecture_is_refused(model: str, workshop: Workshop, target: Path) -> None:
    case = Case("llama_bias", "all biases", {"target_modules": ["q_proj", "down_proj"], "bias": "all"})
    refused(workshop.base(model), workshop.adapter(case), target)


def test_experts_of_a_release_that_swapped_the_axes_are_refused_until_it_is_named(
    workshop: Workshop, tmp_path: Path, target: Path
) -> None:
    """Square experts saved by an unknown release: both readings fit, and only one is right."""
    base = workshop.base("gpt_oss")
    shapes = {"gate_up_proj": (3, 16, 48), "down_proj": (3, 24, 16)}
    generator = torch.Generator().manual_seed(2)
    tensors = {}
    for layer in range(2):
        for name, stem in (("gate_up_proj", ".base_layer"), ("down_proj", "")):
            experts, d1, d2 = shapes[name]
            path = f"{PREFIX}model.layers.{layer}.mlp.experts{stem}"
            tensors[f"{path}.lora_A.weight"] = torch.randn(experts * 2, d2, generator=generator)
            tensors[f"{path}.lora_B.weight"] = torch.randn(d1, experts * 2, generator=generator)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": [],
              "target_parameters": ["experts.gate_up_proj", "experts.down_proj"], "peft_version": "0.21.2"}  # fmt: skip
    adapter = write_adapter(tmp_path / "adapter", tensors, config)
    error = refused(base, adapter, target)
    assert "experts" in error.message


def test_a_quantized_base_is_refused(workshop: Workshop, tmp_path: Path, target: Path) -> None:
    import shutil

    base = tmp_path / "base"
    shutil.copytree(workshop.base("llama"), base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "bitsandbytes"}}))
    with pytest.raises(IngotError) as caught, prepare(str(base), [(str(workshop.adapter(PLAIN)), 1.0)], target=target):
        pass
    assert caught.value.exit_code == 10
    assert "bitsandbytes" in caught.value.message
    assert caught.value.hint
