"""BASE's and TUNED's parameters, side by side: every tensor of both is in a pair, or explained, or an error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ingot.adapters.module import ModuleKind, matrix_view
from ingot.adapters.saved import is_embedding
from ingot.checkpoint.checkpoint import Checkpoint
from ingot.errors import BaseError, MismatchError
from ingot.extract.model import Held, Parameter
from ingot.extract.source import Source
from ingot.naming import Names

_GIVE_THE_BASE = "Give the checkpoint that TUNED was trained from as BASE."


@dataclass(frozen=True)
class Pairing:
    """All parameters that TUNED has, in the model's order.

    Attributes:
        ties: parameters that are one in both checkpoints: full name of each alias to that of its source.
        notes: sentences about what is no parameter.
    """

    parameters: tuple[Parameter, ...]
    ties: Mapping[str, str]
    notes: tuple[str, ...]


def refuse_other_model(base: Checkpoint, tuned: Checkpoint) -> None:
    """Raise BaseError where one of the two is quantized, and MismatchError where they are of two kinds."""
    for role, checkpoint in (("BASE", base), ("TUNED", tuned)):
        quantization = checkpoint.config.get("quantization_config")
        if quantization:
            method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
            raise BaseError(
                f"{role} is quantized, and a difference of quantized weights is no update",
                where="quantization_config in config.json", found=method or "unknown",
                hint="Give the 16-bit or 32-bit checkpoint that it was quantized from.",
            )  # fmt: skip
    for key in ("model_type", "architectures"):
        ours, theirs = base.config.get(key), tuned.config.get(key)
        if ours is not None and theirs is not None and ours != theirs:
            raise MismatchError(
                "BASE and TUNED are models of two kinds", where=f"{key} in config.json",
                expected=_text(ours), found=_text(theirs), hint=_GIVE_THE_BASE,
            )  # fmt: skip


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def pair(base: Source, tuned: Source) -> Pairing:
    """Find every parameter of the model in both checkpoints.

    Raises:
        MismatchError: a parameter is in one of them alone, or has two shapes; the message names them.
        BaseError: one is stored in a dtype that has no difference.
    """
    ours_tied = {**base.names.tied, **base.names.stored_twice}
    shared = frozenset(ours_tied) | frozenset(ours_tied.values())
    parameters = []
    for path, name, shape in _parameters(base.names, tuned.names):
        ours_shape = base.names.modules[path].parameters.get(name)
        ours = None if ours_shape is None else base.held(path, name, ours_shape)
        theirs = tuned.held(path, name, shape)
        if theirs is None:
            if ours is None:
                continue  # neither has it: transformers makes it anew in both
            raise _alone(f"{path}.{name}", "BASE", "TUNED")
        _check_shapes(path, name, ours, theirs)
        stacked = base.names.modules[path].kind is ModuleKind.EXPERTS
        view = matrix_view(theirs.shape, stacked=stacked)
        parameters.append(Parameter(path, name, view, ours, theirs, f"{path}.{name}" in shared))
    ties = {alias: source for alias, source in tuned.names.tied.items() if ours_tied.get(alias) == source}
    return Pairing(tuple(parameters), ties, tuple(_notes(base, tuned)))


def _parameters(base: Names, tuned: Names) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Path, name and TUNED's shape of every parameter. Raises MismatchError where the two models differ in one."""
    found = {(path, name): shape for path, module in tuned.modules.items()
             for name, shape in module.parameters.items() if "." not in name}  # fmt: skip
    ours = {(path, name) for path, module in base.modules.items() for name in module.parameters if "." not in name}
    for alone, has, lacks in ((ours - found.keys(), "BASE", "TUNED"), (found.keys() - ours, "TUNED", "BASE")):
        if alone:
            names = sorted(f"{path}.{name}" for path, name in alone)
            raise _alone(", ".join(names[:5]) + (" …" if len(names) > 5 else ""), has, lacks)
    yield from ((path, name, shape) for (path, name), shape in found.items())


def _alone(names: str, has: str, lacks: str) -> MismatchError:
    return MismatchError(f"{has} has parameters that {lacks} lacks", where=names, hint=_GIVE_THE_BASE)


def _check_shapes(path: str, name: str, base: Held | None, tuned: Held) -> None:
    if base is None or base.shape == tuned.shape:
        return
    if is_embedding(path) and base.shape[1:] == tuned.shape[1:]:
        return  # a resized vocabulary
    raise MismatchError(
        "a parameter has another shape in TUNED than in BASE", where=f"{path}.{name}",
        expected=list(base.shape), found=list(tuned.shape), hint=_GIVE_THE_BASE,
    )  # fmt: skip


def _notes(base: Source, tuned: Source) -> Iterator[str]:
    """What the model class does not use: an adapter cannot hold it, and the model as loaded does not need it."""
    for one, other in ((base, tuned), (tuned, base)):
        extra = sorted(set(one.names.unused) - set(other.names.unused))
        if extra:
            yield (
                f"{one.role} stores {len(extra)} tensors that {one.names.model_class} does not use, such as "
                f"{extra[0]}; they have no part in this."
            )
    if base.names.model_class is None:
        yield f"No model class: {base.names.why}. Tensor names were taken for module paths."
