"""Naming against what transformers itself saved, for every tiny model."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ingot.adapters.module import ModuleKind
from ingot.naming import Names
from tests.naming.conftest import Saved, Saver, assemble, disk_coverage
from tests.tiny_models import MODELS, build

KINDS = {
    nn.Linear: ModuleKind.LINEAR,
    Conv1D: ModuleKind.CONV1D,
    nn.Embedding: ModuleKind.EMBEDDING,
    nn.Conv1d: ModuleKind.CONV,
    nn.Conv2d: ModuleKind.CONV,
    nn.Conv3d: ModuleKind.CONV,
    nn.MultiheadAttention: ModuleKind.MULTIHEAD,
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, saved: Saver) -> Saved:
    return saved(request.param)


@pytest.fixture(
    params=["mixtral", "granitemoe", "gemma3", "llava", "qwen2_vl", "gpt_neox", "vit", "qwen3_vl_moe", "nomic_bert"]
)
def resaved(request: pytest.FixtureRequest, saved: Saver) -> Saved:
    return saved(request.param, original_format=False)


def _check_every_parameter(saved: Saved, names: Names) -> None:
    for name, tensor in saved.state.items():
        site, parameter = names.parameter(name)
        source = site.aliases.get(parameter)
        if source is not None:
            assert parameter not in site.placements
            assert names.tied[name] == source
            assert torch.equal(tensor, saved.state[source])
        else:
            assert torch.equal(assemble(site, parameter, saved.disk), tensor), name


def test_every_parameter_assembled_from_disk_is_the_one_in_memory(model: Saved) -> None:
    _check_every_parameter(model, model.names())


def test_every_parameter_is_found_in_a_checkpoint_saved_in_the_layout_in_memory(resaved: Saved) -> None:
    assert set(resaved.disk) <= set(resaved.state)
    _check_every_parameter(resaved, resaved.names())


def test_every_module_has_its_class_and_the_shapes_of_its_parameters(saved: Saver, subtests: pytest.Subtests) -> None:
    for name, make in MODELS.items():
        with subtests.test(name):
            names = saved(name).names()
            for path, module in make().named_modules():
                kind = next((kind for cls, kind in KINDS.items() if isinstance(module, cls)), None)
                if kind is None:
                    continue
                site = names.site(path)
                assert site.module.path == path
                assert site.module.kind is kind, path
                own = {key: tuple(value.shape) for key, value in module.named_parameters(recurse=False)}
                assert {key: site.module.parameters[key] for key in own} == own


def test_the_placements_cover_every_tensor_on_disk_exactly_once(model: Saved) -> None:
    names = model.names()
    assert names.unused == ()
    assert names.absent == ()
    paths = dict.fromkeys(name.rpartition(".")[0] for name in model.state)
    counts = disk_coverage([names.site(path) for path in paths], model.disk)
    assert [name for name, count in counts.items() if not bool((count == 1).all())] == []


def test_expert_stacks_keep_the_order_of_declaration_and_their_orientation(saved: Saver) -> None:
    mixtral = saved("mixtral").names().site("model.layers.0.mlp.experts").module
    assert (mixtral.kind, mixtral.transposed_experts) == (ModuleKind.EXPERTS, False)
    assert list(mixtral.parameters) == ["gate_up_proj", "down_proj"]
    assert mixtral.parameters["gate_up_proj"] == (3, 48, 16)
    assert saved("gpt_oss").names().site("model.layers.0.mlp.experts").module.transposed_experts


def test_llama_4_counts_as_not_transposed_because_peft_reads_an_attribute_that_it_lacks(saved: Saver) -> None:
    module = saved("llama4_text").names().site("model.layers.0.feed_forward.experts").module
    experts = MODELS["llama4_text"]().get_submodule(module.path)
    assert module.kind is ModuleKind.EXPERTS
    assert module.transposed_experts == getattr(experts, "is_transposed", False)


def test_gate_rows_come_before_up_rows_and_one_placement_stands_for_one_expert(saved: Saver) -> None:
    site = saved("qwen3_moe").names().site("model.layers.1.mlp.experts")
    places = {(place.index, place.rows): place.tensor for place in site.placements["gate_up_proj"]}
    assert places == {
        (expert, rows): f"model.layers.1.mlp.experts.{expert}.{half}_proj.weight"
        for expert in range(3)
        for half, rows in {"gate": (0, 8), "up": (8, 16)}.items()
    }


def test_groups_of_a_convolution_are_told() -> None:
    settings = {"hidden_sizes": [4, 8], "depths": [1, 1], "num_stages": 2, "architectures": ["ConvNextModel"]}
    disk = build("ConvNextModel", "ConvNextConfig", **settings).state_dict()
    names = Names.of(disk, {**settings, "model_type": "convnext"})
    module = names.site("encoder.stages.0.layers.0.dwconv").module
    assert (module.kind, module.groups) == (ModuleKind.CONV, 4)


def test_a_multihead_attention_shows_its_output_projection(saved: Saver) -> None:
    model = saved("siglip_vision")
    path = next(name.removesuffix(".in_proj_weight") for name in model.state if name.endswith(".in_proj_weight"))
    site = model.names().site(path)
    assert site.module.kind is ModuleKind.MULTIHEAD
    assert set(site.module.parameters) == {"in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"}
    for parameter in site.module.parameters:
        assert torch.equal(assemble(site, parameter, model.disk), model.state[f"{path}.{parameter}"])
