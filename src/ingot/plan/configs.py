"""What changes in config.json when the weights change: only what would otherwise be untrue."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from ingot.formats.strict_json import dumps_pretty

#: Sub-configs that may hold a decoder's own values.
_TEXT_CONFIGS = ("text_config", "llm_config", "language_config", "thinker_config")

#: No value: the key is not true of the output. It is what JSON and the digest show.
REMOVED = None


def changed(config: Mapping[str, object], changes: Mapping[str, object]) -> bytes:
    """config.json with `changes` (dotted key -> value) applied, other keys and their order kept.

    A value of REMOVED takes the key out.
    """
    result = copy.deepcopy(dict(config))
    for dotted, value in changes.items():
        at = result
        *parents, last = dotted.split(".")
        for parent in parents:
            at = at[parent]  # type: ignore[assignment]
        if value is REMOVED:
            at.pop(last, None)
        else:
            at[last] = value
    return dumps_pretty(result)


def everywhere(config: Mapping[str, object], key: str, value: object, *, at_top: bool = True) -> dict[str, object]:
    """`key` = value wherever the config (or its text config) has it; at the top also where it is absent."""
    found: dict[str, object] = {}
    for part in _TEXT_CONFIGS:
        inner = config.get(part)
        if isinstance(inner, Mapping) and key in inner:
            found[f"{part}.{key}"] = value
    if key in config or (at_top and not found):
        found[key] = value
    return found


def untied(config: Mapping[str, object]) -> dict[str, object]:
    """The head has a tensor of its own. Set at the top even when absent: several architectures tie by default."""
    return everywhere(config, "tie_word_embeddings", False) | {"tie_word_embeddings": False}


def resized(config: Mapping[str, object], rows: int) -> dict[str, object]:
    """The embedding has another number of rows."""
    return everywhere(config, "vocab_size", rows)


def new_head(config: Mapping[str, object], model_class: str, labels: int | None) -> dict[str, object]:
    """The adapter made another kind of model of it: its architecture, and as many labels as its head has rows.

    Label names that fit are kept; otherwise the adapter's are not known, and transformers' LABEL_0, LABEL_1 … stand in.
    """
    changes: dict[str, object] = {"architectures": [model_class]}
    id2label = config.get("id2label")
    known = len(id2label) if isinstance(id2label, Mapping) else 2  # transformers' default is two labels
    if labels is not None and labels != known:
        changes["id2label"] = {str(i): f"LABEL_{i}" for i in range(labels)}
        changes["label2id"] = {f"LABEL_{i}": i for i in range(labels)}
    return changes


def replicated(config: Mapping[str, object], sources: tuple[int, ...]) -> dict[str, object]:
    """As many layers as `layer_replication` makes; lists with an entry a layer follow."""
    changes: dict[str, object] = {}
    for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
        layers = config.get(key)
        if isinstance(layers, int):
            changes[key] = len(sources)
            for name, value in config.items():
                if isinstance(value, list) and len(value) == layers and name != "architectures":
                    changes[name] = [value[source] for source in sources]
    return changes


def in_dtype(config: Mapping[str, object], dtype: str) -> dict[str, object]:
    """The dtype under the key that this config uses (`torch_dtype` was renamed `dtype` in transformers 4.56)."""
    key = "torch_dtype" if "torch_dtype" in config else "dtype"
    return everywhere(config, key, dtype)
