"""Token rows trained on their own: PEFT's `trainable_token_indices`.

The tensor is called a delta and holds the new rows themselves, W[indices] = delta; see PEFT's `TrainableTokensLayer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ingot.adapters.config import AdapterConfig
from ingot.adapters.edit import Edit, Update
from ingot.adapters.factor import Factor
from ingot.adapters.keys import Role
from ingot.adapters.module import Module
from ingot.adapters.saved import copy_edits
from ingot.adapters.terms import ReplaceRows
from ingot.errors import AdapterError, MismatchError
from ingot.formats.tensor_ref import TensorRef


@dataclass(frozen=True)
class TokensUpdate:
    """Rows [len(indices), dim] of an embedding or an output head; `copy` is the whole weight, saved where resized."""

    path: str
    indices: tuple[int, ...]
    rows: Factor
    copy: Factor | None = None

    def __post_init__(self) -> None:
        if len(self.rows.shape) != 2 or self.rows.shape[0] != len(self.indices):
            raise AdapterError(
                "there is not one trained row for each token",
                where=f"`{self.rows.ref.name}`",
                expected=f"{len(self.indices)} rows, by `trainable_token_indices`",
                found=list(self.rows.shape),
            )

    @property
    def tensors(self) -> tuple[TensorRef, ...]:
        return tuple(factor.ref for factor in (self.copy, self.rows) if factor is not None)

    def edits(self, module: Module) -> tuple[Edit, ...]:
        """See `Update.edits`."""
        if "weight" not in module.parameters:
            raise MismatchError(
                "the base has no such embedding",
                where=f"`{self.rows.ref.name}`",
                found=f"`{module.path}` without weight",
            )
        edits, module = copy_edits(self.copy, module)
        shape = module.parameters["weight"]
        if len(shape) != 2 or shape[1] != self.rows.shape[1]:
            raise MismatchError(
                "trained token rows do not have the embedding's width",
                where=f"`{self.rows.ref.name}`",
                expected=f"[{len(self.indices)}, dim] for {list(shape)} of `{module.path}.weight`",
                found=list(self.rows.shape),
            )
        if max(self.indices) >= shape[0]:
            raise MismatchError(
                "a trained token is beyond the vocabulary",
                where=f"`{self.rows.ref.name}`",
                expected=f"token numbers below {shape[0]}",
                found=max(self.indices),
                hint="The base was resized before training: resize it the same way first.",
            )
        term = ReplaceRows(self.indices, self.rows, shape[0])
        return (*edits, Edit("weight", 0, term, bool(edits) and edits[0].resizes))


def check_tokens(config: AdapterConfig, updates: Sequence[Update]) -> None:
    """Every module that `trainable_token_indices` names has its rows; a list of tokens names the input embedding.

    Raises:
        AdapterError: one has none.
    """
    tokens = config.trainable_token_indices
    names = tuple(tokens) if isinstance(tokens, Mapping) else ("",) if tokens else ()
    paths = [update.path for update in updates if isinstance(update, TokensUpdate)]
    for name in names:
        if not any(path.endswith(name) for path in paths):
            expected = f"`{name or '<input embedding>'}.{Role.TOKENS}`"
            raise AdapterError("the rows of the trained tokens are missing", expected=expected)
