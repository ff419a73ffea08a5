"""A LoRA adapter for llama.cpp's runtime: `ingot export-lora BASE ADAPTER -o FILE.gguf`.

llama.cpp knows one alpha for a whole adapter and multiplies every product by alpha / rank, so rsLoRA and alpha patterns
cannot be said. Here the scaling of each module stands in its `lora_b`, and alpha is 0, which llama.cpp reads as 1:

    NAME.lora_a[r, in] = A        NAME.lora_b[out, r] = s * B, its rows in the order of the base's rows in GGUF

Source: `llama_adapter_lora_init_impl` and `get_scale` of llama.cpp's llama-adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.adapters.terms import Load, LowRank
from ingot.errors import AdapterError, NonFiniteError, UsageError
from ingot.merge import Job, prepare
from ingot.naming.placed import PlacedTerm
from ingot.plan.figures import counted
from ingot.plan.model import Op, OpKind, Options, Plan
from ingot.plan.public import public_name
from ingot.quantize.gguf.architectures.registry import find_architecture
from ingot.quantize.gguf.assemble import Array, Assembler, units
from ingot.quantize.gguf.types import library
from ingot.quantize.gguf.writing import check_new_file, whole_file
from ingot.storage import PosixDisk, replace_file
from ingot.version import __version__

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ingot.quantize.gguf.architecture import GgufTensor

#: Of an embedding, compared at a time.
_ROWS = 1024
_MERGE = "Merge it instead: `ingot merge BASE ADAPTER -o OUT --to gguf:Q8_0`."


@dataclass(frozen=True)
class Exported:
    """What was written. `scalings`: the distinct factors that now stand in the `lora_b`."""

    path: Path
    nbytes: int
    modules: int
    ranks: tuple[int, ...]
    scalings: tuple[float, ...]


def export_lora(base: str, adapter: str, target: Path, *, dtype: str = "F32") -> Exported:
    """Write the adapter of a LoRA as one GGUF file: whole or absent.

    Args:
        base: the model that it belongs to, a directory or a Hub id; headers and config are read, and an embedding that
            the adapter holds a copy of.
        dtype: of the factors, F32 or F16.

    Raises:
        AdapterError: the adapter does more than add products of two matrices.
        BaseError: the base's architecture is not written to GGUF here.
        UsageError: the target's name does not end in .gguf.
        OutputError: the target exists, or its directory does not.
    """
    if target.suffix != ".gguf":
        raise UsageError("the output is one file whose name ends in .gguf", where=target,
                         hint=f"Name it like -o {target.name}.gguf.")  # fmt: skip
    check_new_file(target)
    with prepare(base, [(adapter, 1.0)], Options()) as job:
        return _export(job, target, dtype)


def _export(job: Job, target: Path, dtype: str) -> Exported:
    architecture = find_architecture(_model_class(job.base.config))
    ops = {op.name: op for op in _without_copies(job)}
    tensors = architecture.tensors(job.base.config, {name: op.shape for name, op in ops.items()})
    _refuse_other_changes(job.plan, ops.values(), tensors)
    layers = {tensor.name: layer for tensor in tensors if (layer := _layer(tensor, ops)) is not None}
    data = _file(job, architecture.name, layers, dtype)
    replace_file(PosixDisk(), target.absolute(), data)
    terms = [term for layer in layers.values() for term in layer.terms]
    ranks, scalings = {term.rank for term in terms}, {term.scaling for term in terms}
    return Exported(target, len(data), len(layers), tuple(sorted(ranks)), tuple(sorted(scalings)))


def _model_class(config: Mapping[str, Any]) -> str | None:
    return next(iter(config.get("architectures") or ()), None)


def _without_copies(job: Job) -> Iterator[Op]:
    """The plan's ops. PEFT saves an embedding that it puts a LoRA on: where that is the base's own, it is left out."""
    from ingot.engine.merged import MergedRows

    rows = MergedRows(job.base.inputs, job.adapter_files, "cpu")
    for op in job.plan.ops:
        saved = op.kind is OpKind.REPLACE and len(op.terms) > 1
        yield replace(op, terms=op.terms[1:]) if saved and _is_copy(rows, op) else op


def _is_copy(rows: Callable[[Op, int, int], torch.Tensor], op: Op) -> bool:
    """Whether the op's first term brings the values that the base has."""
    if op.source is None or op.source.shape != op.shape:
        return False
    copied, own, height = replace(op, terms=op.terms[:1]), replace(op, terms=()), op.view[0]
    spans = [(begin, min(begin + _ROWS, height)) for begin in range(0, height, _ROWS)]
    return all(rows(copied, *span).equal(rows(own, *span)) for span in spans)


def _refuse_other_changes(plan: Plan, ops: Collection[Op], tensors: Sequence[GgufTensor]) -> None:
    """llama.cpp adds products to tensors that the base has: nothing else, and no new tensor."""
    if plan.config_changes:
        what = ", ".join(plan.config_changes)
        raise AdapterError("the adapter changes the model's config, which an adapter for llama.cpp cannot",
                           found=what, hint=_MERGE)  # fmt: skip
    others = [op.name for op in ops if not all(_is_product(placed, op) for placed in op.terms)]
    if others:
        shown = ", ".join(others[:5]) + (" …" if len(others) > 5 else "")
        raise AdapterError(
            f"llama.cpp's adapters are products of two matrices; changed otherwise: {counted(len(others), 'tensor')}",
            where=shown, hint=_MERGE,
        )  # fmt: skip
    used = {rows.tensor for tensor in tensors for rows in tensor.rows}
    lost = [op.name for op in ops if op.terms and op.name not in used]
    if lost:
        raise AdapterError("the GGUF has no tensor for a part of the adapter", where=", ".join(lost[:5]), hint=_MERGE)


def _is_product(placed: PlacedTerm, op: Op) -> bool:
    return isinstance(placed.term, LowRank) and placed.term.shape == op.view and len(op.terms) == 1


@dataclass(frozen=True)
class _Layer:
    """The products of one tensor of the GGUF: one, or one for each expert. `ops`: of the base's tensors, by name."""

    tensor: GgufTensor
    terms: tuple[LowRank, ...]
    ops: Mapping[str, Op]


def _layer(tensor: GgufTensor, ops: Mapping[str, Op]) -> _Layer | None:
    """None where the adapter leaves the tensor as it is."""
    names = list(dict.fromkeys(rows.tensor for rows in tensor.rows))
    terms = [term for name in names for placed in ops[name].terms if isinstance(term := placed.term, LowRank)]
    if not terms:
        return None
    if len(terms) != len(names) or len({term.rank for term in terms}) > 1:
        raise AdapterError("the experts of a layer are not changed alike", where=tensor.name, hint=_MERGE)
    return _Layer(tensor, tuple(terms), {name: ops[name] for name in names})


def _file(job: Job, architecture: str, layers: Mapping[str, _Layer], dtype: str) -> bytes:
    """The whole file's bytes."""
    library()
    from gguf import GGUFType, GGUFWriter

    from ingot.engine.factors import FactorReader

    writer = GGUFWriter(None, architecture)
    writer.add_type(GGUFType.ADAPTER)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 0.0)
    writer.add_name(public_name(job.plan.adapters[0].name))
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, public_name(job.plan.base.name))
    writer.add_quantized_by(f"ingot {__version__}")
    load = FactorReader(job.adapter_files, torch_device())
    for name, layer in layers.items():
        for end, values in zip((".lora_a", ".lora_b"), _factors(layer, load), strict=True):
            writer.add_tensor(name + end, _in(values, dtype, name))
    return whole_file(writer)


def _factors(layer: _Layer, load: Load) -> tuple[Array, Array]:
    """`lora_a` and `lora_b`; of an embedding, whose rows are looked up, [tokens, r] and [width, r]."""
    import numpy as np

    tensor, rank = layer.tensor, layer.terms[0].rank
    left = {name: load(term.left) * term.scaling for name, term in zip(layer.ops, layer.terms, strict=True)}
    right = [load(term.right).numpy() for term in layer.terms]
    if tensor.name == "token_embd.weight":
        unscaled = load(layer.terms[0].left).numpy()
        return unscaled, np.ascontiguousarray(right[0].T * np.float32(layer.terms[0].scaling))
    # the rows of B are put in the order of the tensor's own rows
    narrow = {name: replace(op, view=(op.view[0], rank)) for name, op in layer.ops.items()}
    assembler = Assembler(narrow, lambda op, begin, end: left[op.name][begin:end])
    shaped = replace(tensor, shape=(*tensor.shape[:-1], rank), add=0.0)
    b = np.concatenate([assembler.rows(shaped, *unit) for unit in units(shaped)]).reshape(shaped.shape)
    a = right[0] if len(right) == 1 else np.stack(right)
    return a, b


def _in(values: Array, dtype: str, name: str) -> np.ndarray[Any, Any]:
    """`values` in F32 or F16. Raises NonFiniteError where one has no place in F16."""
    import numpy as np

    if dtype == "F32":
        return values
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise NonFiniteError("a factor has no place in F16", where=name, hint="Use --dtype float32.")
    return half


def torch_device() -> torch.device:
    """The CPU: what is exported is small."""
    import torch

    return torch.device("cpu")
