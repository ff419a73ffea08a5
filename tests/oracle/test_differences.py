"""Adapters that PEFT 0.21.2 with transformers 5.17 merges wrongly, or not at all: the formula decides.

What PEFT does is asserted too, so that we notice when it is mended; the table for people is docs/peft-differences.md.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from ingot.errors import AdapterError, MismatchError
from ingot.plan.model import Options
from tests.oracle.cases import Case
from tests.oracle.reference import (
    PREFIX,
    Workshop,
    adapter_tensors,
    assert_close,
    config_of,
    load_base,
    load_output,
    merged,
    merged_model,
    on_disk,
    plan_of,
    unheard,
    worst,
    write_adapter,
)

RANK, ALPHA = 4, 6


@dataclass(frozen=True)
class Old:
    """An adapter of the transformers 4 era: its module paths are the checkpoint's names on disk.

    Attributes:
        paths: regular expression for the modules that it changes.
        targets: target_modules.
        peft: what PEFT makes of it: "agrees", the exception that it raises, or a regular expression for the names on
            disk that it leaves wrong.
        incomplete: the targets name more modules than the adapter holds.
    """

    model: str
    what: str
    paths: str
    targets: Sequence[str] | str
    peft: str | type[Exception]
    config: Mapping[str, Any] = field(default_factory=dict)
    incomplete: bool = False

    @property
    def name(self) -> str:
        return f"{self.model}: {self.what}"


EXPERT = r".*\.experts\.\d+\.(w[123]|\w+_proj)"
WS = ("w1", "w2", "w3")
MLP = ("gate_proj", "up_proj", "down_proj")
OLD = [
    Old("mixtral", "w1, w2, w3", EXPERT, WS, "agrees"),
    Old(
        "mixtral",
        "w1, w2, w3 and attention, all-linear",
        rf"{EXPERT}|.*\.(q|k|v|o)_proj",
        [*WS, "q_proj", "k_proj", "v_proj", "o_proj"],
        "agrees",
    ),
    Old("mixtral", "w1, w2, w3, rslora", EXPERT, WS, r".*w[13]\.weight", {"use_rslora": True}),
    Old("mixtral", "w1 alone", r".*\.w1", ("w1",), ValueError),
    Old("mixtral", "w2 alone", r".*\.w2", ("w2",), "agrees"),
    Old("mixtral", "router", r".*block_sparse_moe\.gate", ("gate",), "agrees"),
    Old("qwen2_moe", "routed experts", EXPERT, MLP, EXPERT, incomplete=True),
    Old(
        "qwen2_moe",
        "shared expert alone",
        r".*shared_expert\.\w+_proj",
        tuple(f"shared_expert.{n}" for n in MLP),
        "agrees",
    ),
    Old("qwen2_moe", "routed and shared experts", rf"{EXPERT}|.*shared_expert\.\w+_proj", MLP, EXPERT),
    Old("qwen3_moe", "routed experts", EXPERT, MLP, "agrees"),
    Old("olmoe", "routed experts", EXPERT, MLP, "agrees"),
    Old("deepseek_v3", "routed experts", EXPERT, MLP, "agrees", incomplete=True),
    Old("deepseek_v3", "shared experts", r".*shared_experts\.\w+_proj", MLP, ".*", incomplete=True),
    Old("deepseek_v3", "first dense layer", r"model\.layers\.0\.mlp\.\w+_proj", MLP, ".*", incomplete=True),
    Old(
        "deepseek_v3",
        "everything",
        r".*\.(gate|up|down|o)_proj",
        (*MLP, "o_proj"),
        r".*(shared_experts|layers\.0\.mlp).*",
    ),
    Old("phimoe", "w1, w2, w3 and q_proj", rf"{EXPERT}|.*q_proj", (*WS, "q_proj"), r".*experts.*"),
    Old(
        "gpt_neox",
        "embed_out and query_key_value",
        r"embed_out|.*query_key_value",
        ("embed_out", "query_key_value"),
        "embed_out.weight",
    ),
    Old("qwen2_vl", "language model", r"model\.layers.*\.(q|up)_proj", ("q_proj", "up_proj"), ".*"),
    Old("qwen2_5_vl", "language model", r"model\.layers.*\.q_proj", ("q_proj",), ".*"),
    Old("llava", "language model by list", r"language_model.*\.q_proj", ("q_proj",), "agrees", incomplete=True),
    Old(
        "llava",
        "language model by pattern",
        r"language_model.*\.q_proj",
        r"language_model\.model\..*q_proj",
        ValueError,
    ),
    Old("gemma3", "language model by list", r"language_model.*\.down_proj", ("down_proj",), "agrees"),
    Old("vit", "query", r".*attention\.query", ("query",), ValueError),
    Old("llama", "plain", r".*\.(q|up)_proj", ("q_proj", "up_proj"), "agrees"),
]


def make(old: Old, base: Path, directory: Path) -> dict[str, torch.Tensor]:
    """Write the adapter; returns what the base's tensors become, in float64."""
    disk = on_disk(base)
    paths = [name.removesuffix(".weight") for name in disk if re.fullmatch(old.paths, name.removesuffix(".weight"))]
    assert paths
    generator = torch.Generator().manual_seed(5)
    scaling = ALPHA / (math.sqrt(RANK) if old.config.get("use_rslora") else RANK)
    tensors, expected = {}, {name: tensor.double() for name, tensor in disk.items()}
    for path in paths:
        rows, columns = disk[f"{path}.weight"].shape
        A = torch.randn(RANK, columns, generator=generator) * 0.1
        B = torch.randn(rows, RANK, generator=generator) * 0.1
        tensors |= {f"{PREFIX}{path}.lora_A.weight": A, f"{PREFIX}{path}.lora_B.weight": B}
        expected[f"{path}.weight"] += scaling * B.double() @ A.double()
    targets = old.targets if isinstance(old.targets, str) else list(old.targets)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": targets, "bias": "none"}
    write_adapter(directory, tensors, {**config, **old.config})
    return expected


@pytest.mark.parametrize("old", OLD, ids=lambda old: old.name)
def test_an_adapter_in_the_names_of_transformers_4_is_merged_by_the_formula(
    old: Old, workshop: Workshop, tmp_path: Path, target: Path
) -> None:
    base = workshop.base(old.model)
    expected = make(old, base, tmp_path / "adapter")
    merged(base, tmp_path / "adapter", target, Options(accept_missing=old.incomplete))
    assert_close(on_disk(target), expected)
    load_output(target)
    case = Case(old.model, old.what)
    if isinstance(old.peft, type):
        with pytest.raises(old.peft), unheard():
            merged_model(case, base, tmp_path / "adapter")
        return
    with unheard():
        merged_model(case, base, tmp_path / "adapter").save_pretrained(tmp_path / "peft")
    wrong = {name for name, value in worst(on_disk(tmp_path / "peft"), expected).items() if value > 1e-6}
    adapted = {name for name, tensor in on_disk(base).items() if not torch.equal(tensor.double(), expected[name])}
    pattern = "(?!)" if old.peft == "agrees" else rf"({old.peft})(\.weight)?"
    assert wrong == {name for name in adapted if re.fullmatch(pattern, name)}


TIED = {
    "lm_head": ["q_proj", "lm_head"],
    "embed_tokens": ["q_proj", "embed_tokens"],
    "both": ["q_proj", "embed_tokens", "lm_head"],
}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[5, 9, 1, 33, 60, 2]])).logits  # type: ignore[no-any-return]


def trained_logits(case: Case, base: Path, adapter: Path) -> torch.Tensor:
    """What the model answers with the adapter on it, before any merge: the model that was trained."""
    with unheard():
        return logits(peft.PeftModel.from_pretrained(load_base(case, base), adapter).eval())


def assert_answers(case: Case, base: Path, adapter: Path, target: Path, *, peft_is_right: bool) -> None:
    """The artifact answers as the trained model does, and PEFT's merged model does or does not."""
    expected = trained_logits(case, base, adapter)
    torch.testing.assert_close(logits(load_output(target)), expected, rtol=1e-4, atol=1e-5)
    theirs = logits(merged_model(case, base, adapter))
    difference = (theirs - expected).abs().max() / (expected - logits(load_base(case, base))).abs().max()
    assert bool(difference < 1e-4) is peft_is_right


@pytest.mark.parametrize("model", ["llama_tied", "gemma3_text"])
@pytest.mark.parametrize("which", TIED)
def test_lora_on_one_of_two_tied_embeddings_or_on_both_unties_them(
    model: str, which: str, workshop: Workshop, target: Path
) -> None:
    case = Case(model, f"tied, LoRA on {which}", {"target_modules": TIED[which]})
    base, adapter = workshop.base(model), workshop.adapter(case)
    merged(base, adapter, target)
    disk, tensors, scaling = on_disk(target), adapter_tensors(adapter), ALPHA / RANK
    W = on_disk(base)["model.embed_tokens.weight"].double()
    embedding, head = W, W
    if "embed_tokens" in TIED[which]:
        A, B = (tensors[f"{PREFIX}model.embed_tokens.lora_embedding_{one}"].double() for one in "AB")
        embedding = W + scaling * (B @ A).T
    if "lm_head" in TIED[which]:
        A, B = (tensors[f"{PREFIX}lm_head.lora_{one}.weight"].double() for one in "AB")
        head = W + scaling * B @ A
    ours = {name: disk[name] for name in ("model.embed_tokens.weight", "lm_head.weight")}
    assert_close(ours, {"model.embed_tokens.weight": embedding, "lm_head.weight": head})
    assert config_of(target)["tie_word_embeddings"] is False
    assert_answers(case, base, adapter, target, peft_is_right=False)


def test_a_tie_that_was_kept_in_training_is_kept_and_its_update_counts_once(workshop: Workshop, target: Path) -> None:
    options = {"target_modules": TIED["both"], "ensure_weight_tying": True}
    case = Case("llama_tied", "tied in training", options)
    base, adapter = workshop.base(case.model), workshop.adapter(case)
    merged(base, adapter, target)
    tensors = adapter_tensors(adapter)
    A, B = (tensors[f"{PREFIX}model.embed_tokens.lora_embedding_{one}"].double() for one in "AB")
    expected = on_disk(base)["model.embed_tokens.weight"].double() + ALPHA / RANK * (B @ A).T
    disk = on_disk(target)
    assert_close({"W": disk["model.embed_tokens.weight"]}, {"W": expected})
    assert "lm_head.weight" not in disk
    assert config_of(target)["tie_word_embeddings"] is True
    assert_answers(case, base, adapter, target, peft_is_right=False)


@pytest.mark.parametrize(
    ("model", "target_module"),
    [
        ("bart", "shared"),
        ("bart", "embed_tokens"),
        ("bart", "encoder.embed_tokens"),
        ("bart", "lm_head"),
        ("bert", "word_embeddings"),
        ("bert", "decoder"),
        ("opt", "lm_head"),
        ("gpt2", "wte"),
        ("gemma3", "lm_head"),
    ],
)
def test_where_one_flag_ties_several_parameters_all_of_them_part(
    model: str, target_module: str, workshop: Workshop, target: Path
) -> None:
    case = Case(model, f"tied, LoRA on {target_module}", {"target_modules": [target_module]})
    base, adapter = workshop.base(model), workshop.adapter(case)
    merged(base, adapter, target)
    assert config_of(target)["tie_word_embeddings"] is False
    expected = trained_logits(case, base, adapter)
    torch.testing.assert_close(logits(load_output(target)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target_module", ["shared", "lm_head"])
def test_untying_a_t5_is_refused_because_its_decoder_scales_only_a_tied_head(
    target_module: str, workshop: Workshop, target: Path
) -> None:
    case = Case("t5", f"tied, LoRA on {target_module}", {"target_modules": [target_module]})
    with pytest.raises(MismatchError, match=r"scales its output.*lm_head"):
        plan_of(workshop.base("t5"), workshop.adapter(case), target)


@pytest.mark.parametrize("model", ["llama", "mistral", "qwen3"])
@pytest.mark.parametrize("ranges", [[[0, 2], [0, 2]], [[0, 1], [0, 2]], [[1, 2]]], ids=str)
def test_repeated_layers_become_layers_of_their_own(
    model: str, ranges: list[list[int]], workshop: Workshop, target: Path
) -> None:
    options = {"target_modules": ["q_proj", "down_proj"], "layer_replication": ranges}
    case = Case(model, f"layers {ranges}", options)
    base, adapter = workshop.base(model), workshop.adapter(case)
    merged(base, adapter, target)
    sources = [layer for begin, end in ranges for layer in range(begin, end)]
    assert config_of(target)["num_hidden_layers"] == len(sources)
    disk, before, tensors = on_disk(target), on_disk(base), adapter_tensors(adapter)
    assert_close(disk, _replicated(before, tensors, sources))
    if model == "qwen3":  # its config lists a type for each layer: ours follows, PEFT's model fails in its forward pass
        assert load_output(target).config.layer_types == ["full_attention"] * len(sources)
        return
    # Where no layer is there twice, nothing is shared, and PEFT's own merge is right.
    assert_answers(case, base, adapter, target, peft_is_right=len(set(sources)) == len(sources))


def _replicated(
    before: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], sources: Sequence[int]
) -> dict[str, torch.Tensor]:
    layer = re.compile(r"model\.layers\.(\d+)\.(.+)")
    expected = {name: tensor.double() for name, tensor in before.items() if not layer.fullmatch(name)}
    for new, old in enumerate(sources):
        for name, tensor in before.items():
            match = layer.fullmatch(name)
            if match and int(match[1]) == old:
                expected[f"model.layers.{new}.{match[2]}"] = tensor.double().clone()
    for name, A in tensors.items():
        if name.endswith("lora_A.weight"):
            B, path = (
                tensors[name.replace("lora_A", "lora_B")],
                name.removeprefix(PREFIX).removesuffix(".lora_A.weight"),
            )
            expected[f"{path}.weight"] += ALPHA / RANK * B.double() @ A.double()
    return expected


def test_tensors_that_peft_does_not_expect_and_drops_are_refused(
    workshop: Workshop, tmp_path: Path, target: Path
) -> None:
    case = Case("llama", "q_proj and k_proj", {"target_modules": ["q_proj", "k_proj"]})
    base, trained = workshop.base("llama"), workshop.adapter(case)
    text = json.loads((trained / "adapter_config.json").read_text())
    adapter = write_adapter(tmp_path / "adapter", adapter_tensors(trained), {**text, "target_modules": ["q_proj"]})
    with pytest.raises(AdapterError, match=r"k_proj\.lora_A"):
        plan_of(base, adapter, target)
    with unheard():
        theirs = merged_model(case, base, adapter).state_dict()
    before = load_base(case, base).state_dict()
    assert all(torch.equal(theirs[name], before[name]) for name in before if "k_proj" in name)  # lost without a word


def test_names_without_pefts_prefix_are_read(workshop: Workshop, tmp_path: Path, target: Path) -> None:
    case = Case("llama", "q_proj", {"target_modules": ["q_proj"]})
    base, trained = workshop.base("llama"), workshop.adapter(case)
    bare = {name.removeprefix(PREFIX): tensor for name, tensor in adapter_tensors(trained).items()}
    adapter = write_adapter(tmp_path / "adapter", bare, json.loads((trained / "adapter_config.json").read_text()))
    merged(base, adapter, target)
    assert_close(on_disk(target), on_disk(workshop.by_peft(case)))
    with unheard():
        theirs = merged_model(case, base, adapter).state_dict()
    before = load_base(case, base).state_dict()
    assert all(torch.equal(theirs[name], before[name]) for name in before)  # lost


def test_an_attentions_output_projection_is_changed_twice_as_peft_trains_it(workshop: Workshop, target: Path) -> None:
    case = Case("siglip_vision", "attention pooling", {"target_modules": ["head.attention"]})
    base, adapter = workshop.base(case.model), workshop.adapter(case)
    plan = merged(base, adapter, target)
    tensors = adapter_tensors(adapter)
    (path,) = {name.partition(".lora_A")[0] for name in tensors if name.endswith("attention.lora_A.weight")}
    stem, before, ours = path.removeprefix(PREFIX), on_disk(base), on_disk(target)
    name = next(one for one in ours if one.endswith(f"{stem}.out_proj.weight"))
    A, B = (tensors[f"{path}.base_layer.out_proj.lora_{one}.weight"].double() for one in "AB")
    assert_close({name: ours[name]}, {name: before[name].double() + 2 * ALPHA / RANK * B @ A})
    assert_close(ours, on_disk(workshop.by_peft(case)))
    assert any("out_proj" in note for note in plan.notes)
