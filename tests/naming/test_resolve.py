"""Adapter paths in the naming of another era, style or prefix than the checkpoint's."""

from __future__ import annotations

import importlib
import re

import pytest
import torch
from transformers import core_model_loading as conversion

from ingot.adapters.module import Module, ModuleKind
from ingot.errors import MismatchError
from ingot.naming import Names
from ingot.naming.layout import Layout
from ingot.naming.resolve import Resolver
from ingot.naming.table import Table
from tests.naming.conftest import Saver, assemble

# (model, path of an nn.Linear as transformers 4 named it, the parameter now, and which part of it)
ERAS = [
    ("mixtral", "model.layers.0.block_sparse_moe.experts.2.w1", "model.layers.0.mlp.experts.gate_up_proj", (2, 0, 24)),
    ("mixtral", "model.layers.1.block_sparse_moe.experts.0.w3", "model.layers.1.mlp.experts.gate_up_proj", (0, 24, 48)),
    ("mixtral", "model.layers.1.block_sparse_moe.experts.1.w2", "model.layers.1.mlp.experts.down_proj", (1, 0, 16)),
    ("mixtral", "model.layers.0.block_sparse_moe.gate", "model.layers.0.mlp.gate.weight", None),
    ("qwen2_moe", "model.layers.0.mlp.experts.2.gate_proj", "model.layers.0.mlp.experts.gate_up_proj", (2, 0, 8)),
    ("qwen2_moe", "model.layers.0.mlp.shared_expert.up_proj", "model.layers.0.mlp.shared_expert.up_proj.weight", None),
    ("qwen3_moe", "model.layers.1.mlp.experts.0.up_proj", "model.layers.1.mlp.experts.gate_up_proj", (0, 8, 16)),
    ("qwen3_moe", "model.layers.1.mlp.gate", "model.layers.1.mlp.gate.weight", None),
    ("olmoe", "model.layers.0.mlp.experts.1.down_proj", "model.layers.0.mlp.experts.down_proj", (1, 0, 16)),
    ("deepseek_v3", "model.layers.0.mlp.gate_proj", "model.layers.0.mlp.gate_proj.weight", None),
    ("deepseek_v3", "model.layers.1.mlp.experts.3.up_proj", "model.layers.1.mlp.experts.gate_up_proj", (3, 8, 16)),
    (
        "deepseek_v3",
        "model.layers.1.mlp.shared_experts.gate_proj",
        "model.layers.1.mlp.shared_experts.gate_proj.weight",
        None,
    ),
    ("phimoe", "model.layers.1.block_sparse_moe.experts.2.w3", "model.layers.1.mlp.experts.gate_up_proj", (2, 24, 48)),
    ("phimoe", "model.layers.1.block_sparse_moe.gate", "model.layers.1.mlp.router.weight", None),
    (
        "granitemoe",
        "model.layers.1.block_sparse_moe.router.layer",
        "model.layers.1.block_sparse_moe.router.weight",
        None,
    ),
    ("gpt_neox", "embed_out", "lm_head.weight", None),
    (
        "llava",
        "language_model.model.layers.1.self_attn.q_proj",
        "model.language_model.layers.1.self_attn.q_proj.weight",
        None,
    ),
    ("llava", "language_model.lm_head", "lm_head.weight", None),
    ("llava", "multi_modal_projector.linear_1", "model.multi_modal_projector.linear_1.weight", None),
    (
        "gemma3",
        "language_model.model.layers.0.mlp.up_proj",
        "model.language_model.layers.0.mlp.up_proj.weight",
        None,
    ),
    ("qwen2_vl", "model.layers.0.self_attn.v_proj", "model.language_model.layers.0.self_attn.v_proj.weight", None),
    ("qwen2_vl", "visual.blocks.1.attn.qkv", "model.visual.blocks.1.attn.qkv.weight", None),
    ("qwen2_5_vl", "model.layers.1.mlp.down_proj", "model.language_model.layers.1.mlp.down_proj.weight", None),
    ("vit", "vit.encoder.layer.1.attention.attention.query", "vit.layers.1.attention.q_proj.weight", None),
    ("vit", "vit.encoder.layer.0.output.dense", "vit.layers.0.mlp.fc2.weight", None),
]


@pytest.mark.parametrize("original_format", [True, False], ids=["old names on disk", "new names on disk"])
@pytest.mark.parametrize(("model", "path", "parameter", "part"), ERAS, ids=[f"{era[0]}: {era[1]}" for era in ERAS])
def test_a_path_of_transformers_4_finds_its_weight(
    saved: Saver, model: str, path: str, parameter: str, part: tuple[int, int, int] | None, original_format: bool
) -> None:
    checkpoint = saved(model, original_format)
    expected = checkpoint.state[parameter]
    if part is not None:
        expert, begin, end = part
        expected = expected[expert, begin:end]
    names = checkpoint.names()
    site = names.site(path)
    assert site.module.kind is ModuleKind.LINEAR
    assert torch.equal(assemble(site, "weight", checkpoint.disk), expected)
    by_name, leaf = names.parameter(f"{path}.weight")
    assert torch.equal(assemble(by_name, leaf, checkpoint.disk), expected)


@pytest.mark.parametrize(
    "model", ["mixtral", "qwen3_moe", "llava", "qwen2_vl", "gemma3", "vit", "gpt_neox", "phimoe", "nomic_bert"]
)
@pytest.mark.parametrize("original_format", [True, False], ids=["old names on disk", "new names on disk"])
def test_every_name_that_was_ever_on_disk_is_found_whichever_is_there_now(
    saved: Saver, model: str, original_format: bool
) -> None:
    checkpoint, other = saved(model, original_format), saved(model, not original_format)
    names = checkpoint.names()
    for name, tensor in other.disk.items():
        site, parameter = names.parameter(name)
        assert torch.equal(assemble(site, parameter, checkpoint.disk), tensor), name


@pytest.mark.parametrize("original_format", [True, False], ids=["old names on disk", "new names on disk"])
def test_a_fused_projection_is_found_whole_where_it_is_split_now(saved: Saver, original_format: bool) -> None:
    checkpoint = saved("nomic_bert", original_format)
    path = "nomic_bert.encoder.layers.1.attn.Wqkv"
    site = checkpoint.names().site(path)
    assert (site.module.kind, site.module.parameters["weight"]) == (ModuleKind.LINEAR, (48, 16))
    assert torch.equal(assemble(site, "weight", checkpoint.disk), saved("nomic_bert").disk[f"{path}.weight"])


def test_the_3_d_stack_of_granitemoe_is_found_by_its_old_name(saved: Saver) -> None:
    old, new = saved("granitemoe"), saved("granitemoe", False)
    path = "model.layers.0.block_sparse_moe.input_linear"
    for checkpoint in (old, new):
        site = checkpoint.names().site(path)
        assert site.module.kind is ModuleKind.EXPERTS
        assert torch.equal(assemble(site, "weight", checkpoint.disk), old.disk[f"{path}.weight"])


def test_an_expert_stack_is_found_under_the_old_prefix(saved: Saver) -> None:
    checkpoint = saved("mixtral")
    disk = {name.removeprefix("model."): tensor for name, tensor in checkpoint.disk.items()}
    for path in ("layers.0.mlp.experts", "model.layers.0.mlp.experts"):
        site = Names.of(disk, checkpoint.config).site(path)
        expected = checkpoint.state["model.layers.0.mlp.experts.gate_up_proj"]
        assert torch.equal(assemble(site, "gate_up_proj", disk), expected)


@pytest.mark.parametrize(
    ("model", "prefix", "path"),
    [
        ("llama", "model.", "layers.1.self_attn.q_proj"),
        ("bert", "bert.", "encoder.layer.0.attention.self.query"),
        ("gpt2", "transformer.", "h.1.attn.c_proj"),
        ("mixtral", "model.", "layers.0.block_sparse_moe.experts.1.w2"),
    ],
)
def test_a_path_of_the_bare_model_is_found_in_a_model_with_a_head_and_the_other_way_round(
    saved: Saver, model: str, prefix: str, path: str
) -> None:
    full = saved(model)
    bare = {name.removeprefix(prefix): tensor for name, tensor in full.disk.items() if name.startswith(prefix)}
    expected = full.names().site(prefix + path)
    weight = assemble(expected, "weight", full.disk)
    for disk in (full.disk, bare):
        for spelling in (path, prefix + path):
            site = Names.of(disk, full.config).site(spelling)
            assert torch.equal(assemble(site, "weight", disk), weight)
            assert site.module.kind is expected.module.kind


def test_a_bias_is_found_by_its_old_name(saved: Saver) -> None:
    checkpoint = saved("vit", False)
    site, parameter = checkpoint.names().parameter("vit.encoder.layer.1.attention.output.dense.bias")
    expected = saved("vit").disk["vit.encoder.layer.1.attention.output.dense.bias"]
    assert torch.equal(assemble(site, parameter, checkpoint.disk), expected)


def test_an_unknown_path_is_refused_with_near_matches_in_the_same_layer(saved: Saver) -> None:
    with pytest.raises(MismatchError) as refused:
        saved("llama").names().site("model.layers.1.self_attn.qproj")
    assert "model.layers.1.self_attn.q_proj" in str(refused.value.hint)
    assert refused.value.where == "model.layers.1.self_attn.qproj"


def test_an_unknown_parameter_is_refused(saved: Saver) -> None:
    for model in ("llama", "mixtral"):
        with pytest.raises(MismatchError, match="no such parameter"):
            saved(model).names().parameter("model.layers.9.self_attn.q_proj.weight")


def _renamed_in_a_chain() -> Resolver:
    """norm0 -> norm1 and norm1 -> norm2, as a GroupWeightRename of transformers does."""
    shapes = {"a.norm0.weight": (4,), "a.norm1.weight": (4,)}
    owners = {"a.norm0.weight": "a.norm1.weight", "a.norm1.weight": "a.norm2.weight"}
    paths = ("a.norm1", "a.norm2")
    return Resolver(
        Table(
            model_class="Chained",
            modules={path: Module(path, ModuleKind.OTHER, {"weight": (4,)}) for path in paths},
            shapes=shapes,
            layouts={owner: Layout.whole(name, shapes[name]) for name, owner in owners.items()},
            owners=owners,
        )
    )


def test_a_name_that_means_one_thing_in_memory_and_another_on_disk_is_refused_and_both_are_named() -> None:
    resolver = _renamed_in_a_chain()
    for ask in (lambda: resolver.site("a.norm1"), lambda: resolver.parameter("a.norm1.weight")):
        with pytest.raises(MismatchError, match="two things") as refused:
            ask()
        assert "a.norm1.weight" in str(refused.value.expected)
        assert "a.norm2.weight" in str(refused.value.found)
    (place,) = resolver.site("a.norm2").placements["weight"]
    assert place.tensor == "a.norm1.weight"
    (place,) = resolver.site("a.norm0").placements["weight"]
    assert place.tensor == "a.norm0.weight"


def test_a_path_that_two_prefixes_would_complete_to_different_modules_is_refused() -> None:
    shapes = {"model.model.q.weight": (4, 4), "q.weight": (4, 4)}
    modules = {path: Module(path, ModuleKind.LINEAR, {"weight": (4, 4)}) for path in ("model.model.q", "q")}
    table = Table(
        model_class="Nested",
        modules=modules,
        shapes=shapes,
        layouts={name: Layout.whole(name, shape) for name, shape in shapes.items()},
        owners={name: name for name in shapes},
        prefix="model",
    )
    with pytest.raises(MismatchError, match="several modules") as refused:
        Resolver(table).site("model.q")
    assert refused.value.found == "model.model.q, q"


def test_a_rotary_permutation_is_refused_only_where_an_adapter_touches_it(
    saved: Saver, monkeypatch: pytest.MonkeyPatch
) -> None:
    permuted = conversion.WeightConverter(
        "self_attn.q_proj.weight",
        "self_attn.q_proj.weight",
        operations=[conversion.PermuteForRope(permute_layer_names=["q_proj"])],
    )
    mapping = importlib.import_module("transformers.conversion_mapping")
    monkeypatch.setattr(mapping, "get_model_conversion_mapping", lambda _, **__: [permuted])
    checkpoint = saved("llama")
    names = checkpoint.names(auto_class="LlamaModel")  # not on the fast path
    assert names.model_class == "LlamaForCausalLM"
    site = names.site("model.layers.0.self_attn.k_proj")
    assert torch.equal(
        assemble(site, "weight", checkpoint.disk), checkpoint.state["model.layers.0.self_attn.k_proj.weight"]
    )
    with pytest.raises(MismatchError, match="does not stand in blocks") as refused:
        names.site("model.layers.0.self_attn.q_proj")
    assert "save_original_format=False" in str(refused.value.hint)
    assert names.unused == ()


def test_a_weight_of_another_shape_than_the_model_is_refused_only_where_an_adapter_touches_it(saved: Saver) -> None:
    checkpoint = saved("gpt2")
    disk = {**checkpoint.disk, "transformer.wpe.weight": torch.zeros(5, 16)}
    names = Names.of(disk, checkpoint.config)
    names.site("transformer.h.0.attn.c_attn")
    with pytest.raises(MismatchError, match=re.escape("[5, 16] on disk and [32, 16] in the model")):
        names.site("transformer.wpe")


def test_numbers_in_paths_are_not_confused(saved: Saver) -> None:
    checkpoint = saved("qwen3_moe")
    names = checkpoint.names()
    for name in checkpoint.disk:
        if re.search(r"experts\.\d+\.", name):
            (place,) = names.site(name.removesuffix(".weight")).placements["weight"]
            assert place.tensor == name
