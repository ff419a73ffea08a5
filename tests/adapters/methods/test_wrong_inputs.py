"""A file that PEFT did not write, or a config that was changed: refused with a sentence, and never half merged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from ingot.adapters import parse_config
from ingot.errors import AdapterError
from tests.adapters.files import read_tensors, replace_tensors
from tests.adapters.methods.judge import Judge
from tests.adapters.methods.wrong import check_refusals, spoiled
from tests.oracle.reference import adapter_tensors, merged

TARGETS: dict[str, Any] = {"target_modules": ["q_proj", "down_proj"]}
#: One adapter of each method, on the tiny Llama with biases.
CONFIGS: dict[str, Callable[[], peft.PeftConfig]] = {
    "adalora": lambda: peft.AdaLoraConfig(init_r=4, total_step=10, **TARGETS),
    "loha": lambda: peft.LoHaConfig(r=3, **TARGETS),
    "lokr": lambda: peft.LoKrConfig(r=1, decompose_both=True, **TARGETS),
    "lokr whole": lambda: peft.LoKrConfig(r=8, **TARGETS),
    "ia3": lambda: peft.IA3Config(feedforward_modules=["down_proj"], **TARGETS),
    "hira": lambda: peft.HiraConfig(r=3, **TARGETS),
    "glora": lambda: peft.GloraConfig(r=3, target_modules=["q_proj"]),
    "glora of vectors": lambda: peft.GloraConfig(
        config_A_B="vector", config_C="vector", config_D_E="vector", target_modules=["q_proj"]
    ),
    "beft": lambda: peft.BeftConfig(**TARGETS),
    "ln_tuning": lambda: peft.LNTuningConfig(target_modules=["input_layernorm", "q_proj"]),
    "trainable_tokens": lambda: peft.TrainableTokensConfig(token_indices=[4, 2]),
    "miss": lambda: peft.MissConfig(r=4, **TARGETS),
    "miss mini": lambda: peft.MissConfig(r=4, init_weights="mini", mini_r=4, **TARGETS),
    "miss bat": lambda: peft.MissConfig(r=4, init_weights="bat", **TARGETS),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_missing_an_extra_and_a_misshapen_tensor_are_refused(name: str, judge: Judge) -> None:
    check_refusals(judge, "llama_bias", CONFIGS[name](), {})


#: A tensor that the method has in another of its forms, or on another class of layer.
FOREIGN = {
    "loha": ("hada_t1", (3, 3, 1, 1)),
    "lokr": ("lokr_w1", (2, 2)),
    "lokr whole": ("lokr_t2", (8, 8, 1, 1)),
    "hira": ("hira_embedding_A", (3, 16)),
    "glora": ("glora_C.X", (16, 1)),
    "glora of vectors": ("glora_A.Xd", (16, 3)),
    "adalora": ("lora_B.weight", (16, 4)),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_tensor_of_another_form_of_the_method_is_named(name: str, judge: Judge) -> None:
    role, shape = FOREIGN[name]
    sound = spoiled(judge, "llama_bias", CONFIGS[name]())
    extra = f"base_model.model.model.layers.0.self_attn.q_proj.{role}"
    assert extra in sound.refusal({**adapter_tensors(sound.adapter), extra: torch.zeros(shape)}).message


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("loha", {"r": 2}), ("loha", {"rank_pattern": {"q_proj": 2}}), ("hira", {"r": 2}), ("miss", {"r": 8}),
        ("glora", {"r": 2}), ("glora", {"config_A_B": "vector"}), ("glora", {"config_C": "none"}),
        ("glora of vectors", {"config_D_E": "constant"}), ("adalora", {"init_r": 8}), ("lokr", {"r": 2}),
        ("adalora", {"rank_pattern": {"model.layers.0.self_attn.q_proj.lora_E": [True, False, True, True]}}),
        ("ia3", {"feedforward_modules": []}), ("ia3", {"feedforward_modules": ["q_proj", "down_proj"]}),
        ("miss", {"init_weights": "bat"}), ("miss mini", {"mini_r": 5}), ("miss bat", {"r": 5}),
        ("trainable_tokens", {"token_indices": [4]}), ("trainable_tokens", {"token_indices": [4, 67]}),
        ("beft", {"target_modules": ["q_proj"]}), ("ln_tuning", {"target_modules": ["norm"]}),
    ],
)  # fmt: skip
def test_a_config_of_another_adapter_is_refused(name: str, change: dict[str, Any], judge: Judge) -> None:
    error = spoiled(judge, "llama_bias", CONFIGS[name]()).refusal(settings=change)
    assert error.where is not None
    assert error.hint is not None


@pytest.mark.parametrize(
    ("method", "key", "values"),
    [
        ("ADALORA", "init_r", [0, "8", 2.5, True, None]),
        ("ADALORA", "lora_alpha", ["8", True, [], 1e400]),
        ("ADALORA", "rank_pattern", [[1], {"q": 3}, {"q": [1] * 12}, {"q": [True]}]),
        ("ADALORA", "fan_in_fan_out", ["no", 1]),
        ("LOHA", "r", [0, -1, "8", None, 2.0]),
        ("LOHA", "alpha", [0, "8", None, 10**400]),
        ("LOHA", "rank_pattern", [{"q": 0}, {"q": "3"}, [3], {"(": 3}]),
        ("LOKR", "alpha_pattern", [{"q": 0}, {"q": None}, 3, {"(a+)+": 3}]),
        ("LOKR", "r", [False, 1.5]),
        ("IA3", "feedforward_modules", [None, 3, [3], [""], {"a": 1}, "("]),
        ("HIRA", "r", ["32", 0]),
        ("HIRA", "rank_pattern", [{"q": -1}, {"[": 2}]),
        ("GLORA", "r", ["8", 0]),
        ("GLORA", "config_A_B", ["Lora", None, 3]),
        ("GLORA", "config_C", ["constant", True]),
        ("GLORA", "config_D_E", ["lora", []]),
        ("MISS", "r", ["64", 0]),
        ("MISS", "mini_r", [0, "1"]),
        ("MISS", "init_weights", ["olora", 3, []]),
        ("TRAINABLE_TOKENS", "token_indices", [None, [], ["a"], [-1], [1, 1], [True], "1", {"embed": [1]}]),
        ("LN_TUNING", "target_modules", [3, [3]]),
        ("BEFT", "modules_to_save", [[3], {"a": 1}]),
    ],
)
def test_a_setting_of_a_wrong_type_is_refused_by_its_name(method: str, key: str, values: list[object]) -> None:
    right = {"feedforward_modules": [], "token_indices": [1]}
    parse_config({"peft_type": method, **right})
    for value in values:
        with pytest.raises(AdapterError) as caught:
            parse_config(json.loads(json.dumps({"peft_type": method, **right, key: value})))
        assert key in caught.value.message or "pattern" in caught.value.message, (value, caught.value.message)


def test_zeros_of_an_untrained_path_must_be_zeros(judge: Judge, tmp_path: Path) -> None:
    adapter = judge.adapter("llama_bias", peft.GloraConfig(r=3, config_C="none", **TARGETS), "zeros")
    tensors = read_tensors(adapter)
    name = next(name for name in tensors if name.endswith("glora_C.zeros"))
    replace_tensors(adapter, {**tensors, name: tensors[name] + 1})
    with pytest.raises(AdapterError, match="untrained is not zero"):
        merged(judge.base("llama_bias"), adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()
