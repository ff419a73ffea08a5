"""What a file of this folder says of one PEFT method: how its tensors are called, and what they do to a module.

To add one: write `<name>.py` with a `METHOD`, and name it in `registry`. The formula stands in the file's docstring,
with shapes and source; `forms.Plus` and `forms.Rewritten` make terms of a small `Delta` or `Rewrite`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from ingot.adapters.config import AdapterConfig
from ingot.adapters.edit import Edit, Update
from ingot.adapters.factor import Factor
from ingot.adapters.fields import Fields
from ingot.adapters.module import Module, ModuleKind
from ingot.adapters.saved import copy_edits
from ingot.adapters.terms import FLOAT32_MAX
from ingot.errors import AdapterError, MismatchError
from ingot.formats.tensor_ref import TensorRef


@dataclass(frozen=True, kw_only=True)
class MethodConfig(AdapterConfig):
    """The configuration of a method other than LoRA: what all methods share, and `fields` for its own settings."""

    name: str = ""

    @property
    def title(self) -> str:
        return self.name

    @property
    def alphas(self) -> tuple[float, ...]:
        values = (self.raw.get(key) for key in ("lora_alpha", "alpha", "scaling"))
        numbers = (value for value in values if isinstance(value, int | float) and not isinstance(value, bool))
        return tuple(float(value) for value in numbers if abs(value) <= FLOAT32_MAX)

    @cached_property
    def fields(self) -> Fields:
        """The file's own keys, read with their types."""
        return Fields(self.raw, "adapter_config.json")


@dataclass(frozen=True)
class Layer:
    """What an adapter file holds for one module.

    Attributes:
        path: the module's path as the adapter spells it.
        tensors: by role, as `Method.roles` spells them with their numbers: "hada_w1_a", "adamss_A.0".
        shared: the tensors of the whole model, by name without `base_model.`.
        modules: every module that the adapter has a layer on, or by its config should have, by its path there, in the
            base model's own order; empty until the base is known.
    """

    path: str
    tensors: Mapping[str, Factor]
    shared: Mapping[str, Factor]
    config: MethodConfig
    modules: Mapping[str, Module] = field(default_factory=dict)

    @property
    def fields(self) -> Fields:
        return self.config.fields

    def get(self, role: str) -> Factor | None:
        return self.tensors.get(role)

    def need(self, role: str) -> Factor:
        """The tensor of this role. Raises AdapterError, naming one that is there, where it is missing."""
        found = self.tensors.get(role)
        if found is None:
            expected, present = f"`{self.path}.{role}`", next(iter(self.tensors.values()))
            raise AdapterError("a tensor lacks its counterpart", where=f"`{present.ref.name}`", expected=expected)
        return found

    def need_shared(self, name: str) -> Factor:
        """The model-wide tensor of this name. Raises AdapterError where the file lacks it."""
        if name not in self.shared:
            raise AdapterError("the tensor that all layers share is missing", expected=f"`base_model.{name}`")
        return self.shared[name]

    def numbered(self, stem: str) -> tuple[Factor, ...]:
        """The tensors `stem.0`, `stem.1`, ... in order. Raises AdapterError where one is left out."""
        count = sum(role.startswith(f"{stem}.") for role in self.tensors)
        return tuple(self.need(f"{stem}.{number}") for number in range(count))

    def mismatch(self, role: str, module: Module, expected: object) -> MismatchError:
        """The error for a tensor that was made for another weight."""
        factor = self.need(role)
        return MismatchError(
            "a tensor of the adapter does not fit its module",
            where=f"`{factor.ref.name}`",
            expected=f"{expected}, for {_shapes(module)} of `{module.path}`",
            found=list(factor.shape),
            hint="The adapter was trained on another base model, or with another configuration.",
        )

    def check_shape(self, role: str, module: Module, *shape: int) -> Factor:
        """The tensor of this role. Raises MismatchError unless it has this shape."""
        factor = self.need(role)
        if factor.shape != shape:
            raise self.mismatch(role, module, list(shape))
        return factor

    def axis(self, role: str, module: Module, axis: int, *, of: int) -> int:
        """The length of an axis of the tensor of this role. Raises MismatchError unless it has `of` axes."""
        factor = self.need(role)
        if len(factor.shape) != of:
            raise self.mismatch(role, module, f"{of} axes")
        return factor.shape[axis]

    def check_rank(self, role: str, found: int, expected: int) -> int:
        """`found`, the rank of a tensor. Raises MismatchError unless it is the one that the config gives."""
        if found != expected:
            raise MismatchError(
                "the rank of a tensor is not that of the config",
                where=f"`{self.need(role).ref.name}`",
                expected=f"rank {expected}, by adapter_config.json",
                found=f"rank {found}, from {list(self.need(role).shape)}",
                hint="Use the adapter_config.json that was saved together with these weights.",
            )
        return found

    def is_transposed(self, module: Module, outputs: int, inputs: int) -> bool:
        """Whether the module's weight is [in, out], as transformers' Conv1D has it; by shape where no class is known.

        Raises MismatchError where a square weight of no known class may be either.
        """
        if module.kind is not ModuleKind.UNKNOWN:
            return module.kind is ModuleKind.CONV1D
        if outputs == inputs and self.fields.boolean("fan_in_fan_out"):
            raise MismatchError(
                "a square weight may be a Linear or a transposed Conv1D, and nothing tells which",
                where=f"`{module.path}`",
                found=f"{_shapes(module)} and fan_in_fan_out true",
                hint="Give the base's config.json, which names the model class.",
            )
        return outputs != inputs and module.parameters["weight"] == (inputs, outputs)


@dataclass(frozen=True)
class Method:
    """One PEFT method.

    Attributes:
        peft_type: PEFT's name, in capitals.
        title: the name that people use.
        roles: names of a layer's tensors after the module's path; a `*` stands for a number, `**` for any name.
        edits: what a layer does to a module, in the order in which it applies. Raises MismatchError, AdapterError.
        shared: names of tensors of the whole model, after `base_model.`; a `*` stands for a number, a `+` for a name.
        unused: roles, and names after `base_model.`, that a merge does not need, with the reason.
        repeats: why a layer that the config does not target is not needed, where PEFT saves layers more than once.
        kinds: the module classes that PEFT can wrap.
        kernels: of the convolutions among them, in how many dimensions.
        check: reads the method's own settings and raises AdapterError for what has no merged form.
        implicit: by those settings, whether layers have no tensors of their own: the config then says where they are.
        caution: what nothing in the file can show to be right, as a whole sentence; plans warn of it.
    """

    peft_type: str
    title: str
    roles: tuple[str, ...]
    edits: Callable[[Layer, Module], tuple[Edit, ...]]
    shared: tuple[str, ...] = ()
    unused: Mapping[str, str] = field(default_factory=dict)
    repeats: str = ""
    kinds: frozenset[ModuleKind] = frozenset({ModuleKind.LINEAR})
    kernels: tuple[int, ...] = (1, 2, 3)
    check: Callable[[Fields], None] = lambda _: None
    implicit: Callable[[Fields], bool] = lambda _: False
    caution: str = ""

    @cached_property
    def role_pattern(self) -> re.Pattern[str]:
        """Reads a name without its prefix: path and role."""
        return re.compile(rf"(?P<path>.+?)\.(?P<role>{_alternatives((*self.roles, *self.unused))})")

    @cached_property
    def shared_pattern(self) -> re.Pattern[str]:
        return re.compile(rf"base_model\.(?P<name>{_alternatives((*self.shared, *self.unused))})")

    def shares(self, name: str) -> bool:
        """Whether this name after `base_model.` is one of `shared`, rather than of `unused`."""
        return re.fullmatch(_alternatives(self.shared), name) is not None


def _alternatives(names: tuple[str, ...]) -> str:
    wildcards = ((r"\*\*", ".+"), (r"\*", r"\d+"), (r"\+", r"[^.]+"))
    patterns = [re.escape(name) for name in names]
    for wildcard, pattern in wildcards:
        patterns = [name.replace(wildcard, pattern) for name in patterns]
    return "|".join(patterns)


@dataclass(frozen=True)
class LayerUpdate:
    """A layer as an `Update`.

    Attributes:
        copy: a whole weight that replaces the base's first: PEFT saves one of an embedding that has a layer.
    """

    method: Method
    layer: Layer
    copy: Factor | None = None

    @property
    def path(self) -> str:
        return self.layer.path

    @property
    def tensors(self) -> tuple[TensorRef, ...]:
        factors = (*self.layer.tensors.values(), *([] if self.copy is None else [self.copy]))
        return tuple(factor.ref for factor in factors)

    @property
    def rank(self) -> int | None:
        raw = self.layer.config.raw
        rank = raw.get("init_r", raw.get("r"))  # AdaLoRA has both, and means the first
        # OFT says 0 where the size of its blocks decides.
        return rank if isinstance(rank, int) and not isinstance(rank, bool) and rank > 0 else None

    def edits(self, module: Module) -> tuple[Edit, ...]:
        """See `Update.edits`. On a module whose class is not known, what fits by its shapes is believed."""
        self._check_class(module)
        first, _ = copy_edits(self.copy, module)
        edits = self.method.edits(self.layer, self.sees(module))
        if any(edit.resizes for edit in first):
            edits = tuple(replace(edit, resizes=edit.parameter == "weight") for edit in edits)
        return first + edits

    def _check_class(self, module: Module) -> None:
        """Raise MismatchError for a module that PEFT does not wrap; of an unknown class, by its weight's shape."""
        kinds, kernels = self.method.kinds, self.method.kernels
        unknown, dimensions = module.kind is ModuleKind.UNKNOWN, len(module.parameters.get("weight", ())) - 2
        kind = ModuleKind.CONV if unknown and dimensions > 0 else module.kind
        fits = dimensions in kernels and kind in kinds if kind is ModuleKind.CONV else unknown or kind in kinds
        if fits and unknown and ModuleKind.OTHER not in kinds:
            fits = "weight" in module.parameters
        if not fits:
            names = {str(kind) for kind in kinds - {ModuleKind.CONV}}
            names |= {f"Conv{n}d" for n in kernels} if ModuleKind.CONV in kinds else set()
            raise MismatchError(
                f"a {self.method.title} layer stands on a module of another class",
                where=f"`{self.tensors[0].name}`",
                expected=" or ".join(sorted(names)),
                found=f"{module.class_name or module.kind} `{module.path}` with {_shapes(module)}",
            )

    def sees(self, module: Module) -> Module:
        """The module as the layer finds it: of a resized vocabulary, with the copy's rows."""
        return copy_edits(self.copy, module)[1]

    def among(self, modules: Mapping[str, Module]) -> Update:
        """The same update, told of every module that the adapter has a layer on."""
        return replace(self, layer=replace(self.layer, modules=modules))


def _shapes(module: Module) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in module.parameters.items()) or "no parameters"
