"""Which base the adapters are merged onto: the checkpoint as given, or as QLoRA trained on it.

`nf4` puts the NF4 round trip first in every module that transformers would have given to bitsandbytes: each nn.Linear
and Conv1D but the output head, the last module, what is tied, and what the model class keeps in float32. Source:
transformers (quantizers/base.py, quantizers/quantizers_utils.py, integrations/bitsandbytes.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum

from ingot.adapters.edit import Edit
from ingot.adapters.module import Module, ModuleKind
from ingot.adapters.principal import Principal
from ingot.adapters.roundtrip import RoundTrip
from ingot.checkpoint.checkpoint import Checkpoint
from ingot.combine.combined import plain_terms
from ingot.errors import BaseError, MismatchError, UsageError
from ingot.kernels.spelling import MERGEABLE
from ingot.naming import Names
from ingot.naming.placed import PlacedTerm
from ingot.plan.figures import collapse
from ingot.plan.look import ROWS, Look
from ingot.plan.model import Op, Options
from ingot.plan.replicate import Replication
from ingot.plan.resolve import placed_at


class BaseAs(StrEnum):
    STORED = "stored"
    NF4 = "nf4"


def round_trips(
    base: Checkpoint, names: Names, replication: Replication, options: Options
) -> Mapping[str, Sequence[PlacedTerm]]:
    """The terms that come before all others, by the name of the output tensor; none where the base is taken as stored.

    Raises:
        UsageError: no such base.
        BaseError: it is quantized already, or its model class is not known.
        MismatchError: a weight does not stand whole in one tensor.
    """
    if options.base_as not in tuple(BaseAs):
        raise UsageError("no such base", expected=", ".join(BaseAs), found=f"--base-as {options.base_as}")
    if options.base_as == BaseAs.STORED:
        return {}
    if base.view.formats:
        raise BaseError(
            "the base is quantized already", where=base.location.name, found=", ".join(base.view.formats),
            hint="Leave --base-as out: its decoded values are what the adapter is merged onto.",
        )  # fmt: skip
    if names.model_class is None:
        raise BaseError("which modules bitsandbytes quantizes is not known without a model class",
                        where=base.location.name, found=names.why)  # fmt: skip
    found: dict[str, list[PlacedTerm]] = {}
    for path, module in names.modules.items():
        if is_quantized(path, module, names.dense_in_bitsandbytes):
            for name, term in _of(path, base, names):
                for copy in replication.copies(name):
                    found.setdefault(copy, []).append(term)
    return found


def check_terms(
    name: str, first: Sequence[PlacedTerm], terms: Sequence[PlacedTerm], trips: Mapping[str, object]
) -> None:
    """Raises MismatchError: a term of the tensor does not mean the same on a base that went through NF4."""
    if first and any(isinstance(placed.term, Principal) for placed in plain_terms(terms)):
        raise MismatchError(
            "PiSSA and OLoRA quantize what they leave of the base, not the base itself", where=name,
            hint="Merge this adapter without --base-as nf4.",
        )  # fmt: skip
    beside = {ref.name for placed in terms for near in placed.beside for ref, _ in near.blocks}
    if beside & trips.keys():
        raise MismatchError(
            "a change looks at another weight of the base as it is stored",
            where=name,
            found=min(beside & trips.keys()),
            hint="Merge this adapter without --base-as nf4.",
        )


def notes(base: Checkpoint, ops: Iterable[Op], look: Look, *, of_nf4: bool) -> Iterator[str]:
    """What a person should know of a base that is or was quantized; `of_nf4`: whether NF4's error is looked at."""
    if base.view.formats:
        formats = ", ".join(f"{title} ({number})" for title, number in base.view.formats.items())
        yield (
            f"The base is quantized: {formats}. It is decoded, and the output is dense. What its quantization changed "
            "is not known here: the 16-bit original would tell."
        )
    if not of_nf4:
        return
    kinds: dict[str, list[Op]] = {}
    for op in ops:
        kinds.setdefault(collapse(op.name), []).append(op)
    middle = {kind: look.nf4_over_delta(members[len(members) // 2]) for kind, members in kinds.items()}
    ratios = {kind: ratio for kind, ratio in middle.items() if ratio is not None}
    if ratios:
        listed = ", ".join(f"{kind} {ratio:.2g}" for kind, ratio in ratios.items())
        yield (
            f"NF4's error over the update, rms, on {ROWS} rows of one tensor of each kind: {listed}. Above 1 "
            "quantizing moves the weights by more than the adapter does, and it matters which base it is merged onto: "
            "docs/quantized-bases.md."
        )


def is_quantized(path: str, module: Module, dense: Sequence[str]) -> bool:
    """Whether this very class is replaced: a subclass of nn.Linear is not."""
    linear = module.kind is ModuleKind.LINEAR and module.class_name in ("", "Linear")
    if not (linear or module.kind is ModuleKind.CONV1D):
        return False
    return not any(re.match(pattern, path) or path.endswith(pattern) for pattern in dense)


def _of(path: str, base: Checkpoint, names: Names) -> list[tuple[str, PlacedTerm]]:
    site = names.site(path)
    terms = []
    for place in site.placements.get("weight", ()):
        dtype = base.tensors[place.tensor].dtype
        if dtype not in MERGEABLE:
            raise BaseError("NF4 is made of 16-bit and 32-bit weights", where=place.tensor, found=dtype)
        _, rows, columns = site.module.view("weight")
        trip = RoundTrip((rows, columns), dtype)
        if site.module.kind is ModuleKind.CONV1D:  # held as [in, out], quantized as [out, in]
            trip = RoundTrip((columns, rows), dtype).transposed()
        terms.append((place.tensor, placed_at(Edit("weight", place.index, trip), place)))
    return terms
