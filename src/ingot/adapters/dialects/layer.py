"""A layer of a kohya, LyCORIS or diffusers file: one module's tensors by role; see `kinds` for what they mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.adapters.dialects.decomposed import Decomposed
from ingot.adapters.dialects.deltas import Difference
from ingot.adapters.dora import Dora
from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.forms import Plus, Rewritten
from ingot.adapters.module import Module, ModuleKind
from ingot.adapters.terms import Add, LowRank, Term
from ingot.errors import AdapterError, MismatchError
from ingot.formats.tensor_ref import TensorRef

if TYPE_CHECKING:
    from ingot.adapters.dialects.kinds import Kind

#: Roles whose tensors hold one number, which goes into the plan.
NUMBERS = ("alpha", "on_input")
#: Roles that PEFT alone knows.
PEFT_ROLES = frozenset({"lora_magnitude_vector", "lora_B.bias"})
#: Roles of what is added to a bias, beside any layer.
BIASES = ("diff_b", "b_norm")
_MODULES = (ModuleKind.LINEAR, ModuleKind.CONV, ModuleKind.OTHER, ModuleKind.UNKNOWN)


@dataclass(frozen=True)
class Layer:
    """What a file holds for one module.

    Attributes:
        path: the module's, as the file spells it until the base is known.
        roles: the tensors but those of NUMBERS.
        numbers: the values of NUMBERS that are there.
        given: the scaling, where it is said elsewhere.
    """

    path: str
    kind: Kind
    roles: Mapping[str, Factor]
    numbers: Mapping[str, float]
    given: float | None = None

    @property
    def tensors(self) -> tuple[TensorRef, ...]:
        return tuple(factor.ref for factor in self.roles.values())

    @property
    def rank(self) -> int | None:
        """The inner dimension that alpha is divided by; None where there is none."""
        name = next((name for name in self.kind.ranked if name in self.roles), None)
        return None if name is None else self.roles[name].shape[0]

    @property
    def scaling(self) -> float:
        """alpha / rank. Without an alpha 1, as kohya's and diffusers' own loaders take it."""
        if self.given is not None:
            return self.given
        alpha, rank = self.numbers.get("alpha"), self.rank
        return 1.0 if alpha is None or rank is None else alpha / rank

    def edits(self, module: Module) -> tuple[Edit, ...]:
        """See `Update.edits`."""
        if module.kind not in _MODULES:
            found = f"{module.class_name or module.kind} `{module.path}`"
            what = f"a {self.kind.title} layer stands on a module of another class"
            raise MismatchError(
                what, where=f"`{self.tensors[0].name}`", expected="Linear or a convolution", found=found
            )
        edits: list[Edit] = []
        if self.kind.term is not None:
            shape = self._shape(module, "weight", self.tensors[0])
            if len(shape) < 2 and not self.kind.of_vectors:
                raise self.mismatch(next(iter(self.roles)), shape)
            edits.append(Edit("weight", 0, self._with_length(self.kind.term(self, shape), shape)))
        for role in BIASES:
            if role in self.roles:
                shape = self._shape(module, "bias", self.roles[role].ref)
                edits.append(Edit("bias", 0, Plus(Difference(self.fitted(role, shape)))))
        if "lora_B.bias" in self.roles:
            shape = self._shape(module, "bias", self.roles["lora_B.bias"].ref)
            edits.append(Edit("bias", 0, Add(self.fitted("lora_B.bias", shape), self.scaling)))
        return tuple(edits)

    def _shape(self, module: Module, parameter: str, ref: TensorRef) -> tuple[int, ...]:
        if parameter not in module.parameters:
            found = ", ".join(module.parameters) or "no parameters"
            expected = f"`{parameter}` in `{module.path}`"
            raise MismatchError("the base has no such parameter", where=f"`{ref.name}`", expected=expected, found=found)
        return module.parameters[parameter]

    def _with_length(self, term: Term, shape: tuple[int, ...]) -> Term:
        """The term with the length that DoRA gives to its result."""
        if "lora_magnitude_vector" in self.roles:
            return self._with_pefts_length(term, shape)
        scale = self.roles.get("dora_scale")
        if scale is None:
            return term
        assert isinstance(term, LowRank | Plus)  # `check_layer` lets it stand beside those kinds alone
        ones = (1,) * (len(shape) - 2)
        outputs, inputs, *kernel = shape
        magnitude = scale.then("reshape", math.prod(scale.shape))
        if scale.shape == (outputs, 1, *ones):
            return Rewritten(Decomposed(term, magnitude))
        if scale.shape == (1, inputs, *ones):
            return Rewritten(Decomposed(term, magnitude, math.prod(kernel)))
        expected = f"{[outputs, 1, *ones]} along the outputs or {[1, inputs, *ones]} along the inputs"
        raise MismatchError("`dora_scale` has the wrong shape", where=f"`{scale.ref.name}`", expected=expected,
                            found=list(scale.shape))  # fmt: skip

    def _with_pefts_length(self, term: Term, shape: tuple[int, ...]) -> Term:
        magnitude = self.roles["lora_magnitude_vector"]
        outputs, kernel = shape[0], shape[2:]
        expected = (1, outputs, *(1 for _ in kernel)) if kernel else (outputs,)
        if not isinstance(term, LowRank) or magnitude.shape != expected:
            raise MismatchError("the DoRA magnitude has the wrong shape", where=f"`{magnitude.ref.name}`",
                                expected=list(expected), found=list(magnitude.shape))  # fmt: skip
        return Dora(term, magnitude.then("reshape", outputs))

    def fitted(self, role: str, shape: tuple[int, ...]) -> Factor:
        """The tensor of this role as the matrix of a parameter. Raises MismatchError unless it has its shape."""
        factor = self.roles[role]
        if factor.shape != shape:
            raise self.mismatch(role, shape)
        rows = shape[0] if len(shape) > 1 else 1
        return factor.then("reshape", rows, math.prod(shape) // rows)

    def flat(self, role: str) -> Factor:
        """The tensor of this role as a matrix: its axes after the first in one."""
        factor = self.roles[role]
        if len(factor.shape) < 2:
            raise AdapterError("a factor is a mere vector", where=f"`{factor.ref.name}`", found=list(factor.shape))
        return factor.then("reshape", factor.shape[0], math.prod(factor.shape[1:]))

    def core(self, role: str) -> Factor | None:
        """The core of this role as [r, r', k]; None where the layer has none."""
        factor = self.roles.get(role)
        if factor is None:
            return None
        if len(factor.shape) < 3:
            raise AdapterError("a core has no kernel", where=f"`{factor.ref.name}`", found=list(factor.shape))
        return factor.then("reshape", *factor.shape[:2], math.prod(factor.shape[2:]), 1)

    def mismatch(self, role: str, shape: tuple[int, ...]) -> MismatchError:
        """The error for a layer that was made for another weight."""
        factor = self.roles[role]
        return MismatchError(
            "a layer does not fit its module",
            where=f"`{factor.ref.name}`",
            expected=f"factors of {list(shape)}, which the base has there",
            found=", ".join(f"{name} {list(one.shape)}" for name, one in self.roles.items()),
            hint="The adapter was trained on another base model, or on another version of it.",
        )
