"""The types of all tensors of a model, in the order in which llama-quantize decides on them and writes them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from ingot.errors import BaseError, UsageError
from ingot.quantize.gguf.mixtures import rules
from ingot.quantize.gguf.mixtures.kept import is_kept, n_axes, unquantized_type
from ingot.quantize.gguf.mixtures.model import Model, part_of
from ingot.quantize.gguf.types import FILE_TYPES, ggml_type

_LAYER = re.compile(r"blk\.(\d+)")
#: Types that are garbage without an importance matrix; so is Q2_K where a whole file is made of it.
_NEED_IMPORTANCE = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"})
_SHOWN = 5


def output_order(names: Iterable[str]) -> list[str]:
    """The order in a quantized file: what belongs to no block, then block after block, each by name."""
    return sorted(names, key=lambda name: (_layer(name), name.encode()))


def plan_types(
    model: Model,
    tensors: Mapping[str, Sequence[int]],
    file_type: str,
    *,
    source: str,
    importance: Collection[str] | None = None,
) -> dict[str, str]:
    """Tensor name -> ggml type, in the order of `output_order`: what llama-quantize makes of such a file.

    Args:
        tensors: name -> shape, the columns (one row) last.
        file_type: one of `types.FILE_TYPES`.
        source: type of the file that would be quantized, F32, F16 or BF16: what is not quantized keeps it.
        importance: names that an importance matrix has; None without one.

    Raises:
        UsageError: no such file type, or tensors need an importance matrix and have none.
        BaseError: a tensor of a model with experts whose name has no layer, or one that the model does not have.
    """
    if file_type not in FILE_TYPES:
        raise UsageError("no such GGUF file type", found=file_type, expected=", ".join(FILE_TYPES))
    planner = _Planner(model, file_type, tensors, weighted=importance is not None)
    types = {}
    for name in output_order(tensors):
        if is_kept(model.architecture, name, tensors[name]):
            types[name] = unquantized_type(name, tensors[name], source)
        else:
            types[name] = planner.type_of(name, tensors[name])
    _check_importance(types, file_type, importance or ())
    return types


class _Planner:
    """Asks the tables; counts the tensors of each part, since some rules look at how many came before."""

    def __init__(self, model: Model, file_type: str, names: Collection[str], *, weighted: bool) -> None:
        self._model, self._file_type, self._weighted = model, file_type, weighted
        self._default = FILE_TYPES[file_type]
        self._tied = "output.weight" not in names
        self._values = sum(part_of(name) == "attention_v" for name in names)
        self._seen: Counter[str] = Counter()

    def type_of(self, name: str, shape: Sequence[int]) -> str:
        if self._default in ("F32", "F16", "BF16"):
            return self._default
        part, columns = part_of(name), shape[-1]
        fits = columns % ggml_type(self._default).block == 0
        place = rules.Place(
            model=self._model, part=part, type=self._default, weighted=self._weighted,
            index=self._seen[part], count=self._values if part == "attention_v" else self._model.n_layer,
            fits=fits, stacked=n_axes(shape) > 2,
        )  # fmt: skip
        return _fallback(self._by_rules(name, place), columns)

    def _by_rules(self, name: str, place: rules.Place) -> str:
        part, file_type = place.part, self._file_type
        if place.model.architecture == "glm5-next" and re.search(r"attn_q_[ab]|nextn\.eh_proj", name):
            return "Q8_0"
        if part == "output" or (part == "embedding" and self._tied):
            return self._first(rules.OUTPUT, place)
        if file_type == "MXFP4_MOE":
            return self._first(rules.EXPERTS, place)
        if part == "embedding":
            return self._first(rules.EMBEDDING, place)
        self._seen[part] += 1
        if file_type in rules.VERY_LOW.split():
            return self._first(rules.VERY_LOW_BIT.get(part, ()), place)
        if part.startswith("ffn_") and place.model.n_expert > 1:
            place = _of_layer(place, name)
        chosen = self._first(rules.MIXED.get(part, ()), place)
        return self._first(rules.AFTERWARDS.get(part, ()), replace(place, type=chosen))

    def _first(self, table: Sequence[rules.Rule], place: rules.Place) -> str:
        return rules.first_fit(table, self._file_type, place) or place.type


def _of_layer(place: rules.Place, name: str) -> rules.Place:
    """With experts a layer has several such tensors: the layer is that of the name."""
    layer = _layer(name)
    if not 0 <= layer < place.model.n_layer:
        raise BaseError("a tensor's layer is none of the model's", where=name, expected=f"below {place.model.n_layer}")
    return replace(place, index=layer)


def _fallback(chosen: str, columns: int) -> str:
    """The type for rows that may be no whole blocks."""
    if columns % ggml_type(chosen).block == 0:
        return chosen
    other = rules.FALLBACKS.get(chosen, chosen)
    return other if columns % ggml_type(other).block == 0 else "F16"


def _check_importance(types: Mapping[str, str], file_type: str, have: Collection[str]) -> None:
    need = _NEED_IMPORTANCE | ({"Q2_K"} if file_type == "Q2_K_S" else set())
    free = ("output.weight", "token_embd.weight", "per_layer_token_embd.weight")
    missing = [name for name, of in types.items() if of in need and name not in have and name not in free]
    if missing:
        shown = ", ".join(f"{name} ({types[name]})" for name in missing[:_SHOWN])
        rest = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise UsageError(
            f"{file_type} needs an importance matrix for {len(missing)} tensors", found=f"none for {shown}{rest}",
            hint="Pass one that has them with --imatrix FILE.",
        )  # fmt: skip


def _layer(name: str) -> int:
    """The number of the block, -1 where there is none."""
    found = _LAYER.match(name)
    return int(found[1]) if found else -1
