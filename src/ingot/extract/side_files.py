"""What TUNED has beside its weights that BASE has not: the tokenizer travels with the adapter, a config cannot."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import Any

from ingot.checkpoint.checkpoint import Checkpoint
from ingot.checkpoint.side_files import Group, group_of

_TRAVELLING = (Group.TOKENIZER, Group.CHAT_TEMPLATE, Group.PROCESSOR)
#: Keys of config.json that do not change what the model computes, or that a merge sets by itself.
_IRRELEVANT = frozenset({
    "_name_or_path", "architectures", "auto_map", "dtype", "tie_word_embeddings", "torch_dtype",
    "transformers_version", "use_cache", "vocab_size",
})  # fmt: skip


def travelling(base: Checkpoint, tuned: Checkpoint) -> tuple[str, ...]:
    """TUNED's tokenizer, template and processor files, each group whole where any of its files is not BASE's."""
    chosen: list[str] = []
    for group in _TRAVELLING:
        names = [name for name in tuned.side_files if group_of(name) is group]
        if any(_digest(base, name) != _digest(tuned, name) for name in names):
            chosen += names
    return tuple(chosen)


def _digest(checkpoint: Checkpoint, name: str) -> str | None:
    file = checkpoint.inputs.get(name)
    return None if file is None else hashlib.sha256(file.read(0, file.nbytes)).hexdigest()


def changed_settings(base: Mapping[str, object], tuned: Mapping[str, object]) -> tuple[str, ...]:
    """Dotted keys of config.json in which the two models differ and that an adapter cannot carry."""
    if base == tuned:
        return ()
    ours, theirs = dict(_flat(_complete(base))), dict(_flat(_complete(tuned)))
    keys = sorted(ours.keys() | theirs.keys())
    return tuple(key for key in keys if _relevant(key) and ours.get(key) != theirs.get(key))


def _complete(config: Mapping[str, object]) -> Mapping[str, object]:
    """With transformers' defaults and present names, so that releases that wrote a file do not show; else as it is."""
    try:
        from transformers import CONFIG_MAPPING

        known: Any = CONFIG_MAPPING[str(config["model_type"])]
        complete: Mapping[str, object] = known.from_dict(copy.deepcopy(dict(config))).to_dict()
    except Exception:  # a model that transformers does not know, or settings that it does not take
        return config
    return complete


def _relevant(key: str) -> bool:
    return key.rpartition(".")[2] not in _IRRELEVANT


def _flat(config: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """Dotted keys and values; a null stands for a key that is absent."""
    found: list[tuple[str, object]] = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{key}.")
        elif value is not None:
            found.append((f"{prefix}{key}", value))
    return found
