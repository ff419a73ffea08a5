"""The families that are answered without transformers, held against its classes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import transformers

from ingot.adapters.module import ModuleKind
from ingot.naming import Names, fast, transformers_map
from ingot.naming.table import Table
from tests.naming.conftest import Saved, Saver
from tests.tiny_models import HEAD_DIM, MODELS, build

FAMILIES = list(fast.FAMILIES)


def _slow(saved: Saved) -> Table:
    shapes = {name: tuple(tensor.shape) for name, tensor in saved.disk.items()}
    return transformers_map.table(shapes, saved.config, task=None, auto_class=None, num_labels=None)


def _fast(saved: Saved, **changes: object) -> Table | None:
    shapes = {name: tuple(tensor.shape) for name, tensor in saved.disk.items()}
    return fast.table(shapes, {**saved.config, **changes}, task=None, auto_class=None)


@pytest.mark.parametrize("name", [*FAMILIES, "llama_tied", "llama_bias"])
def test_the_table_of_a_family_says_what_its_class_says(saved: Saver, name: str) -> None:
    quick, full = _fast(saved(name)), _slow(saved(name))
    assert quick is not None
    assert quick.model_class == full.model_class
    assert dict(quick.tied) == dict(full.tied)
    assert quick.unused == full.unused == ()
    assert full.absent == ()
    with_parameters = {path for path, module in full.modules.items() if module.parameters}
    assert set(quick.modules) == with_parameters
    for path in with_parameters:
        one, other = quick.site(path), full.site(path)
        assert one.module.kind is other.module.kind, path
        assert one.module.parameters == other.module.parameters
        assert one.placements == other.placements
        assert one.aliases == other.aliases


@pytest.mark.parametrize("name", [*FAMILIES, "llama_tied"])
def test_layers_stand_in_the_order_in_which_the_class_makes_them(saved: Saver, name: str) -> None:
    quick, full = _fast(saved(name)), _slow(saved(name))
    assert quick is not None

    def layers(table: Table) -> list[str]:
        kinds = (ModuleKind.LINEAR, ModuleKind.EMBEDDING)
        return [path for path, module in table.modules.items() if module.kind in kinds]

    assert layers(quick) == layers(full)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_head_is_tied_by_default_where_the_configuration_class_says_so(model_type: str) -> None:
    family = fast.FAMILIES[model_type]
    config = getattr(transformers, family.model_class).config_class()
    assert config.model_type == model_type
    assert config.tie_word_embeddings is family.tied


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("flag", [True, False])
def test_a_family_has_exactly_the_parameters_of_its_class_with_and_without_biases(model_type: str, flag: bool) -> None:
    family = fast.FAMILIES[model_type]
    flags = dict.fromkeys(("attention_bias", "mlp_bias", "use_bias"), flag)
    settings = {**HEAD_DIM, **flags, "tie_word_embeddings": False}
    config_class = getattr(transformers, family.model_class).config_class.__name__
    state = build(family.model_class, config_class, **settings).state_dict()
    assert family.parameters(flags, 2) == {name: tensor.ndim for name, tensor in state.items()}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_default_holds_where_the_file_does_not_say(saved: Saver, model_type: str) -> None:
    saved_model = saved(model_type)
    config = {key: value for key, value in saved_model.config.items() if key != "tie_word_embeddings"}
    quick = Names.of(saved_model.disk, config)
    full = _slow(Saved(saved_model.state, saved_model.disk, config))
    assert dict(quick.tied) == dict(full.tied)


def test_names_of_a_family_never_import_transformers_or_torch(saved: Saver) -> None:
    checkpoint = saved("gemma2")
    shapes = {name: list(tensor.shape) for name, tensor in checkpoint.disk.items()}
    code = """
import json, sys
from types import SimpleNamespace
from ingot.naming import Names
shapes, config = json.load(sys.stdin)
names = Names.of({name: SimpleNamespace(shape=tuple(shape)) for name, shape in shapes.items()}, config)
for name in shapes:
    names.parameter(name)
    names.site(name.removesuffix(".weight"))
assert names.site("lm_head").aliases == {"weight": "model.embed_tokens.weight"}
assert (names.model_class, names.unused, dict(names.tied)) == (
    "Gemma2ForCausalLM", (), {"lm_head.weight": "model.embed_tokens.weight"})
assert names.new_on_disk_name("lm_head.weight") == "lm_head.weight"
print(sorted({"torch", "transformers", "numpy"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([shapes, dict(checkpoint.config)]),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": ["LlamaForSequenceClassification"]},
        {"architectures": None},
        {"model_type": "llama4"},
        {"num_hidden_layers": 1},
        {"num_hidden_layers": None},
        {"tie_word_embeddings": None},
        {"attention_bias": True},
    ],
)
def test_anything_unusual_in_the_configuration_leaves_the_fast_path(saved: Saver, changes: dict[str, object]) -> None:
    assert _fast(saved("llama")) is not None
    assert _fast(saved("llama"), **changes) is None


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.0.self_attn.extra.weight", (4, 4)),
        ("model.layers.00.self_attn.q_proj.weight", (4, 4)),
        ("model.layers.0.self_attn.q_proj.weight", (4,)),
        ("model.layers.0.input_layernorm.weight", (4, 4)),
        ("model.layers.0.self_attn.q_proj.weight_scale", (4,)),
        ("vision.weight", (4, 4)),
        ("score.weight", (4, 4)),
    ],
)
def test_any_other_tensor_leaves_the_fast_path(saved: Saver, name: str, shape: tuple[int, ...]) -> None:
    shapes = {key: tuple(tensor.shape) for key, tensor in saved("llama").disk.items()} | {name: shape}
    assert fast.table(shapes, saved("llama").config, task=None, auto_class=None) is None


@pytest.mark.parametrize("model", ["llama", "qwen2", "gemma2", "starcoder2"])
def test_any_missing_tensor_leaves_the_fast_path_and_is_absent(saved: Saver, model: str) -> None:
    checkpoint = saved(model)
    for name in checkpoint.disk:
        disk = {key: tensor for key, tensor in checkpoint.disk.items() if key != name}
        shapes = {key: tuple(tensor.shape) for key, tensor in disk.items()}
        assert fast.table(shapes, checkpoint.config, task=None, auto_class=None) is None
    assert name in Names.of(disk, checkpoint.config).absent


def test_an_adapter_with_a_head_of_its_own_leaves_the_fast_path(saved: Saver) -> None:
    shapes = {key: tuple(tensor.shape) for key, tensor in saved("llama").disk.items()}
    assert fast.table(shapes, saved("llama").config, task="SEQ_CLS", auto_class=None) is None
    assert fast.table(shapes, saved("llama").config, task=None, auto_class="LlamaModel") is None
    assert fast.table(shapes, saved("llama").config, task="CAUSAL_LM", auto_class=None) is not None


def test_every_family_has_a_tiny_model() -> None:
    assert set(FAMILIES) <= set(MODELS)
