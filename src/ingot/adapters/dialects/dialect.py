"""What a dialect is, what it is given, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ingot.adapters.config import AdapterConfig
from ingot.adapters.edit import Update
from ingot.adapters.factor import Factor
from ingot.errors import AdapterError
from ingot.formats.tensor_ref import TensorRef
from ingot.storage.inputs import InputFile

_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Content:
    """What an adapter's files hold, before anybody has understood it.

    Attributes:
        metadata: `__metadata__` of a safetensors file.
        raw: adapter_config.json beside the weights; None where there is none.
        adapter: its number among the adapters of a plan.
    """

    weights: InputFile
    tensors: tuple[TensorRef, ...]
    metadata: Mapping[str, str]
    raw: Mapping[str, Any] | None
    adapter: int

    @property
    def file(self) -> str:
        return self.weights.path.name

    def factor(self, ref: TensorRef) -> Factor:
        """The tensor as a factor. Raises AdapterError for a dtype that cannot be merged, and for an empty tensor."""
        where = f"`{ref.name}`"
        if ref.dtype not in _FLOATS:
            what = "tensor's dtype cannot be merged"
            raise AdapterError(what, where=where, expected=", ".join(_FLOATS), found=ref.dtype)
        if 0 in ref.shape:
            raise AdapterError("tensor is empty", where=where, found=list(ref.shape))
        return Factor(self.adapter, ref)


@dataclass(frozen=True)
class BaseFacts:
    """What a dialect may ask of the base.

    Attributes:
        paths: every module's path, in memory and on disk.
        config: config.json, parsed.
    """

    paths: Collection[str]
    config: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class DialectConfig(AdapterConfig):
    """The configuration of an adapter that is not PEFT's: little of it decides anything beside the tensors.

    Attributes:
        name: dialect and method, for people: "MLX DoRA".
        found_alphas: the distinct values of alpha in use.
        expected: modules that must have a layer, as far as the dialect can tell.
        whole: modules whose parameters the adapter brings whole.
        pair: the name of a layer's first tensor, for what is missing.
    """

    name: str = ""
    found_alphas: tuple[float, ...] = ()
    expected: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()
    pair: str = "lora_A.weight"

    @property
    def title(self) -> str:
        return self.name

    @property
    def alphas(self) -> tuple[float, ...]:
        return self.found_alphas

    def targets(self, path: str) -> bool | None:
        return path in self.expected

    def saves(self, path: str) -> bool:
        return path in self.whole


@dataclass(frozen=True)
class Reading:
    """An adapter, understood.

    Law: each tensor is in `tensors` of an update, or a key of `explained`.

    Attributes:
        components: how many tensors there are for each component of a pipeline; empty where there are no components.
        fit: the same for one base, where names or factors depend on it. Takes the component that the user named.
            Raises AdapterError, MismatchError.
    """

    config: AdapterConfig
    updates: tuple[Update, ...]
    explained: Mapping[str, str] = field(default_factory=dict)
    components: Mapping[str, int] = field(default_factory=dict)
    fit: Callable[[BaseFacts, str | None], Reading] | None = None


@dataclass(frozen=True)
class Dialect:
    """One format.

    Attributes:
        title: its name, for people.
        recognizes: whether an adapter is written in it, by file names, tensor names, metadata and config.
        read: the adapter. Raises AdapterError, MismatchError.
    """

    title: str
    recognizes: Callable[[Content], bool]
    read: Callable[[Content], Reading]


_LEFT = "Nothing is left out in silence: remove them from the file, or convert it with the tool that made it."


def refuse_unknown(names: Iterable[str], dialect: str, *, hint: str = _LEFT) -> None:
    """Raise AdapterError, naming them, where names are left that the dialect does not know."""
    left = list(names)
    if left:
        found = ", ".join(f"`{name}`" for name in left[:10]) + (", …" if len(left) > 10 else "")
        raise AdapterError(f"{len(left)} tensor(s) are none that {dialect} writes", found=found, hint=hint)
