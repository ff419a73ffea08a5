"""The plan: what a merge will write, as data.

A plan is made from headers, configs and a look at a few rows (`plan.look`). It can be printed, hashed, stored and
compared, and `engine` executes that same object; nothing is decided later. See `plan.build` for how it comes about.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from functools import cached_property

from ingot.adapters.terms import Replace
from ingot.checkpoint.quantized.encoded import Encoded, Source
from ingot.formats.safetensors import Header
from ingot.formats.strict_json import dumps_canonical
from ingot.formats.tensor_ref import TensorRef
from ingot.naming.placed import Beside as Beside
from ingot.naming.placed import PlacedTerm as PlacedTerm
from ingot.plan.interference import Interference

#: Changes when the same plan would lead to other bytes: formula, tile grid, rounding, layout rules.
PLAN_VERSION = 1


class OpKind(StrEnum):
    COPY = "copy"  # the base's bytes
    CAST = "cast"  # the base's values in another dtype
    DECODE = "decode"  # the values of a quantized tensor
    CHANGE = "change"  # the base's values and terms
    REPLACE = "replace"  # the adapter's values in the place of the base's
    NEW = "new"  # a tensor that the base does not have under this name


class Rounding(StrEnum):
    """How the float32 sum of a changed tensor becomes its dtype; see `kernels.rounding`."""

    NEAREST = "nearest"
    STOCHASTIC = "stochastic"
    PRESERVE = "preserve"
    AUTO = "auto"  # asked for; an op has one of the others


@dataclass(frozen=True)
class Op:
    """One output tensor.

    Attributes:
        name, dtype, shape: as written.
        source: the base tensor that it starts from, or whose place it takes: one on disk, or one that is decoded from
            several; None where the base has neither.
        view: the tensor as a matrix (rows, columns), in which the terms are placed.
        terms: applied in this order.
        module: the module path that the plan's table shows for it.
        rounding: how its float32 values become `dtype`.
        seed: of stochastic rounding, with the name.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: Source | None
    view: tuple[int, int]
    terms: tuple[PlacedTerm, ...] = ()
    module: str = ""
    rounding: Rounding = Rounding.NEAREST
    seed: int = 0

    @property
    def kind(self) -> OpKind:
        if self.source is None or self.source.name != self.name:
            return OpKind.NEW
        if self.terms:
            return OpKind.REPLACE if self.from_adapter else OpKind.CHANGE
        if isinstance(self.source, Encoded):
            return OpKind.DECODE
        return OpKind.COPY if self.source.dtype == self.dtype else OpKind.CAST

    @property
    def from_adapter(self) -> bool:
        """Whether the first term brings every value, so that the base's are not needed, not even their number."""
        if not self.terms:
            return False
        first = self.terms[0]
        return isinstance(first.term, Replace) and first.term.shape == self.view

    @property
    def computed(self) -> bool:
        """Whether the bytes go through the kernels, or are moved as they are."""
        stored = isinstance(self.source, TensorRef) and self.source.dtype == self.dtype
        return bool(self.terms) or not stored


@dataclass(frozen=True)
class ShardPlan:
    """One output file: its header, and the op of each tensor in file order.

    `source` is the base shard with the very same header bytes, where there is one: then offsets agree, and
    every byte that no op changes can be moved as it is.
    """

    file: str
    header: Header
    header_bytes: bytes
    ops: tuple[Op, ...]
    source: str | None

    @property
    def nbytes(self) -> int:
        return self.header.file_nbytes

    @cached_property
    def untouched(self) -> bool:
        """Whether the whole file equals the base's shard."""
        return self.source is not None and not any(op.computed for op in self.ops)


@dataclass(frozen=True)
class SideFile:
    """A small file of the output: copied from `origin` ("base" or an adapter's number), or `content` itself."""

    name: str
    origin: str
    content: bytes | None = None


@dataclass(frozen=True)
class InputFileInfo:
    """An input file as the plan saw it: enough to notice that it is another one."""

    name: str
    nbytes: int
    header_sha256: str


@dataclass(frozen=True)
class BaseInfo:
    """The base as the plan saw it."""

    name: str
    revision: str | None
    commit: str | None
    model_class: str | None
    config_sha256: str
    files: tuple[InputFileInfo, ...]


@dataclass(frozen=True)
class AdapterInfo:
    """One adapter as the plan saw it. `ranks` and `alphas` list the distinct values in use."""

    name: str
    revision: str | None
    commit: str | None
    weight: float
    method: str
    ranks: tuple[int, ...]
    alphas: tuple[float, ...]
    peft_version: str | None
    claimed_base: str | None
    claimed_revision: str | None
    config_sha256: str | None
    files: tuple[InputFileInfo, ...]
    tensors: int


@dataclass(frozen=True)
class Budget:
    """What the run will cost; bytes unless said otherwise. `seconds` is an estimate from `nbytes_per_second`."""

    read_nbytes: int
    write_nbytes: int
    free_nbytes: int | None
    peak_memory_nbytes: int
    flops: int
    nbytes_per_second: float
    seconds: float


@dataclass(frozen=True)
class GgufOptions:
    """GGUF files instead of safetensors shards.

    Attributes:
        file_types: such as Q4_K_M, each once.
        pre: llama.cpp's name of the pre-tokenizer, where the user says it.
        split_nbytes: the most bytes of tensors in one file; 0 for one file.
        imatrix_sha256: of the importance matrix.
        llama_cpp_sha256: of the llama.cpp converter that describes and reorders the tensors; None where ingot does.
    """

    file_types: tuple[str, ...]
    pre: str | None = None
    split_nbytes: int = 0
    imatrix_sha256: str | None = None
    llama_cpp_sha256: str | None = None


@dataclass(frozen=True)
class Options:
    """What the user asked for, as far as it changes bytes.

    Attributes:
        rounding: one of `Rounding`'s values.
        method, density, lambda_, majority_sign, gamma, epsilon: how several adapters become one; see
            `combine.parameters`, None for the method's own number.
        take: numbers of adapters, counted from 1, whose whole tensors are used where several bring them.
        gguf: None for safetensors shards.
    """

    dtype: str | None = None
    rounding: str = "nearest"
    assume_peft_version: str | None = None
    accept_nonfinite_base: bool = False
    accept_missing: bool = False
    seed: int = 0
    method: str = "linear"
    density: float | None = None
    lambda_: float = 1.0
    majority_sign: str = "total"
    gamma: float | None = None
    epsilon: float | None = None
    take: tuple[int, ...] = ()
    component: str | None = None
    expert_layout: str | None = None
    base_as: str = "stored"
    gguf: GgufOptions | None = None


@dataclass(frozen=True)
class Plan:
    """Everything that a merge will do.

    Laws: every adapter tensor is a key of `claims` (with the ops that use it) or of `explained` (with the reason);
    no two ops have one name; `shards` hold every base tensor except those in `dropped`.
    `warnings`, `budget`, `notes` and `interference` are for people and outside the digest.
    """

    base: BaseInfo
    adapters: tuple[AdapterInfo, ...]
    options: Options
    shards: tuple[ShardPlan, ...]
    index_name: str | None
    side_files: tuple[SideFile, ...]
    config_changes: Mapping[str, object]
    claims: Mapping[str, tuple[str, ...]]
    explained: Mapping[str, str]
    dropped: Mapping[str, str]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    budget: Budget | None = None
    interference: Interference | None = None

    @property
    def ops(self) -> tuple[Op, ...]:
        return tuple(op for shard in self.shards for op in shard.ops)

    @cached_property
    def digest(self) -> str:
        """sha256 of the canonical JSON of all that determines the output's bytes."""
        content = {
            "plan_version": PLAN_VERSION,
            **{f.name: plain(getattr(self, f.name)) for f in fields(self) if f.name not in _OUTSIDE_THE_DIGEST},
        }
        return hashlib.sha256(dumps_canonical(content)).hexdigest()

    @property
    def payload_nbytes(self) -> int:
        """The index's `total_size`: bytes of all tensors."""
        return sum(ref.nbytes for shard in self.shards for ref in shard.header.tensors)


_OUTSIDE_THE_DIGEST = frozenset({"warnings", "notes", "budget", "interference"})
_OUTSIDE_JSON = frozenset({"header", "header_bytes"})


def plain(value: object) -> object:
    """A plan's value as JSON types: dataclasses as objects with their type's name, bytes as their sha256."""
    if is_dataclass(value) and not isinstance(value, type):
        shown = {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.name not in _OUTSIDE_JSON}
        if isinstance(value, ShardPlan):
            shown["header_sha256"] = value.header.sha256
        return {"type": type(value).__name__, **shown}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    return value
