"""The vocabulary's size: one number of rows for all embeddings, or an error that names them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.saved import SavedUpdate
from ingot.adapters.terms import Replace
from ingot.errors import MismatchError
from ingot.formats.tensor_ref import TensorRef
from ingot.naming import Names
from ingot.plan.resolve import ResolvedEdit
from ingot.plan.ties import Ties
from ingot.plan.vocabulary import resized_vocabulary

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
KEPT = Ties({}, (), (), {}, ())


def names(*, tied: bool) -> Names:
    stored = [EMBEDDING] if tied else [EMBEDDING, HEAD]
    sizes = {
        "vocab_size": 10,
        "hidden_size": 4,
        "intermediate_size": 4,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **sizes}
    shapes = {name: torch.empty(10, 4, device="meta") for name in stored}
    return Names.of(shapes, {**config, "tie_word_embeddings": tied})


def replaced(found: Names, rows: Mapping[str, int]) -> list[ResolvedEdit]:
    edits = []
    for name, height in rows.items():
        factor = Factor(0, TensorRef(name, "F32", (height, 4), "adapter_model.safetensors", 0, 16 * height))
        site, parameter = found.parameter(name)
        update = SavedUpdate(site.module.path, ((parameter, factor),))
        edits.append(ResolvedEdit(0, update, site, Edit(parameter, 0, Replace(factor), height != 10)))
    return edits


@pytest.mark.parametrize(
    ("tied", "rows", "size"),
    [
        (False, {}, None),
        (False, {EMBEDDING: 10}, None),
        (False, {EMBEDDING: 12, HEAD: 12}, 12),
        (True, {EMBEDDING: 12}, 12),
        (True, {EMBEDDING: 12, HEAD: 12}, 12),
    ],
)
def test_all_embeddings_of_one_size_are_right(tied: bool, rows: Mapping[str, int], size: int | None) -> None:
    found = names(tied=tied)
    assert resized_vocabulary(replaced(found, rows), KEPT, found) == size


@pytest.mark.parametrize(
    ("tied", "rows"),
    [
        (False, {EMBEDDING: 12}),
        (False, {HEAD: 12}),
        (False, {EMBEDDING: 12, HEAD: 13}),
        (False, {EMBEDDING: 12, HEAD: 10}),
        (True, {EMBEDDING: 12, HEAD: 13}),
        (True, {HEAD: 12}),
    ],
)
def test_embeddings_of_different_sizes_are_refused_by_their_names(tied: bool, rows: Mapping[str, int]) -> None:
    found = names(tied=tied)
    with pytest.raises(MismatchError, match="different numbers of rows") as caught:
        resized_vocabulary(replaced(found, rows), KEPT, found)
    assert EMBEDDING in caught.value.message
    assert HEAD in caught.value.message


def test_an_alias_that_parts_without_the_resized_rows_is_refused() -> None:
    found = names(tied=True)
    parted = Ties({HEAD: EMBEDDING}, (), (), {HEAD: []}, ())
    with pytest.raises(MismatchError, match=HEAD):
        resized_vocabulary(replaced(found, {EMBEDDING: 12}), parted, found)
    edits = replaced(found, {EMBEDDING: 12})
    assert resized_vocabulary(edits, Ties({HEAD: EMBEDDING}, (), (), {HEAD: edits}, ()), found) == 12
