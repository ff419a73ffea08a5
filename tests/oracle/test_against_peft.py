"""The merged checkpoint equals what PEFT merges and saves, tensor by tensor, and loads without PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.oracle.cases import PEFT_DECIDES, Case
from tests.oracle.reference import Workshop, assert_close, changed, config_of, load_output, merged, on_disk

#: What a checkpoint's config must say of its weights; all else is the base's.
TRUTHS = (
    "architectures",
    "vocab_size",
    "tie_word_embeddings",
    "id2label",
    "label2id",
    "num_hidden_layers",
    "n_layer",
    "num_layers",
    "text_config",
    "vision_config",
    "model_type",
)


@pytest.mark.parametrize("case", PEFT_DECIDES, ids=lambda case: case.name)
def test_a_merge_in_float32_is_pefts(case: Case, workshop: Workshop, target: Path) -> None:
    base, adapter, theirs = workshop.base(case.model), workshop.adapter(case), workshop.by_peft(case)
    merged(base, adapter, target)
    ours, expected = on_disk(target), on_disk(theirs)
    assert_close(ours, expected)
    assert changed(on_disk(base), ours) == changed(on_disk(base), expected)
    assert changed(on_disk(base), ours)
    assert _truths(config_of(target)) == _truths(config_of(theirs))
    load_output(target)


def _truths(config: dict[str, Any]) -> dict[str, Any]:
    """What the config says of the weights. transformers, once it has loaded a model, notes the dtype everywhere."""
    parts = {key: config.get(key) for key in TRUTHS}
    return {
        key: {name: inner for name, inner in part.items() if name != "dtype"} if isinstance(part, dict) else part
        for key, part in parts.items()
    }
