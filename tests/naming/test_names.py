"""The questions a planner asks: heads, ties, names for new tensors, and what cannot be answered."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GPTNeoXConfig, LlavaConfig

from ingot.adapters.module import ModuleKind
from ingot.errors import BaseError, MismatchError, MissingComponent
from ingot.naming import Names, transformers_map
from tests.naming.conftest import Saver, assemble


def _tensors(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    return {name: SimpleNamespace(shape=shape) for name, shape in shapes.items()}


def test_a_tied_head_has_no_placement_and_names_its_source(saved: Saver) -> None:
    for model, head, source in [
        ("llama_tied", "lm_head", "model.embed_tokens.weight"),
        ("gpt2", "lm_head", "transformer.wte.weight"),
        ("t5", "decoder.embed_tokens", "shared.weight"),
        ("gemma3", "lm_head", "model.language_model.embed_tokens.weight"),
    ]:
        site = saved(model).names().site(head)
        assert (dict(site.placements), dict(site.aliases)) == ({}, {"weight": source})


def test_a_tied_bias_stands_beside_a_tied_weight(saved: Saver) -> None:
    site = saved("bert").names().site("cls.predictions.decoder")
    assert dict(site.aliases) == {
        "weight": "bert.embeddings.word_embeddings.weight",
        "bias": "cls.predictions.bias",
    }


@pytest.mark.parametrize("model", ["llama_tied", "gpt2"])
def test_a_head_that_is_on_disk_is_not_an_alias_whatever_the_configuration_says(saved: Saver, model: str) -> None:
    checkpoint = saved(model)
    source = checkpoint.names().tied["lm_head.weight"]
    disk = {**checkpoint.disk, "lm_head.weight": checkpoint.disk[source] + 1}
    names = Names.of(disk, checkpoint.config)
    assert dict(names.tied) == {}
    assert torch.equal(assemble(names.site("lm_head"), "weight", disk), disk["lm_head.weight"])


@pytest.mark.parametrize("model", ["llama_tied", "gpt2"])
def test_embeddings_that_are_absent_take_the_head_that_is_there(saved: Saver, model: str) -> None:
    checkpoint = saved(model)
    source = checkpoint.names().tied["lm_head.weight"]
    disk = {("lm_head.weight" if name == source else name): tensor for name, tensor in checkpoint.disk.items()}
    assert dict(Names.of(disk, checkpoint.config).tied) == {source: "lm_head.weight"}


def test_a_head_that_is_neither_on_disk_nor_tied_is_absent(saved: Saver) -> None:
    for model, head in [("llama", "lm_head.weight"), ("gpt_neox", "embed_out.weight")]:
        checkpoint = saved(model)
        disk = {name: tensor for name, tensor in checkpoint.disk.items() if name != head}
        names = Names.of(disk, checkpoint.config)
        assert names.absent == ("lm_head.weight",)
        assert dict(names.tied) == {}


def test_a_classifier_adapter_on_a_causal_model_gets_a_new_head_and_leaves_the_old_one_unused(saved: Saver) -> None:
    names = saved("llama").names(task="SEQ_CLS", num_labels=5)
    assert names.model_class == "LlamaForSequenceClassification"
    assert names.unused == ("lm_head.weight",)
    assert names.absent == ("score.weight",)
    site, parameter = names.parameter("score.weight")
    assert (parameter, site.module.kind, site.module.parameters) == ("weight", ModuleKind.LINEAR, {"weight": (5, 16)})
    assert (dict(site.placements), dict(site.aliases)) == ({}, {})
    assert names.new_on_disk_name("score.weight") == "score.weight"


def test_a_classifier_adapter_on_a_masked_model_gets_its_pooler_and_head(saved: Saver) -> None:
    checkpoint = saved("bert")
    names = checkpoint.names(task="SEQ_CLS", num_labels=3)
    assert names.model_class == "BertForSequenceClassification"
    assert all(name.startswith("cls.") for name in names.unused)
    assert len(names.unused) == sum(name.startswith("cls.") for name in checkpoint.disk)
    assert set(names.absent) == {
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "classifier.weight",
        "classifier.bias",
    }
    site = names.site("bert.encoder.layer.0.attention.self.query")
    name = "bert.encoder.layer.0.attention.self.query.weight"
    assert torch.equal(assemble(site, "weight", checkpoint.disk), checkpoint.state[name])


@pytest.mark.parametrize(
    ("model", "adapter", "expected"),
    [
        ("roberta", {"task": "SEQ_CLS"}, "RobertaForSequenceClassification"),
        ("roberta", {"task": "TOKEN_CLS"}, "RobertaForTokenClassification"),
        ("bert", {"task": "QUESTION_ANS"}, "BertForQuestionAnswering"),
        ("bert", {"task": "CAUSAL_LM"}, "BertLMHeadModel"),
        ("bert", {"task": "FEATURE_EXTRACTION"}, "BertForMaskedLM"),
        ("bert", {"auto_class": "BertModel"}, "BertForMaskedLM"),
        ("bert", {"auto_class": "BertForTokenClassification"}, "BertForTokenClassification"),
        ("bert", {"auto_class": "NoSuchClass"}, "BertForMaskedLM"),
        ("bert_classifier", {"task": "SEQ_CLS"}, "BertForSequenceClassification"),
        ("vit", {"task": "SEQ_CLS"}, "ViTForImageClassification"),
        ("t5", {"task": "SEQ_2_SEQ_LM"}, "T5ForConditionalGeneration"),
        ("whisper", {"task": "SEQ_2_SEQ_LM"}, "WhisperForConditionalGeneration"),
        ("llava", {"task": "CAUSAL_LM"}, "LlavaForConditionalGeneration"),
        ("gemma3", {"task": "CAUSAL_LM"}, "Gemma3ForConditionalGeneration"),
        ("llama", {"task": "SEQ_2_SEQ_LM"}, "LlamaForCausalLM"),
    ],
)
def test_the_class_is_the_checkpoints_own_unless_the_task_needs_another_head(
    saved: Saver, model: str, adapter: dict[str, str], expected: str
) -> None:
    assert saved(model).names(**adapter).model_class == expected


def test_a_checkpoint_that_names_no_architecture_gets_the_generating_class(saved: Saver) -> None:
    checkpoint = saved("mixtral")
    config = {key: value for key, value in checkpoint.config.items() if key != "architectures"}
    names = Names.of(checkpoint.disk, config)
    assert names.model_class == "MixtralForCausalLM"


@pytest.mark.parametrize(
    ("model", "original_format", "head", "expected"),
    [
        ("gpt_neox", True, "embed_out.weight", "embed_out.weight"),
        ("llava", True, "language_model.lm_head.weight", "language_model.lm_head.weight"),
        ("llava", False, "lm_head.weight", "lm_head.weight"),
        ("mixtral", True, "lm_head.weight", "lm_head.weight"),
        ("opt", True, "", "lm_head.weight"),
        ("gemma3", True, "", "language_model.lm_head.weight"),
        ("gemma3", False, "", "lm_head.weight"),
        ("qwen2_vl", True, "lm_head.weight", "lm_head.weight"),
        ("t5", True, "", "lm_head.weight"),
    ],
)
def test_a_new_head_is_written_under_the_name_that_transformers_gives_it(
    saved: Saver, model: str, original_format: bool, head: str, expected: str
) -> None:
    """`head` is the name in the file that transformers wrote; it is taken away, and must be found again."""
    checkpoint = saved(model, original_format)
    assert not head or head in checkpoint.disk
    disk = {name: tensor for name, tensor in checkpoint.disk.items() if name != head}
    assert Names.of(disk, checkpoint.config).new_on_disk_name("lm_head.weight") == expected


def test_a_parameter_of_a_bare_checkpoint_is_written_without_the_prefix(saved: Saver) -> None:
    checkpoint = saved("bert")
    bare = {name.removeprefix("bert."): one for name, one in checkpoint.disk.items() if name.startswith("bert.")}
    names = Names.of(bare, checkpoint.config, task="SEQ_CLS")
    assert names.new_on_disk_name("bert.pooler.dense.weight") == "pooler.dense.weight"
    assert names.new_on_disk_name("classifier.weight") == "classifier.weight"


def test_every_name_on_disk_follows_from_the_rule_for_new_names(saved: Saver) -> None:
    for model in ("llava", "qwen2_vl", "vit", "gpt_neox", "bert"):
        for original_format in (True, False):
            checkpoint = saved(model, original_format)
            for name in checkpoint.disk:
                without = {key: one for key, one in checkpoint.disk.items() if key != name}
                parameter = checkpoint.names()._known.owners[name]
                assert Names.of(without, checkpoint.config).new_on_disk_name(parameter) == name
                break


def test_prediction_layers_that_the_model_does_not_use_are_unused(saved: Saver) -> None:
    checkpoint = saved("deepseek_v3")
    disk = {**checkpoint.disk, "model.layers.2.eh_proj.weight": torch.zeros(16, 32)}
    assert Names.of(disk, checkpoint.config).unused == ("model.layers.2.eh_proj.weight",)


UNKNOWN = {"model_type": "no-such-model", "architectures": ["NoSuchModel"], "auto_map": {"AutoModel": "code.Evil"}}


def test_an_unknown_model_is_answered_from_the_names_on_disk() -> None:
    names = Names.of(_tensors({"blocks.0.q.weight": (4, 8), "blocks.0.q.bias": (4,)}), UNKNOWN)
    assert names.model_class is None
    assert "no-such-model" in str(names.why)
    site = names.site("blocks.0.q")
    assert site.module.kind is ModuleKind.UNKNOWN
    assert site.module.parameters == {"weight": (4, 8), "bias": (4,)}
    (place,) = site.placements["weight"]
    assert (place.tensor, place.block) == ("blocks.0.q.weight", (0, 0, 4, 8))
    with pytest.raises(MismatchError, match="no such module") as refused:
        names.site("blocks.0.k")
    assert "no-such-model" in str(refused.value.hint)


def test_a_configuration_that_its_class_rejects_is_answered_from_the_names_on_disk(saved: Saver) -> None:
    checkpoint = saved("mixtral")
    names = Names.of(checkpoint.disk, {**checkpoint.config, "num_attention_heads": "many"})
    assert names.model_class is None
    assert "MixtralForCausalLM" in str(names.why)
    assert names.site("model.layers.0.block_sparse_moe.experts.0.w1").module.kind is ModuleKind.UNKNOWN


def test_without_transformers_names_on_disk_are_answered_and_others_say_what_to_install(
    saved: Saver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers_map, "is_available", lambda: False)
    mixtral, llama = saved("mixtral").names(), saved("llama").names()
    assert mixtral.site("model.layers.0.self_attn.q_proj").module.kind is ModuleKind.UNKNOWN
    for ask in (
        lambda: mixtral.site("model.layers.0.mlp.experts"),
        lambda: mixtral.parameter("model.layers.0.x.weight"),
    ):
        with pytest.raises(MissingComponent) as refused:
            ask()
        assert "pip install" in str(refused.value.hint)
    with pytest.raises(MismatchError):
        llama.site("model.layers.0.self_attn.x_proj")
    with pytest.raises(MissingComponent):
        transformers_map.table({}, {}, task=None, auto_class=None, num_labels=None)


def test_an_older_transformers_counts_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for version, answer in {"4.57.1": False, "5.14.0": False, "5.15.0": True, "6.0.0.dev0": True}.items():
        monkeypatch.setattr("importlib.metadata.version", lambda _, version=version: version)
        assert transformers_map.is_available() is answer


def test_building_a_class_opens_no_connection(saved: Saver, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    checkpoint = saved("vit")
    config = {
        **checkpoint.config,
        "backbone": "org/model",
        "use_pretrained_backbone": True,
        "auto_map": UNKNOWN["auto_map"],
    }
    assert Names.of(checkpoint.disk, config).model_class == "ViTForImageClassification"
    detr = {
        "model_type": "detr",
        "architectures": ["DetrModel"],
        "backbone": "resnet50",
        "use_pretrained_backbone": True,
    }
    assert Names.of(_tensors({"a.weight": (1, 1)}), detr).site("a").module.path == "a"


def test_a_model_of_405_billion_parameters_is_built_without_its_memory() -> None:
    """On any machine that runs these tests, 810 GB would not be there."""
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 16384,
        "intermediate_size": 53248,
        "num_hidden_layers": 126,
        "num_attention_heads": 128,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    }
    shapes = {f"model.layers.{layer}.mlp.down_proj.weight": (16384, 53248) for layer in range(126)}
    names = Names.of(_tensors(shapes), config, auto_class="LlamaModel")
    assert names.model_class == "LlamaForCausalLM"
    (place,) = names.site("layers.125.mlp.down_proj").placements["weight"]
    assert place.tensor == "model.layers.125.mlp.down_proj.weight"


@pytest.mark.parametrize("config", [{"num_hidden_layers": 10**9}, {"text_config": {"num_hidden_layers": 10**9}}])
def test_a_configuration_of_absurd_depth_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(BaseError, match="more layers"):
        Names.of(_tensors({"a.weight": (1, 1)}), {"model_type": "llama", **config})


def test_configurations_used_here_have_the_heads_that_are_assumed() -> None:
    assert GPTNeoXConfig().tie_word_embeddings is False
    assert LlavaConfig().tie_word_embeddings is False
