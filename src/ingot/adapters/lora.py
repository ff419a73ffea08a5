"""LoRA on Linear, Conv1D and convolutions: W + s * B @ A (Hu et al. 2021, arXiv:2106.09685).

    Linear       W[out, in]              + s * B[out, r] @ A[r, in]
    Conv1D       W[in, out]              + s * (B @ A).T                  transformers' layer of GPT-2
    Conv1d/2d/3d W[out, in, *kernel]     + s * B[out, r] @ A[r, in * kernel]

DoRA, KaSA, biases, block-diagonal factors and the removal of a principal part apply on top, where the adapter has them.
Which of the three it is, the module's class decides: PEFT's `fan_in_fan_out`, one flag for all modules, is unreliable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ingot.adapters.dora import Dora
from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.forms import Rewritten
from ingot.adapters.kasa import Kasa
from ingot.adapters.lora_config import LoraConfig
from ingot.adapters.module import Module, ModuleKind
from ingot.adapters.principal import Method, Principal
from ingot.adapters.saved import copy_edits
from ingot.adapters.terms import Add, LowRank, Term
from ingot.errors import AdapterError, MismatchError
from ingot.formats.tensor_ref import TensorRef


@dataclass(frozen=True)
class LoraUpdate:
    """One LoRA layer on a module with a `weight`.

    Attributes:
        a, b: A[r, in] and B[out, r]; of a convolution A[r, in, *kernel] and B[out, r, 1, ...].
        scaling: s.
        bias: `lora_bias`, [out].
        magnitude: of DoRA, [out], or [1, out, 1, ...] for a convolution.
        diagonal: of KaSA, [r].
        copy: a whole weight that replaces the base's first: a resized output embedding.
        principal: the part of the base weight that PiSSA or OLoRA took out before training.
    """

    path: str
    a: Factor
    b: Factor
    scaling: float
    bias: Factor | None = None
    magnitude: Factor | None = None
    copy: Factor | None = None
    principal: Method | None = None
    fan_in_fan_out: bool = False
    diagonal: Factor | None = None

    @property
    def tensors(self) -> tuple[TensorRef, ...]:
        factors = (self.a, self.b, self.bias, self.magnitude, self.diagonal, self.copy)
        return tuple(factor.ref for factor in factors if factor is not None)

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def edits(self, module: Module) -> tuple[Edit, ...]:
        """See `Update.edits`."""
        if "weight" not in module.parameters:
            raise no_parameter(self.a.ref, module, "weight")
        kind = self._kind(module)
        edits, module = copy_edits(self.copy, module)
        resizes = bool(edits) and edits[0].resizes
        weight = self._weight_terms(module, kind)
        edits += tuple(Edit("weight", 0, term, resizes) for term in weight)
        return edits + self._bias_edits(module)

    def _kind(self, module: Module) -> ModuleKind:
        """The kind of layer, by shape where no class is known."""
        if module.kind in (ModuleKind.LINEAR, ModuleKind.CONV1D, ModuleKind.CONV):
            return module.kind
        if module.kind is not ModuleKind.UNKNOWN:
            raise MismatchError(
                "a LoRA layer stands on a module of another class",
                where=f"`{self.a.ref.name}`",
                expected="Linear, Conv1D or a convolution",
                found=f"{module.class_name or module.kind} `{module.path}`",
            )
        shape = module.parameters["weight"]
        if len(self.a.shape) > 2:
            return ModuleKind.CONV
        rows, columns = self.b.shape[0], self.a.shape[1]
        if rows == columns and self.fan_in_fan_out:
            raise MismatchError(
                "a square weight may be a Linear or a transposed Conv1D, and nothing tells which",
                where=f"`{self.a.ref.name}`",
                found=f"weight {list(shape)} and fan_in_fan_out true",
                hint="Give the base's config.json, which names the model class.",
            )
        return ModuleKind.CONV1D if shape == (columns, rows) != (rows, columns) else ModuleKind.LINEAR

    def _weight_terms(self, module: Module, kind: ModuleKind) -> tuple[Term, ...]:
        a, b = self.a, self.b
        if kind is ModuleKind.CONV:
            a, b = self._flattened(module)
        elif len(a.shape) != 2 or len(b.shape) != 2:
            found = f"A {list(a.shape)}, B {list(b.shape)}"
            raise MismatchError("factors of a convolution on a matrix", where=f"`{a.ref.name}`", found=found)
        update = LowRank(b, a, self.scaling)
        if kind is ModuleKind.CONV1D:
            update = update.transposed()
        _, rows, columns = module.view("weight")
        if update.shape != (rows, columns):
            raise wrong_shape(self.a.ref, self.b.ref, module, "weight", update.shape)
        change = (
            self._with_magnitude(update, kind) if self.diagonal is None else self._kasa(self.diagonal, module, kind)
        )
        return (*self._principal(module, kind), change)

    def _kasa(self, diagonal: Factor, module: Module, kind: ModuleKind) -> Rewritten:
        if kind is not ModuleKind.LINEAR:
            what, found = "PEFT cannot train KaSA on this layer", module.class_name or kind
            raise MismatchError(what, where=f"`{self.a.ref.name}`", expected="Linear", found=found)
        if diagonal.shape != (self.rank,):
            raise MismatchError(
                "KaSA's diagonal has the wrong shape",
                where=f"`{diagonal.ref.name}`",
                expected=f"{self.rank} values",
                found=list(diagonal.shape),
            )
        return Rewritten(Kasa(self.b, diagonal, self.a, self.scaling, _dtype(module, "KaSA")))

    def _flattened(self, module: Module) -> tuple[Factor, Factor]:
        """A[r, in * kernel] and B[out, r] of a convolution."""
        if module.groups != 1:
            what = "LoRA on a convolution with groups has no merged form"
            raise AdapterError(what, where=f"`{self.a.ref.name}`", found=f"{module.groups} groups in `{module.path}`")
        shape = module.parameters["weight"]
        if self.a.shape[1:] != shape[1:] or math.prod(self.b.shape[2:]) != 1 or self.b.shape[0] != shape[0]:
            raise wrong_shape(self.a.ref, self.b.ref, module, "weight", (self.b.shape[0], *self.a.shape[1:]))
        a = self.a.then("reshape", self.rank, math.prod(self.a.shape[1:]))
        return a, self.b.then("reshape", self.b.shape[0], self.rank)

    def _principal(self, module: Module, kind: ModuleKind) -> tuple[Principal, ...]:
        if self.principal is None:
            return ()
        if kind is ModuleKind.CONV or (kind is ModuleKind.CONV1D and self.principal is Method.QR):
            raise MismatchError(
                f"PEFT cannot train {self.principal.tool} on this layer",
                where=f"`{self.a.ref.name}`",
                found=module.class_name or kind,
            )
        _, rows, columns = module.view("weight")
        dtype = _dtype(module, self.principal.tool)
        return (Principal((rows, columns), self.rank, self.scaling, self.principal, dtype, kind is ModuleKind.CONV1D),)

    def _with_magnitude(self, update: LowRank, kind: ModuleKind) -> Term:
        if self.magnitude is None:
            return update
        outputs = self.b.shape[0]
        expected = (1, outputs) + (1,) * (len(self.a.shape) - 2) if kind is ModuleKind.CONV else (outputs,)
        if self.magnitude.shape != expected:
            raise MismatchError(
                "the DoRA magnitude has the wrong shape",
                where=f"`{self.magnitude.ref.name}`",
                expected=list(expected),
                found=list(self.magnitude.shape),
            )
        return Dora(update, self.magnitude.then("reshape", outputs), axis=0 if kind is ModuleKind.CONV1D else 1)

    def _bias_edits(self, module: Module) -> tuple[Edit, ...]:
        if self.bias is None:
            return ()
        shape = module.parameters.get("bias")
        if shape is None:
            raise MismatchError(
                "lora_bias trained a bias for a layer that has none",
                where=f"`{self.bias.ref.name}`",
                found=f"`{module.path}` without bias",
                hint="There is no tensor that could take it; PEFT refuses this merge too.",
            )
        if shape != self.bias.shape:
            raise wrong_shape(self.bias.ref, self.bias.ref, module, "bias", self.bias.shape)
        return (Edit("bias", 0, Add(self.bias.then("reshape", 1, math.prod(shape)), self.scaling)),)


@dataclass(frozen=True)
class EmbeddingUpdate:
    """LoRA on an embedding: W[num_embeddings, dim] + s * (B @ A).T with A[r, num_embeddings] and B[dim, r].

    `magnitude` is [dim]: DoRA's norm runs over the vocabulary. `copy` is the whole embedding, which PEFT saves beside.
    """

    path: str
    a: Factor
    b: Factor
    scaling: float
    magnitude: Factor | None = None
    copy: Factor | None = None

    @property
    def tensors(self) -> tuple[TensorRef, ...]:
        return tuple(factor.ref for factor in (self.a, self.b, self.magnitude, self.copy) if factor is not None)

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def edits(self, module: Module) -> tuple[Edit, ...]:
        """See `Update.edits`."""
        if "weight" not in module.parameters:
            raise no_parameter(self.a.ref, module, "weight")
        if module.kind not in (ModuleKind.EMBEDDING, ModuleKind.UNKNOWN):
            found = f"{module.class_name or module.kind} `{module.path}`"
            what = "an embedding's LoRA layer stands on a module of another class"
            raise MismatchError(what, where=f"`{self.a.ref.name}`", found=found)
        edits, module = copy_edits(self.copy, module)
        update = LowRank(self.b, self.a, self.scaling).transposed()
        if update.shape != module.parameters["weight"]:
            raise wrong_shape(self.a.ref, self.b.ref, module, "weight", update.shape)
        term = update if self.magnitude is None else Dora(update, self.magnitude, axis=0)
        return (*edits, Edit("weight", 0, term, bool(edits) and edits[0].resizes))


def make_lora(update: LoraUpdate, config: LoraConfig) -> LoraUpdate:
    """`update` with what the config adds to a layer of this kind: block-diagonal factors, PiSSA, OLoRA."""
    principal = Method.of(config.init_lora_weights)
    if config.block_diagonal is None or len(update.a.shape) != 2:
        return replace(update, principal=principal)
    blocks = config.block_diagonal.blocks
    a_side, b_side = config.block_diagonal.sides(update.path)
    a, b = update.a, update.b
    try:
        a = a.then("block_diagonal", blocks) if a_side else a
        b = b.then("block_diagonal", blocks) if b_side else b
    except ValueError as cause:
        raise AdapterError("a block-diagonal factor has the wrong shape", where=update.path, found=cause) from cause
    return replace(update, a=a, b=b, principal=principal)


def _dtype(module: Module, tool: str) -> str:
    """The dtype of the base's weight, which PEFT rounds to before it trains."""
    dtype = module.dtypes.get("weight")
    if dtype is None:
        raise MismatchError(f"{tool} needs the base weight's dtype, which is not known", where=f"`{module.path}`")
    return dtype


def no_parameter(ref: TensorRef, module: Module, parameter: str) -> MismatchError:
    """The error for a module that lacks the parameter which a tensor changes."""
    return MismatchError(
        "the base has no such parameter",
        where=f"`{ref.name}`",
        expected=f"`{parameter}` in `{module.path}`",
        found=", ".join(module.parameters) or "no parameters",
    )


def wrong_shape(a: TensorRef, b: TensorRef, module: Module, parameter: str, implied: tuple[int, ...]) -> MismatchError:
    """The error for factors that were made for another weight, with the likely reason as its hint."""
    shape = module.parameters[parameter]
    hint = "The adapter was trained on another base model."
    if sorted(implied) == sorted(shape):
        hint = "The shapes are each other's transpose: the adapter's layer is of another class than the base's."
    elif len(implied) == len(shape) == 2 and implied[1] == shape[1]:
        hint = "The number of rows differs: was the vocabulary resized in training, and the embedding not saved?"
    names = f"`{a.name}`" if a is b else f"`{a.name}` and `{b.name}`"
    return MismatchError(
        "an update does not have its weight's shape",
        where=names,
        expected=f"{list(shape)} of `{module.path}.{parameter}`",
        found=f"{list(implied)} from {list(a.shape)}" + ("" if a is b else f" and {list(b.shape)}"),
        hint=hint,
    )
