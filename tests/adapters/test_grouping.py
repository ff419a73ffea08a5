"""Nothing is dropped, nothing is filled in: every change of a single tensor is refused by the tensor's name."""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.adapters import Adapter, Module, ModuleKind, parse_config
from ingot.adapters.grouping import group_tensors
from ingot.errors import AdapterError, MismatchError
from ingot.formats import TensorRef
from tests.adapters.files import PREFIX, edit_config, opened, pair, read_tensors, replace_tensors, write_adapter
from tests.adapters.reference import describe, saved_by_peft
from tests.adapters.toys import Attention, Convolutions, Mixture, Mlp, seeded

EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]
LINEARS = ["q_proj", "k_proj", "up", "down"]
SOURCES: dict[str, tuple[Callable[[], torch.nn.Module], dict[str, Any]]] = {
    "plain": (Mlp, {"target_modules": LINEARS}),
    "rich": (Mlp, {
        "target_modules": ["q_proj", "up"], "lora_bias": True, "bias": "lora_only", "modules_to_save": ["score"],
        "trainable_token_indices": {"embed_tokens": [3, 1]},
    }),
    "dora": (Mlp, {"target_modules": ["q_proj", "embed_tokens"], "use_dora": True}),
    "conv": (Convolutions, {"target_modules": ["conv1", "conv2"]}),
    "attention": (Attention, {"target_modules": ["mha"]}),
    "experts": (Mixture, {"target_modules": ["o_proj"], "target_parameters": EXPERTS}),
}  # fmt: skip


def complaint_about(directory: Path, model: torch.nn.Module) -> str | None:
    """The message that opening the adapter and asking it about every module ends with."""
    modules = describe(model)
    try:
        adapter = opened(directory)
        for update in adapter.updates:
            if update.path not in modules:
                return f"the base has no `{update.path}`"
            update.edits(modules[update.path])
        lacking = [name for module in modules.values() for name in adapter.lacks(module)]
    except (AdapterError, MismatchError) as error:
        return error.message
    return f"lacks {lacking}" if lacking else None


@functools.cache
def made_by_peft(name: str) -> tuple[torch.nn.Module, dict[str, bytes]]:
    """A base model, and the files of an adapter for it that we have nothing to say against."""
    make, options = SOURCES[name]
    model = seeded(make())
    with tempfile.TemporaryDirectory() as directory:
        saved_by_peft(model, Path(directory), **options)
        assert complaint_about(Path(directory), model) is None
        return model, {path.name: path.read_bytes() for path in Path(directory).iterdir()}


def saved(name: str, directory: Path) -> torch.nn.Module:
    model, files = made_by_peft(name)
    for file, content in files.items():
        (directory / file).write_bytes(content)
    return model


def module_of(name: str) -> str:
    """The module's path in a tensor's name."""
    return re.split(r"\.(?:base_layer|lora_|token_adapter|weight$|bias$)", name.removeprefix(PREFIX))[0]


@pytest.mark.parametrize("source", SOURCES)
def test_a_tensor_that_was_deleted_is_missed_by_name(source: str, tmp_path: Path) -> None:
    model = saved(source, tmp_path)
    tensors = read_tensors(tmp_path)
    for name in tensors:
        replace_tensors(tmp_path, {key: value for key, value in tensors.items() if key != name})
        message = complaint_about(tmp_path, model)
        assert message is not None, name
        assert module_of(name) in message or "trained tokens are missing" in message, (name, message)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name + "_",
        lambda name: name.removeprefix(PREFIX),
        lambda name: name.replace("lora_A", "lora_C").replace("score", "scope").replace("lora_B", "lora_b"),
        lambda name: name.replace(PREFIX, PREFIX + "other."),
        lambda name: name.replace(".weight", ".default.weight"),
    ],
)
def test_a_tensor_that_was_renamed_is_refused_by_name(
    source: str, rename: Callable[[str], str], tmp_path: Path
) -> None:
    model = saved(source, tmp_path)
    tensors = read_tensors(tmp_path)
    for name in tensors:
        new = rename(name)
        if new == name or new in tensors:
            continue
        replace_tensors(tmp_path, {new if key == name else key: value for key, value in tensors.items()})
        message = complaint_about(tmp_path, model)
        assert message is not None, new
        assert module_of(name) in message or new in message or "trained tokens are missing" in message, (new, message)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    "added",
    [
        "layers.0.norm.lora_A.weight",
        "layers.0.norm.weight",
        "layers.0.norm.lora_embedding_A",
        "layers.0.q_proj.lora_magnitude_vector.weight.weight",
        "layers.0.q_proj.base_layer.weight",
        "layers.1.norm.token_adapter.trainable_tokens_delta",
        "layers.0.q_proj.base_layer.lora_A.weight",
        "layers.0.q_proj.lora_diag",
        "unheard.of",
        "weight",
    ],
)
def test_a_tensor_that_was_added_is_refused_by_name(source: str, added: str, tmp_path: Path) -> None:
    model = saved(source, tmp_path)
    replace_tensors(tmp_path, {**read_tensors(tmp_path), PREFIX + added: torch.ones(2, 2)})
    message = complaint_about(tmp_path, model)
    assert message is not None
    assert PREFIX + added in message


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    "reshape",
    [
        lambda t: t[:1] if t.shape[0] > 1 else torch.cat([t, t]),
        lambda t: t[..., :1] if t.shape[-1] > 1 else torch.cat([t, t], -1),
        lambda t: t.reshape(-1, 1, 1),
        lambda t: t.new_empty(0),
        lambda t: torch.cat([t, t], dim=0),
    ],
)
def test_a_tensor_that_was_reshaped_is_refused_by_name(
    source: str, reshape: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    model = saved(source, tmp_path)
    tensors = read_tensors(tmp_path)
    for name, tensor in tensors.items():
        replace_tensors(tmp_path, {**tensors, name: reshape(tensor).clone()})
        message = complaint_about(tmp_path, model)
        assert message is not None, name
        assert name in message, (name, message)


SEGMENTS = (
    "base_model", "model", "base_layer", "out_proj", "q", "experts", "embed_tokens", "lora_A", "lora_B", "weight",
    "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector", "token_adapter", "default", "bias", "score",
    "modules_to_save", "trainable_tokens_delta", "original_module", "0",
)  # fmt: skip


@given(
    names=st.lists(st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=6).map(".".join), min_size=1, max_size=5),
    shapes=st.lists(st.lists(st.integers(0, 3), max_size=4).map(tuple), min_size=5, max_size=5),
    config=st.fixed_dictionaries({
        "target_modules": st.sampled_from([None, ["q", "embed_tokens"], "all-linear", ".*"]),
        "target_parameters": st.sampled_from([None, ["experts.weight"]]),
        "bias": st.sampled_from(["none", "all", "lora_only"]),
        "trainable_token_indices": st.sampled_from([None, [1, 2], {"embed_tokens": [0]}]),
        "use_dora": st.booleans(),
        "r": st.integers(1, 3),
    }),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_any_names_and_shapes_are_claimed_explained_or_refused_and_never_crash(
    names: list[str], shapes: list[tuple[int, ...]], config: dict[str, Any]
) -> None:
    names = [f"{PREFIX}{name}" for name in dict.fromkeys(names)]
    tensors = [TensorRef(name, "F32", shape, "f", 0, 0) for name, shape in zip(names, shapes, strict=False)]
    kinds = [Module("q", kind, {"weight": (2, 3), "bias": (2,)}) for kind in ModuleKind]
    try:
        updates, explained = group_tensors(parse_config({"peft_type": "LORA", **config}), tensors, 0)
    except (AdapterError, MismatchError):
        return
    claimed = [ref.name for update in updates for ref in update.tensors]
    assert sorted([*claimed, *explained]) == sorted(names)
    for module, update in itertools.product(kinds, updates):
        with contextlib.suppress(AdapterError, MismatchError):
            update.edits(module)


@pytest.mark.parametrize(
    "name", ["q.base_layer.k.lora_A.weight", "q.base_layer.k.bias", "m.base_layer.x.out_proj.weight"]
)
def test_a_module_inside_a_wrapped_one_is_refused_by_name(name: str, tmp_path: Path) -> None:
    write_adapter(tmp_path, {**pair("q"), name: torch.ones(2, 2)}, target_modules=".*", bias="all")
    with pytest.raises(AdapterError) as caught:
        opened(tmp_path)
    assert PREFIX + name in caught.value.message


def test_extra_tensors_of_an_unknown_module_are_counted_and_listed(tmp_path: Path) -> None:
    extra = {f"blocks.{i}.gate.weight": torch.ones(2, 2) for i in range(12)}
    write_adapter(tmp_path, {**pair("q"), **extra}, target_modules=["q"])
    with pytest.raises(AdapterError, match=r"12 tensor.*blocks\.0\.gate\.weight.*\.\.\."):
        opened(tmp_path)


def test_tensors_of_a_module_that_the_config_does_not_target_are_refused(tmp_path: Path) -> None:
    write_adapter(tmp_path, {**pair("a.q_proj"), **pair("a.k_proj")}, target_modules=["q_proj"])
    with pytest.raises(AdapterError, match=r"a\.k_proj\.lora_A"):
        opened(tmp_path)


@pytest.mark.parametrize("shape", [(0,), (8,), (0, 4)])
def test_factors_that_were_saved_in_shards_are_refused_with_the_reason(shape: tuple[int, ...], tmp_path: Path) -> None:
    write_adapter(tmp_path, {**pair("q"), "q.lora_A.weight": torch.ones(shape)}, target_modules=["q"])
    with pytest.raises(AdapterError, match=r"q\.lora_A") as caught:
        opened(tmp_path)
    assert "ZeRO-3" in str(caught.value.hint)


def test_a_rank_that_is_not_the_configs_is_refused_naming_both(tmp_path: Path) -> None:
    write_adapter(tmp_path, pair("q", r=3), target_modules=["q"])
    with pytest.raises(MismatchError, match=r"expected rank 2.*found rank 3.*q\.lora_A"):
        opened(tmp_path)


def test_tensors_of_integers_are_refused(tmp_path: Path) -> None:
    tensors = {**pair("q"), "bn.num_batches_tracked": torch.tensor(3)}
    write_adapter(tmp_path, tensors, target_modules=["q"], modules_to_save=["bn"])
    with pytest.raises(AdapterError, match=r"dtype.*I64.*num_batches_tracked"):
        opened(tmp_path)


def test_training_leftovers_are_explained_and_not_merged(tmp_path: Path) -> None:
    extras = {
        "q.lora_velora_embed": torch.ones(3),
        "q.lora_monteclora_sampler.std_prior": torch.ones(3),
        "score.original_module.weight": torch.ones(2, 2),
    }
    write_adapter(tmp_path, {**pair("q"), **extras, "score.modules_to_save.default.weight": torch.ones(2, 2)},
                  target_modules=["q"], modules_to_save=["score"])  # fmt: skip
    adapter = opened(tmp_path)
    assert adapter.explained.keys() == {PREFIX + name for name in extras}
    claimed = [ref.name for update in adapter.updates for ref in update.tensors]
    assert sorted([*claimed, *adapter.explained]) == sorted(adapter.tensors)


def test_an_adapter_that_only_has_leftovers_is_refused(tmp_path: Path) -> None:
    write_adapter(tmp_path, {"up.lora_velora_embed": torch.ones(2, 2)}, target_modules=["up"])
    with pytest.raises(AdapterError, match="changes nothing"):
        opened(tmp_path)


def test_every_module_that_the_token_indices_name_has_its_rows(tmp_path: Path) -> None:
    indices = {"embed_tokens": [1], "lm_head": [2]}
    rows = {f"{path}.token_adapter.trainable_tokens_delta": torch.ones(1, 4) for path in ("embed_tokens", "lm_head")}
    config = {"target_modules": ["up"], "trainable_token_indices": indices}
    opened(write_adapter(tmp_path / "both", {**pair("up"), **rows}, **config))
    for name in rows:
        one = {key: tensor for key, tensor in rows.items() if key != name}
        with pytest.raises(AdapterError, match=f"rows of the trained tokens are missing.*{name}"):
            opened(write_adapter(tmp_path / name, {**pair("up"), **one}, **config))


@pytest.mark.parametrize("copy", ["lm_head.original_module.weight", "lm_head.modules_to_save.weight"])
def test_what_peft_saves_beside_a_trained_copy_is_explained_by_that_copy_alone(copy: str, tmp_path: Path) -> None:
    trained, config = {"lm_head.weight": torch.ones(3, 2)}, {"modules_to_save": ["lm_head"]}
    adapter = opened(write_adapter(tmp_path / "both", {**trained, copy: torch.ones(3, 2)}, **config))
    assert list(adapter.explained) == [PREFIX + copy]
    for name, tensors in {"alone": {copy: torch.ones(3, 2)}, "shape": {**trained, copy: torch.ones(4, 2)}}.items():
        with pytest.raises(AdapterError, match=f"lacks the trained one.*{copy}"):
            opened(write_adapter(tmp_path / name, tensors, **config))


def test_an_attentions_input_bias_is_explained_because_peft_never_adds_it(tmp_path: Path) -> None:
    saved_by_peft(seeded(Attention()), tmp_path, target_modules=["mha"], lora_bias=True)
    adapter = opened(tmp_path)
    assert list(adapter.explained) == [f"{PREFIX}mha.lora_B.bias"]


def test_a_module_of_the_base_without_tensors_is_noticed(tmp_path: Path) -> None:
    model = saved("plain", tmp_path)
    tensors = read_tensors(tmp_path)
    replace_tensors(tmp_path, {name: tensor for name, tensor in tensors.items() if "layers.1.up" not in name})
    adapter = opened(tmp_path)
    modules = describe(model)
    assert adapter.lacks(modules["layers.1.up"]) == ("layers.1.up.lora_A.weight",)
    assert adapter.lacks(modules["layers.0.up"]) == ()


@pytest.mark.parametrize("kind", [ModuleKind.LINEAR, ModuleKind.UNKNOWN])
def test_all_linear_needs_the_class_of_a_module(kind: ModuleKind, tmp_path: Path) -> None:
    adapter = opened(write_adapter(tmp_path, pair("a.q"), target_modules="all-linear"))
    assert adapter.expects("a.k", kind=kind) is (kind is ModuleKind.LINEAR)
    assert not adapter.expects("a.lm_head", kind=kind)


def test_without_target_modules_the_file_itself_says_what_it_targets(tmp_path: Path) -> None:
    adapter = opened(write_adapter(tmp_path, pair("a.q"), target_modules=None))
    assert adapter.expects("a.q")
    assert not adapter.expects("a.k")


def test_a_lora_bias_on_a_layer_without_bias_is_refused_as_peft_refuses_it(tmp_path: Path) -> None:
    tensors = {**pair("q"), "q.lora_B.bias": torch.ones(5)}
    update = opened(write_adapter(tmp_path, tensors, target_modules=["q"], lora_bias=True)).updates[0]
    with pytest.raises(MismatchError, match=r"q\.lora_B\.bias"):
        update.edits(Module("q", ModuleKind.LINEAR, {"weight": (5, 4)}))


def test_convolutions_with_groups_are_refused(tmp_path: Path) -> None:
    saved_by_peft(seeded(Convolutions(groups=2)), tmp_path, target_modules=["conv2"])
    with pytest.raises(AdapterError, match=r"groups.*2 groups.*conv2"):
        opened(tmp_path)


def test_an_adapter_for_a_convolution_without_groups_does_not_fit_one_with_groups(tmp_path: Path) -> None:
    tensors = {"c.lora_A.weight": torch.ones(2, 4, 3), "c.lora_B.weight": torch.ones(6, 2, 1)}
    update = opened(write_adapter(tmp_path, tensors, target_modules=["c"])).updates[0]
    with pytest.raises(AdapterError, match="groups"):
        update.edits(Module("c", ModuleKind.CONV, {"weight": (6, 4, 3)}, groups=2))


def test_the_magnitude_of_dora_and_its_switch_must_come_together(tmp_path: Path) -> None:
    saved_by_peft(seeded(Mlp()), tmp_path, target_modules=["up"], use_dora=True)
    edit_config(tmp_path, use_dora=False)
    with pytest.raises(AdapterError, match="lora_magnitude_vector"):
        opened(tmp_path)


def test_adapters_of_peft_before_0_6_keep_an_embedding_and_a_bias_beside_their_layers(tmp_path: Path) -> None:
    tensors = {
        "embed_tokens.lora_embedding_A": torch.ones(2, 9),
        "embed_tokens.lora_embedding_B": torch.ones(4, 2),
        "embed_tokens.weight": torch.ones(9, 4),
        **pair("q"),
        "q.bias": torch.ones(5),
    }
    write_adapter(tmp_path, tensors, target_modules=["q", "embed_tokens"], bias="lora_only")
    adapter = opened(tmp_path)
    embedding = Module("embed_tokens", ModuleKind.EMBEDDING, {"weight": (7, 4)})
    linear = Module("q", ModuleKind.LINEAR, {"weight": (5, 4), "bias": (5,)})
    edits = {update.path: update.edits(embedding if "embed" in update.path else linear) for update in adapter.updates
             if "embed" in update.path}  # fmt: skip
    assert [(edit.term.shape, edit.resizes) for edit in edits["embed_tokens"]] == [((9, 4), True), ((9, 4), True)]
    biases = [edit for update in adapter.updates if update.path == "q" for edit in update.edits(linear)]
    assert [(edit.parameter, edit.term.shape) for edit in biases] == [("bias", (1, 5)), ("weight", (5, 4))]


def test_bias_all_of_peft_before_0_21_brings_every_parameter_with_bias_in_its_name(tmp_path: Path) -> None:
    attention = {
        **pair("m", rows=12),
        **pair("m.base_layer.out_proj", rows=4),
        "m.base_layer.in_proj_bias": torch.ones(12),
    }
    tensors = {**attention, "relative_attention_bias.weight": torch.ones(3, 2)}
    adapter = opened(write_adapter(tmp_path, tensors, target_modules=["m"], bias="all", peft_version="0.18.1"))
    mha = {"in_proj_weight": (12, 4), "in_proj_bias": (12,), "out_proj.weight": (4, 4), "out_proj.bias": (4,)}
    module = Module("m", ModuleKind.MULTIHEAD, mha)
    changed = {edit.parameter for update in adapter.updates if update.path == "m" for edit in update.edits(module)}
    assert changed == {"in_proj_weight", "in_proj_bias", "out_proj.weight"}
    assert adapter.lacks(module) == ("m.out_proj.bias",)
    assert "relative_attention_bias" in {update.path for update in adapter.updates}


@pytest.mark.parametrize("parameters", [{"weight": (5, 4)}, {"weight": (5, 4), "bias": (5,)}])
def test_trained_biases_that_peft_0_6_to_0_20_forgot_to_save_are_noticed(
    parameters: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    adapter = opened(write_adapter(tmp_path, pair("q"), target_modules=["q"], bias="lora_only"))
    assert adapter.lacks(Module("q", ModuleKind.LINEAR, parameters)) == (("q.bias",) if "bias" in parameters else ())


def test_an_adapter_knows_its_number_in_the_plan(tmp_path: Path) -> None:
    write_adapter(tmp_path, pair("q"), target_modules=["q"])
    with Adapter.open(tmp_path, adapter_index=5) as adapter:
        assert {factor.adapter for factor in (adapter.updates[0].a, adapter.updates[0].b)} == {5}
