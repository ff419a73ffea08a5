"""Trainable tokens: some rows of an embedding, and of the head that is tied to it, trained on their own.

    W[token_indices] = trainable_tokens_delta[len(token_indices), dim]

The tensor is called a delta and holds the new rows themselves. Source: `TrainableTokensLayer` of PEFT's
tuners/trainable_tokens.
"""

from __future__ import annotations

from ingot.adapters.edit import Edit
from ingot.adapters.fields import Fields
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.module import Module, ModuleKind
from ingot.adapters.tokens import TokensUpdate


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    rows = layer.need("trainable_tokens_delta")
    return TokensUpdate(layer.path, _tokens(layer.fields), rows).edits(module)


def _tokens(fields: Fields) -> tuple[int, ...]:
    return fields.integers("token_indices") or fields.refuse("token_indices", "at least one token number")


def check(fields: Fields) -> None:
    _tokens(fields)


METHOD = Method(
    peft_type="TRAINABLE_TOKENS",
    title="Trainable tokens",
    roles=("trainable_tokens_delta",),
    repeats="the same rows, saved once more for what is tied to the embedding",
    edits=edits,
    kinds=frozenset({ModuleKind.EMBEDDING, ModuleKind.LINEAR}),
    check=check,
)
