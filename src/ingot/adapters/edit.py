"""An edit: one term, and the matrix of the base model's memory that it changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ingot.adapters.module import Module
    from ingot.adapters.terms import Term
    from ingot.formats.tensor_ref import TensorRef


@dataclass(frozen=True)
class Edit:
    """`term` changes matrix number `index` of the stack `Module.view(parameter)`.

    Law: `term.shape` is the shape of that matrix, except where `resizes` says that the adapter brings another number
    of rows (a resized vocabulary).
    """

    parameter: str
    index: int
    term: Term
    resizes: bool = False


class Update(Protocol):
    """What one adapter says of one module: some of its tensors, and the edits that they mean."""

    @property
    def path(self) -> str:
        """Module path as the adapter spells it, without `base_model.model.`"""

    @property
    def tensors(self) -> tuple[TensorRef, ...]:
        """The adapter tensors that this update consumes; each tensor belongs to exactly one update."""

    def edits(self, module: Module) -> tuple[Edit, ...]:
        """The edits for a module of this class and these shapes, in the order in which they apply.

        Raises:
            MismatchError: the shapes do not fit, naming the tensor, both shapes, and the likely reason.
        """
