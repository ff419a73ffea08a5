"""The grammar of the names in an adapter file.

    name = prefix path ["." base_layer]* "." role
    prefix = "base_model.model." (none, once or twice, the same for all tensors of a file)
    role = lora_A.weight | lora_B.weight | lora_B.bias | lora_embedding_A | lora_embedding_B | lora_magnitude_vector
         | lora_diag | token_adapter.trainable_tokens_delta | parameter

PEFT drops the adapter's name when it saves ("lora_A.default.weight" -> "lora_A.weight"); names that kept it are read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ingot.errors import AdapterError
from ingot.formats.tensor_ref import TensorRef

PREFIX = "base_model.model."


class Role(StrEnum):
    """What a tensor of an adapter is to its module."""

    A = "lora_A.weight"
    B = "lora_B.weight"
    B_BIAS = "lora_B.bias"
    EMBEDDING_A = "lora_embedding_A"
    EMBEDDING_B = "lora_embedding_B"
    MAGNITUDE = "lora_magnitude_vector"
    DIAGONAL = "lora_diag"
    TOKENS = "token_adapter.trainable_tokens_delta"
    TOKENS_BASE = "token_adapter.base_layer"  # a copy of the embedding under trained token rows
    BASE = "base_layer"  # the layer under a LoRA layer: a trained bias, or a copy of an embedding
    FULL = "parameter"  # a parameter of an unwrapped module
    EXTRA = "extra"  # of no effect on a merge; `Key.parameter` says why


@dataclass(frozen=True, slots=True)
class Key:
    """One tensor's name, read.

    Attributes:
        path: the module's path in the model that was trained.
        depth: how many `base_layer` stand between the path and the role: the nesting of wrapped parameters.
        parameter: name of the parameter for BASE, TOKENS_BASE and FULL; the reason for EXTRA.
    """

    ref: TensorRef
    path: str
    role: Role
    depth: int = 0
    parameter: str = ""


_ADAPTER_NAME = r"(?:\.(?P<name>(?!weight$|bias$)[^.]+))?"
_NESTED = r"(?P<path>.+?)(?P<nested>(?:\.base_layer)*)"
_ROLES: tuple[tuple[re.Pattern[str], dict[str, Role]], ...] = (
    (re.compile(rf"{_NESTED}\.(?P<role>lora_A|lora_B){_ADAPTER_NAME}(?P<end>\.weight|\.bias)"),
     {"lora_A.weight": Role.A, "lora_B.weight": Role.B, "lora_B.bias": Role.B_BIAS}),
    (re.compile(rf"{_NESTED}\.(?P<role>lora_embedding_A|lora_embedding_B){_ADAPTER_NAME}(?P<end>)"),
     {"lora_embedding_A": Role.EMBEDDING_A, "lora_embedding_B": Role.EMBEDDING_B}),
    (re.compile(rf"{_NESTED}\.(?P<role>lora_magnitude_vector){_ADAPTER_NAME}(?P<end>(?:\.weight)?)"),
     {"lora_magnitude_vector": Role.MAGNITUDE, "lora_magnitude_vector.weight": Role.MAGNITUDE}),
    (re.compile(rf"{_NESTED}\.(?P<role>lora_diag){_ADAPTER_NAME}(?P<end>)"), {"lora_diag": Role.DIAGONAL}),
    (re.compile(rf"(?P<path>.+?)(?P<nested>)\.token_adapter\.(?P<role>trainable_tokens_delta){_ADAPTER_NAME}(?P<end>)"),
     {"trainable_tokens_delta": Role.TOKENS}),
)  # fmt: skip
_EXTRAS = (
    (re.compile(r"(?P<path>.+?)\.lora_velora_embed(\..*)?"), "VeLoRA's compressed activations, used in training only"),
    (re.compile(r"(?P<path>.+?)\.lora_monteclora_sampler\..+"), "MonteCLoRA's sampler, used in training only"),
    (re.compile(r"(?P<path>.+?)\.original_module\..+"), "the untrained original beside a trained copy"),
    (re.compile(r"(?P<path>.+?)\.modules_to_save\.(weight|bias)"), "a second copy of a saved module"),
    (re.compile(r"(?P<path>.+?)\.token_adapter\.trainable_tokens_original(\..*)?"), "the untrained token rows"),
)
_COPIES = re.compile(r"\.(?:original_module|modules_to_save)\.")
_SAVED = re.compile(r"(?P<path>.+?)\.modules_to_save\.(?P<name>[^.]+)\.(?P<rest>.+)")
_WRAPPED = re.compile(r"(?P<path>.+?)(?P<tokens>\.token_adapter)?(?:\.base_layer)+")
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def parse_keys(tensors: Sequence[TensorRef]) -> tuple[Key, ...]:
    """All names of one adapter file, read.

    Raises:
        AdapterError: a name that cannot be read, that has another prefix or adapter name than the rest, or two names
            that mean the same; the message names the tensor.
    """
    if not tensors:
        raise AdapterError("adapter has no tensors")
    names = without_prefix(tensors)
    adapter_names: dict[str, str | None] = {}
    keys = tuple(_parse(ref, name, adapter_names) for ref, name in zip(tensors, names, strict=True))
    _check_one_kind(adapter_names, "adapter name")
    seen: dict[tuple[str, Role, int, str], str] = {}
    for key in keys:
        meaning = (key.path, key.role, key.depth, key.parameter if key.role is not Role.EXTRA else key.ref.name)
        if meaning in seen:
            found = f"`{seen[meaning]}` and `{key.ref.name}`"
            raise AdapterError("two tensors mean the same", where=key.path, found=found)
        seen[meaning] = key.ref.name
    _check_copies(keys)
    return keys


def _check_copies(keys: Sequence[Key]) -> None:
    """What PEFT saves beside a trained copy is of no use without that copy, and has its shape."""
    trained = {f"{key.path}.{key.parameter}": key.ref for key in keys if key.role is Role.FULL}
    for key in keys:
        tail = _COPIES.split(key.ref.name, maxsplit=1)[1:]
        if key.role is Role.EXTRA and tail:
            name = f"{key.path}.{tail[0]}"
            twin = trained.get(name)
            if twin is None or twin.shape != key.ref.shape:
                raise AdapterError(
                    "an unused tensor lacks the trained one beside it", where=f"`{key.ref.name}`",
                    expected=f"`{name}` of shape {list(key.ref.shape)}",
                    found=None if twin is None else list(twin.shape),
                )  # fmt: skip


def without_prefix(tensors: Sequence[TensorRef]) -> list[str]:
    """The names without their prefix, which must be the same for all."""
    counts: dict[str, str] = {}
    names = []
    for ref in tensors:
        name = _WRAPPERS.sub("", ref.name)
        if name.startswith(f"module.{PREFIX}"):
            name = name.removeprefix("module.")
        rest = name
        while rest.startswith(PREFIX):
            rest = rest.removeprefix(PREFIX)
        counts[ref.name] = name[: len(name) - len(rest)]
        names.append(rest)
    _check_one_kind(counts, "prefix")
    return names


def _check_one_kind(kinds: dict[str, str] | dict[str, str | None], what: str) -> None:
    """Refuse a file whose names disagree, naming one of the fewest."""
    found = Counter(kinds.values())
    if len(found) > 1:
        usual, rare = found.most_common()[0][0], found.most_common()[-1][0]
        name = next(name for name, kind in kinds.items() if kind == rare)
        raise AdapterError(
            f"one tensor has another {what} than the rest", where=f"`{name}`", expected=repr(usual), found=repr(rare)
        )


def _parse(ref: TensorRef, name: str, adapter_names: dict[str, str | None]) -> Key:
    for pattern, reason in _EXTRAS:
        if match := pattern.fullmatch(name):
            return Key(ref, match["path"], Role.EXTRA, parameter=reason)
    for roles, by_name in _ROLES:
        match = roles.fullmatch(name)
        role = by_name.get(match["role"] + match["end"]) if match else None
        if match and role:
            adapter_names[ref.name] = match["name"]
            return Key(ref, match["path"], role, match["nested"].count("."))
    if ".lora_" in f".{name}" or name.startswith("base_model."):
        raise AdapterError("tensor's name cannot be read", where=f"`{ref.name}`", hint=_UNREADABLE)
    return parse_parameter(ref, name)


_UNREADABLE = "Names look like `base_model.model.<module>.lora_A.weight`; was a tensor renamed?"


def parse_parameter(ref: TensorRef, name: str) -> Key:
    """A whole parameter: `module.weight`, perhaps under the wrappers that PEFT puts around a module."""
    if match := _SAVED.fullmatch(name):
        name = f"{match['path']}.{match['rest']}"
    path, _, parameter = name.rpartition(".")
    if not path:
        raise AdapterError("tensor belongs to no module", where=f"`{ref.name}`", hint=_UNREADABLE)
    wrapped = _WRAPPED.fullmatch(path)
    if wrapped:
        role = Role.TOKENS_BASE if wrapped["tokens"] else Role.BASE
        return Key(ref, wrapped["path"], role, parameter=parameter)
    return Key(ref, path, Role.FULL, parameter=parameter)
