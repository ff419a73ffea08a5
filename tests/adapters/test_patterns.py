"""Our matching of module paths gives what PEFT's gives, and no pattern makes it hang."""

from __future__ import annotations

import itertools
from typing import Any

import peft
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

from ingot.adapters import parse_config
from ingot.adapters.patterns import compile_pattern, pattern_value
from ingot.errors import AdapterError

PATHS = [
    *(f"model.layers.{i}.{part}.{name}" for i, (part, name) in itertools.product(
        (0, 1, 10, 11), (("self_attn", "q_proj"), ("mlp", "up_proj"), ("mlp.experts.3", "up_proj"), ("mlp", "gate")))),
    "q_proj", "model.q_proj_2", "lm_head", "model.norm", "model.layers.1.post_attention_layernorm", "score",
    "score.dense", "encoder.layer.3.attention.self.query", "h.7.attn.c_attn", "model.visual.blocks.2.attn.qkv",
]  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "names": {"target_modules": ["q_proj", "up_proj"]},
    "dotted names": {"target_modules": ["self_attn.q_proj", "model.layers.1.mlp.gate", "self.query"]},
    "regex": {"target_modules": r".*layers\.1.*\.(q_proj|up_proj)|lm_head"},
    "regex that is no full match": {"target_modules": "q_proj"},
    "excluded names": {"target_modules": ["q_proj", "up_proj"], "exclude_modules": ["1.self_attn.q_proj", "q_proj"]},
    "excluded regex": {"target_modules": ["q_proj", "up_proj"], "exclude_modules": r".*\.1\d\..*"},
    "saved modules": {"target_modules": ["score", "dense", "q_proj"], "modules_to_save": ["score"]},
    "layers": {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1, 10]},
    "one layer": {"target_modules": ["q_proj", "up_proj", "query"], "layers_to_transform": 3},
    "layers by pattern": {
        "target_modules": ["up_proj", "query", "c_attn"], "layers_to_transform": [1, 3, 7],
        "layers_pattern": ["layer", "h"],
    },
    "layers by a text": {"target_modules": ["up_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
    "no layers": {"target_modules": ["up_proj"], "layers_to_transform": []},
    "a full path is not bound to layers": {"target_modules": ["model.layers.0.mlp.gate"], "layers_to_transform": [5]},
    "parameters alone": {"target_modules": None, "target_parameters": ["experts.down_proj"]},
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_targets_are_those_of_peft(name: str) -> None:
    ours = parse_config({"peft_type": "LORA", **CONFIGS[name]})
    theirs = peft.LoraConfig(**CONFIGS[name])
    expected = [bool(check_target_module_exists(theirs, path)) for path in PATHS]
    assert [ours.targets(path) for path in PATHS] == expected


@given(
    keys=st.lists(
        st.sampled_from(["q_proj", "mlp.up_proj", r"layers\.1.*", "^model.layers.0.mlp.gate", "proj", r".*\.up_proj",
                         "model", r"(q|k)_proj", "up_proj|gate", r"\w+"]),
        unique=True,
    ),
    path=st.sampled_from(PATHS),
)  # fmt: skip
def test_the_first_pattern_that_matches_wins_as_in_peft(keys: list[str], path: str) -> None:
    pattern = {key: number + 100 for number, key in enumerate(keys)}
    assert pattern_value(path, pattern, 8) == pattern.get(get_pattern_key(pattern.keys(), path), 8)


@pytest.mark.parametrize(
    ("name", "path", "saved"),
    [
        ("norm", "model.layers.1.post_attention_layernorm", True),
        ("classifier", "pre_classifier", True),
        ("classifier", "classifier.dense", True),
        ("classifier", "classifier_2", False),
        ("model.norm", "model.norm", True),
        ("model.norm", "norm", False),
    ],
)
def test_modules_to_save_are_matched_by_their_end_without_a_dot(name: str, path: str, saved: bool) -> None:
    assert parse_config({"peft_type": "LORA", "modules_to_save": [name]}).saves(path) is saved


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$", "(a*)*", "((a|b)+)*x", r"(\w+)*", "(.*)+", "(?:a+b?)+", "(.*?,){2,}", r"(\w+\.?)+",
        "[", "(", "*", "a" * 5000, "(?P<x>a)(?P<x>b)", r"\1", "(" * 2000,
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", ["target_modules", "exclude_modules", "rank_pattern", "layers_pattern"])
def test_patterns_that_are_wrong_or_may_never_end_are_refused(key: str, pattern: str) -> None:
    value = {pattern: 3} if key == "rank_pattern" else pattern
    with pytest.raises(AdapterError) as caught:
        parse_config({"peft_type": "LORA", "target_modules": ["q"], key: value})
    assert caught.value.exit_code == 11


@pytest.mark.parametrize(
    "pattern",
    [
        r"(\w+\.)*q_proj", r"([^.]+\.)+q_proj", r"(?:[a-z]+\.)*up", r".*\.(q|k|v)_proj",
        r"model\.layers\.[\d]{1,}\.mlp",
        r"(?:.*?(?:vision|language).*?(?:self_attn|mlp).*?(?:k_proj|up_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.mlp)",
        r"^(?!.*visual).*(?:q_proj|o_proj)", "a{2",
    ],
)  # fmt: skip
def test_patterns_of_real_adapters_are_taken(pattern: str) -> None:
    assert compile_pattern(pattern).compiled.pattern == pattern


@pytest.mark.parametrize(("pattern", "length"), [(".*" * 9 + "x", 60), (".*a.*b.*c.*d.*x", 300), (".*.*x", 10_000)])
def test_many_repeats_on_a_long_path_are_refused_before_they_are_tried(pattern: str, length: int) -> None:
    config = parse_config({"peft_type": "LORA", "target_modules": pattern})
    with pytest.raises(AdapterError, match="too long"):
        config.targets("a" * length)


def test_a_pattern_of_the_usual_kind_takes_the_longest_real_paths() -> None:
    pattern = ".*?(?:vision|language).*?(?:self_attn|mlp).*?(?:k_proj|up_proj).*?"
    path = "model.language_model.vision_model.encoder.transformer.layers.27.self_attention.inner.self_attn.k_proj"
    assert parse_config({"peft_type": "LORA", "target_modules": pattern}).targets(path)
