"""Whole tensors in an adapter: `modules_to_save`, trained biases, and embeddings of a resized vocabulary."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ingot.adapters.config import AdapterConfig
from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.keys import Key, Role
from ingot.adapters.module import Module
from ingot.adapters.terms import Replace
from ingot.errors import MismatchError
from ingot.formats.tensor_ref import TensorRef

#: Last names of input and output embeddings in transformers' models: their rows are the vocabulary.
EMBEDDING_NAMES = frozenset({
    "embed_tokens", "lm_head", "wte", "word_embeddings", "shared", "embed_in", "embed_out", "tok_embeddings",
    "token_embedding", "output_layer", "embed_tokens_per_layer",
})  # fmt: skip


def is_embedding(path: str) -> bool:
    """Whether a module, by its name, is an input or output embedding."""
    return path.rpartition(".")[2] in EMBEDDING_NAMES


@dataclass(frozen=True)
class SavedUpdate:
    """Parameters of one module that the adapter replaces.

    Attributes:
        parameters: the adapter's value for each parameter, by its name in the module.
    """

    path: str
    parameters: tuple[tuple[str, Factor], ...]

    @property
    def tensors(self) -> tuple[TensorRef, ...]:
        return tuple(factor.ref for _, factor in self.parameters)

    def edits(self, module: Module) -> tuple[Edit, ...]:
        """See `Update.edits`. A parameter that the base lacks is an error: a new head is the planner's to decide."""
        edits: tuple[Edit, ...] = ()
        for parameter, factor in self.parameters:
            if parameter not in module.parameters:
                raise MismatchError(
                    "the adapter brings a parameter that the base does not have",
                    where=f"`{factor.ref.name}`",
                    expected=f"one of {sorted(module.parameters)} in `{module.path}`",
                    found=parameter,
                )
            edits += replacement(parameter, factor, module)
        return edits


def replacement(parameter: str, values: Factor, module: Module) -> tuple[Edit, ...]:
    """The edits that put `values` in a parameter's place, one for each matrix of its stack.

    Raises:
        MismatchError: another shape, unless only the vocabulary of an embedding has another size.
    """
    shape = module.parameters[parameter]
    resizes = values.shape != shape
    rows_only = len(values.shape) == len(shape) and values.shape[1:] == shape[1:]
    if resizes and not (rows_only and (is_embedding(module.path) or is_embedding_of(values.ref))):
        raise MismatchError(
            "a whole tensor of the adapter has another shape than the base's",
            where=f"`{values.ref.name}`",
            expected=f"{list(shape)} of `{module.path}.{parameter}`",
            found=list(values.shape),
        )
    resized = replace(module, parameters={**module.parameters, parameter: values.shape})
    stack, rows, columns = resized.view(parameter)
    if stack == 1:
        return (Edit(parameter, 0, Replace(values.then("reshape", rows, columns)), resizes),)
    return tuple(Edit(parameter, i, Replace(values.then("select", 0, i)), resizes) for i in range(stack))


def is_embedding_of(ref: TensorRef) -> bool:
    """Whether the tensor's own name ends like an embedding's parameter: the base's name for it may differ."""
    return any(part in EMBEDDING_NAMES for part in ref.name.split(".")[-5:-1])


def copy_edits(copy: Factor | None, module: Module) -> tuple[tuple[Edit, ...], Module]:
    """The edits for a whole `weight` that comes before the updates on it, and the module as it is after them."""
    if copy is None:
        return (), module
    edits = replacement("weight", copy, module)
    return edits, replace(module, parameters={**module.parameters, "weight": copy.shape})


def replaces(config: AdapterConfig, key: Key, *, wrapped: bool) -> bool:
    """Whether PEFT would have saved, and would load, this whole parameter. `wrapped`: its module has a layer."""
    if key.role is Role.BASE and not wrapped:
        return False
    bias = key.parameter == "bias"
    trained_bias = config.trains(f"{key.path}.{key.parameter}", wrapped=wrapped)
    if key.role in (Role.BASE, Role.TOKENS_BASE):
        return trained_bias or (bias and is_embedding(key.path))
    if key.role is not Role.FULL:
        return False
    resized = is_embedding(key.path) and key.parameter in ("weight", "bias")
    return config.saves(key.path) or trained_bias or resized
