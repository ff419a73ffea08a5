"""adapter_config.json of every PEFT release is read, and every value that changes the math is checked."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import peft
import pytest

from ingot.adapters import LoraConfig, parse_config
from ingot.adapters.dialects.mlx import is_mlx_config
from ingot.adapters.methods.registry import methods
from ingot.adapters.refusals import NEVER
from ingot.errors import AdapterError

REAL = Path(__file__).parents[3] / "shared" / "adapters"
#: The keys of PEFT 0.3.
OLDEST = {
    "base_model_name_or_path": "x", "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
    "init_lora_weights": True, "lora_alpha": 32, "lora_dropout": 0.1, "modules_to_save": None, "peft_type": "LORA",
    "r": 16, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", "enable_lora": None, "merge_weights": False,
}  # fmt: skip


def lora(**values: Any) -> LoraConfig:
    return parse_config({"peft_type": "LORA", "target_modules": ["q"], **values})


def test_a_config_of_peft_itself_is_read_with_the_same_values(tmp_path: Path) -> None:
    theirs = peft.LoraConfig(
        r=5, lora_alpha=7, use_rslora=True, target_modules=["q", "k"], rank_pattern={"q": 3}, alpha_pattern={"k": 2},
        trainable_token_indices={"embed": [1, 2]}, modules_to_save=["score"], bias="all", task_type="CAUSAL_LM",
    )  # fmt: skip
    theirs.save_pretrained(tmp_path)
    ours = parse_config(json.loads((tmp_path / "adapter_config.json").read_text()))
    for name in ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "bias", "peft_version", "task_type"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert set(ours.target_modules or ()) == theirs.target_modules
    assert ours.tokens("model.embed") == (1, 2)


def test_the_defaults_are_those_of_peft() -> None:
    ours, theirs = lora(), peft.LoraConfig()
    for name in ("r", "lora_alpha", "use_rslora", "use_dora", "lora_bias", "fan_in_fan_out", "bias", "rank_pattern",
                 "init_lora_weights", "ensure_weight_tying"):  # fmt: skip
        assert getattr(ours, name) == getattr(theirs, name), name


def test_the_oldest_config_is_read() -> None:
    config = parse_config(OLDEST)
    assert (config.r, config.lora_alpha, config.release) == (16, 32, None)


def test_unknown_keys_are_kept_for_the_record() -> None:
    assert lora(from_the_future={"x": 1}).raw["from_the_future"] == {"x": 1}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("r", 0), ("r", -1), ("r", True), ("r", "8"), ("r", 8.0), ("r", None), ("r", 2**40),
        ("lora_alpha", 0), ("lora_alpha", -4), ("lora_alpha", True), ("lora_alpha", "16"), ("lora_alpha", 10**400),
        ("use_rslora", 1), ("use_rslora", "true"), ("use_dora", []), ("lora_bias", 0), ("fan_in_fan_out", "no"),
        ("bias", "some"), ("bias", None), ("bias", True), ("rank_pattern", {"q": 0}), ("rank_pattern", {"q": 2.5}),
        ("rank_pattern", [1]), ("alpha_pattern", {"q": 0}), ("alpha_pattern", {"q": "1"}), ("modules_to_save", [1]),
        ("modules_to_save", {"a": 1}), ("target_modules", [""]), ("target_modules", 3), ("target_parameters", [None]),
        ("trainable_token_indices", [-1]), ("trainable_token_indices", [1, 1]), ("trainable_token_indices", ["a"]),
        ("trainable_token_indices", {"embed": [True]}), ("layers_to_transform", [1.5]), ("init_lora_weights", 3),
        ("init_lora_weights", "unheard_of"), ("peft_version", 21), ("use_bdlora", True),
        ("use_bdlora", {"nblocks": 0}), ("layer_replication", [[2, 1]]), ("layer_replication", [[0, 10**9]]),
    ],
)  # fmt: skip
def test_a_value_that_would_change_the_math_wrongly_is_refused_by_its_key(key: str, value: object) -> None:
    with pytest.raises(AdapterError) as caught:
        lora(**{key: value})
    assert key in caught.value.message or key in ("init_lora_weights",) or "nblocks" in caught.value.message


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("alora_invocation_tokens", [1, 2], "no merged form"),
        ("arrow_config", {"top_k": 2}, "no merged form"),
        ("use_qalora", True, "QALoRA"),
        ("enable_lora", [True, False, True], "enable_lora"),
        ("init_lora_weights", "pissa_niter_16", "cannot be repeated"),
        ("init_lora_weights", "corda", "CorDA"),
        ("init_lora_weights", "lora_ga", "LoRA-GA"),
        ("init_lora_weights", "loftq", "LoftQ"),
    ],
)
def test_what_has_no_merged_form_is_refused_with_the_reason_and_a_way_out(key: str, value: object, reason: str) -> None:
    with pytest.raises(AdapterError, match=reason) as caught:
        lora(**{key: value})
    assert caught.value.hint != AdapterError.default_hint


@pytest.mark.parametrize("value", [True, False, None, "gaussian", "eva", "orthogonal", "mica", "OLoRA", "pissa"])
def test_initializations_that_can_be_merged_are_taken(value: object) -> None:
    assert lora(init_lora_weights=value).init_lora_weights == (value if value is not None else False)


def test_every_method_of_peft_but_lora_is_merged_or_refused() -> None:
    assert {str(method.value) for method in peft.PeftType} - {"LORA"} <= {*methods(), *NEVER}
    assert not set(methods()) & NEVER
    for method in NEVER:
        with pytest.raises(AdapterError, match=method):
            parse_config({"peft_type": method})


def test_a_method_that_peft_gave_up_is_refused_with_the_way_out() -> None:
    assert not hasattr(peft.PeftType, "BONE")
    with pytest.raises(AdapterError, match="BONE") as caught:
        parse_config({"peft_type": "BONE", "r": 64})
    assert "convert-bone-to-miss" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ({"config": {"reduction_factor": 16}, "model_class": "BertAdapterModel"}, "AdapterHub"),
        ({"format": "cosmos3-native-lora"}, "cosmos3"),
        ({"base_model": "x"}, "base model"),
        ({}, "base model"),
        ({"anything": 1}, "no `peft_type`"),
        ({"peft_type": 7}, "peft_type"),
        ({"peft_type": "FINEGATES"}, "FINEGATES"),
    ],
)
def test_another_tools_file_is_called_by_its_name(raw: dict[str, Any], reason: str) -> None:
    with pytest.raises(AdapterError, match=reason):
        parse_config(raw)


def test_scaling_is_alpha_over_r_or_over_its_root() -> None:
    patterns = {"rank_pattern": {"q": 9}, "alpha_pattern": {"layers.0.q": 6}}
    assert lora(r=4, lora_alpha=2, **patterns).scaling("layers.0.q", 9) == 6 / 9
    stabilized = lora(r=4, lora_alpha=2, use_rslora=True, **patterns)
    assert stabilized.scaling("layers.1.q", 9) == pytest.approx(2 / math.sqrt(9))


def test_a_list_of_tokens_is_meant_for_the_input_embedding_and_a_table_for_the_modules_it_names() -> None:
    assert lora(trainable_token_indices=[4, 2]).tokens("model.wte") == (4, 2)
    table = lora(trainable_token_indices={"embed_tokens": [4, 2], "lm_head": [1]})
    assert table.tokens("model.embed_tokens") == (4, 2)
    assert table.tokens("lm_head") == (1,)
    assert table.tokens("model.norm") is None


def real_configs() -> list[Any]:
    paths = sorted(REAL.glob("configs/*.json"))
    return [pytest.param(path, id=path.stem) for path in paths] or [
        pytest.param(None, marks=pytest.mark.skip(reason="no real adapter files beside the checkout"))
    ]


@pytest.mark.parametrize("path", real_configs())
def test_a_real_config_is_read_or_refused_for_the_right_reason(path: Path) -> None:
    raw = json.loads(path.read_text())
    method = raw.get("peft_type")
    if method == "LORA" and not raw.get("enable_lora"):
        config = parse_config(raw)
        assert config.r == raw.get("r", 8)
        assert config.lora_alpha == raw.get("lora_alpha", 8)
        return
    unseeded = method == "ADAMSS" and "random_seed" not in raw  # saved before PEFT 0.20
    if method in methods() and not unseeded:
        assert parse_config(raw).method == method
        return
    if is_mlx_config(raw):  # tests/adapters/dialects/test_mlx.py reads them
        return
    with pytest.raises(AdapterError) as caught:
        parse_config(raw)
    assert caught.value.exit_code == 11
    reasons = {"LORA": "enable_lora", None: "not a PEFT adapter", "ADAMSS": "not seeded"}
    expected = reasons.get(method, str(method))
    assert expected in caught.value.message
    folder = path.stem.split("_")[1]
    if folder == "adapterhub":
        assert folder in caught.value.message.lower()
