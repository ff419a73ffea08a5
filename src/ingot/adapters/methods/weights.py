"""The weight of a Linear or a Conv1D as a method sees it, and the model-wide tensors that its layers share."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.forms import Delta, Plus
from ingot.adapters.methods.method import Layer
from ingot.adapters.module import Module, ModuleKind
from ingot.errors import AdapterError, MismatchError


@dataclass(frozen=True)
class Weight:
    """W[outputs, inputs]; `turned` where the module stores its transpose, as transformers' Conv1D of GPT-2 does."""

    outputs: int
    inputs: int
    turned: bool = False

    @classmethod
    def of(cls, layer: Layer, module: Module, *, placed: bool = True) -> Weight:
        """The weight of a layer's module. Where no class is known it is taken for a Linear's.

        Args:
            placed: whether tensors of the layer have the shape of the weight, which then tells a Linear from a Conv1D.

        Raises:
            MismatchError: the module has no weight, or nothing tells which way it is stored.
        """
        if "weight" not in module.parameters:
            raise MismatchError(
                "the base has no such parameter", where=f"`{layer.path}.weight`", found=sorted(module.parameters)
            )
        if module.kind is ModuleKind.UNKNOWN and (not placed or layer.fields.boolean("fan_in_fan_out")):
            raise MismatchError(
                "the weight may be a Linear's or a transposed Conv1D's, and nothing tells which",
                where=f"`{module.path}`",
                hint="Give the base's config.json, which names a model class that transformers knows.",
            )
        return weight_of(module)

    @property
    def shape(self) -> tuple[int, int]:
        return (self.outputs, self.inputs)

    def plus(self, delta: Delta, scaling: float = 1.0) -> tuple[Edit, ...]:
        """The edit W + scaling * D[outputs, inputs]."""
        return (Edit("weight", 0, Plus(delta, scaling, flipped=self.turned)),)


def weight_of(module: Module) -> Weight:
    """The weight of a module that has one."""
    _, rows, columns = module.view("weight")
    return Weight(columns, rows, True) if module.kind is ModuleKind.CONV1D else Weight(rows, columns)


def largest(modules: Collection[Module]) -> tuple[int, int]:
    """The most outputs and the most inputs of any of these: the extent of matrices that all layers take a part of."""
    weights = [weight_of(module) for module in modules if "weight" in module.parameters]
    return max(weight.outputs for weight in weights), max(weight.inputs for weight in weights)


def number_of(layer: Layer) -> int:
    """The layer's number among all layers of the adapter, in the order of the base's modules.

    Raises MismatchError where the base's model class, which tells the order, is not known.
    """
    if any(module.kind is ModuleKind.UNKNOWN for module in layer.modules.values()):
        raise MismatchError(
            "the adapter counts its layers, and their order in the base is not known",
            where=f"`{layer.path}`",
            hint="Give the base's config.json, which names a model class that transformers knows.",
        )
    return list(layer.modules).index(layer.path)


def shared(layer: Layer, name: str, *shape: int) -> Factor:
    """The model-wide tensor `name`.

    Raises:
        AdapterError: it is missing.
        MismatchError: it does not have this shape.
    """
    factor = layer.need_shared(name)
    if factor.shape != shape:
        raise MismatchError(
            "a tensor that all layers share does not fit them",
            where=f"`{factor.ref.name}`",
            expected=list(shape),
            found=list(factor.shape),
            hint="The adapter was trained on another base model, or with another configuration.",
        )
    return factor


def refuse_unsaved(key: str, factors: Iterable[Factor]) -> None:
    """Raise AdapterError where the file holds tensors of which the config says, by a false `key`, that it has none."""
    found = ", ".join(f"`{factor.ref.name}`" for factor in factors)
    if found:
        raise AdapterError(
            f"the file holds what was not saved, by `{key}` of adapter_config.json",
            found=found,
            hint=f"PEFT would ignore it and make its own. Set `{key}` to true if it is what was trained with.",
        )
