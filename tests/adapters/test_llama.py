"""A tiny Llama with every way in which PEFT saves embeddings, heads and token rows."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from ingot.adapters import Adapter
from ingot.errors import MismatchError
from tests.adapters.files import PREFIX, edit_config, opened, read_tensors, replace_tensors
from tests.adapters.reference import describe, differences, merged_by_us, randomize

VOCAB = 31
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "embedding and head are targets": (VOCAB, {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    "resized, targets": (VOCAB + 3, {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    "resized, shrunk, dora": (VOCAB - 4, {"target_modules": ["embed_tokens", "lm_head"], "use_dora": True}),
    "resized, not targets": (VOCAB + 3, {"target_modules": ["q_proj"]}),
    "token rows": (VOCAB, {"target_modules": ["q_proj"], "trainable_token_indices": [30, 2, 7]}),
    "token rows, resized": (VOCAB + 3, {"target_modules": ["q_proj"], "trainable_token_indices": [33, 2]}),
    "both are saved": (VOCAB, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}),
    "tied in training": (VOCAB, {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True}),
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> transformers.LlamaForCausalLM:
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("base")
    transformers.LlamaForCausalLM(config).save_pretrained(directory)
    return transformers.LlamaForCausalLM.from_pretrained(directory)


def train_and_merge(
    base: transformers.LlamaForCausalLM, vocab: int, options: dict[str, Any], directory: Path
) -> dict[str, torch.Tensor]:
    """What PEFT merges in the very process that trained, which no file can have changed."""
    model = copy.deepcopy(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if vocab != VOCAB:
            model.resize_token_embeddings(vocab, mean_resizing=False)
        wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, lora_alpha=3, task_type="CAUSAL_LM", **options))
        randomize(wrapped, seed=5)
        wrapped.save_pretrained(directory)
        merged = wrapped.merge_and_unload()
    return {name: tensor.detach().float() for name, tensor in merged.state_dict().items()}


@pytest.mark.parametrize("name", CASES)
def test_a_tiny_llama_is_merged_as_peft_merges_it(
    name: str, base: transformers.LlamaForCausalLM, tmp_path: Path
) -> None:
    vocab, options = CASES[name]
    theirs = train_and_merge(base, vocab, options, tmp_path)
    with Adapter.open(tmp_path, adapter_index=0) as adapter:
        ours = merged_by_us(base, adapter)
        resizing = {
            edit.parameter for update in adapter.updates for edit in update.edits(describe(base)[update.path])
            if edit.resizes
        }  # fmt: skip
    worst = differences(ours, theirs)
    assert max(worst.values()) < 1e-6, worst
    assert bool(resizing) == (vocab != VOCAB)


def test_a_resized_vocabulary_without_its_embedding_is_refused_with_the_likely_reason(
    base: transformers.LlamaForCausalLM, tmp_path: Path
) -> None:
    train_and_merge(base, VOCAB + 3, {"target_modules": ["lm_head"]}, tmp_path)
    tensors = read_tensors(tmp_path)
    replace_tensors(tmp_path, {name: tensor for name, tensor in tensors.items() if "base_layer" not in name})
    with pytest.raises(MismatchError, match=r"lm_head\.lora_A") as caught:
        opened(tmp_path).updates[0].edits(describe(base)["lm_head"])
    assert "vocabulary" in str(caught.value.hint)


def test_a_trained_token_beyond_the_vocabulary_is_refused(base: transformers.LlamaForCausalLM, tmp_path: Path) -> None:
    train_and_merge(base, VOCAB, {"target_modules": ["q_proj"], "trainable_token_indices": [2, 7]}, tmp_path)
    edit_config(tmp_path, trainable_token_indices=[2, VOCAB])
    update = next(u for u in opened(tmp_path).updates if u.path == "model.embed_tokens")
    with pytest.raises(MismatchError, match=rf"below {VOCAB}.*found {VOCAB}.*trainable_tokens_delta"):
        update.edits(describe(base)["model.embed_tokens"])


def test_a_whole_tensor_of_another_shape_is_only_taken_for_an_embedding(
    base: transformers.LlamaForCausalLM, tmp_path: Path
) -> None:
    train_and_merge(base, VOCAB, {"target_modules": ["q_proj"], "modules_to_save": ["norm"]}, tmp_path)
    name = f"{PREFIX}model.norm.weight"
    replace_tensors(tmp_path, {**read_tensors(tmp_path), name: torch.ones(9)})
    update = next(u for u in opened(tmp_path).updates if u.path == "model.norm")
    with pytest.raises(MismatchError, match=r"expected \[8\].*found \[9\].*model\.norm\.weight"):
        update.edits(describe(base)["model.norm"])
