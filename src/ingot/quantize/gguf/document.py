"""From a plan to GGUF files that are known to the byte before the first weight is read."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.errors import BaseError
from ingot.formats.strict_json import loads
from ingot.plan.model import GgufOptions, Plan
from ingot.plan.public import public_name
from ingot.quantize.gguf.architecture import Config, GgufTensor
from ingot.quantize.gguf.architectures.registry import find_architecture
from ingot.quantize.gguf.bridge.checkout import Checkout
from ingot.quantize.gguf.choose import quantizer_for
from ingot.quantize.gguf.foreign import read_as
from ingot.quantize.gguf.imatrix import ImportanceMatrix
from ingot.quantize.gguf.layout import lay_out
from ingot.quantize.gguf.metadata import add_metadata
from ingot.quantize.gguf.mixtures import Model, is_kept, plan_types
from ingot.quantize.gguf.native import find
from ingot.quantize.gguf.sink import Format
from ingot.quantize.gguf.types import file_type_id, ggml_type, library
from ingot.quantize.gguf.vocabulary.add import add_vocabulary

if TYPE_CHECKING:
    from gguf import GGUFWriter

    from ingot.quantize.gguf.bridge.converter import Described

#: What a file name may hold of a model's name.
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Document:
    """The files of every requested type.

    Attributes:
        backends: who quantizes each ggml type: "numpy", or the name of a library; and the "converter", if not ingot.
        converter: the checkout whose converter gives the tensors' rows; None where the plan's ops do.
        described: what that converter said.
    """

    tensors: tuple[GgufTensor, ...]
    formats: tuple[Format, ...]
    backends: Mapping[str, str]
    converter: Checkout | None = None
    described: Described | None = None

    @property
    def nbytes(self) -> int:
        return sum(file.nbytes for of in self.formats for file in of.files)


def make_document(
    plan: Plan,
    side_files: Mapping[str, bytes],
    options: GgufOptions,
    importance: ImportanceMatrix | None,
    *,
    converter: Checkout | None = None,
    described: Described | None = None,
) -> Document:
    """Everything but the weights.

    Args:
        side_files: bytes of config.json and of the tokenizer's files.
        converter, described: where a checkout of llama.cpp tells tensors and keys: which one, and what it told.

    Raises:
        BaseError: an architecture, tokenizer or tensor that GGUF does not have here.
        MismatchError: vocabulary and embedding, or importance matrix and model, disagree.
        UsageError: a type that needs an importance matrix.
        MissingComponent: a library of the `gguf` extra is not installed.
    """
    library()
    if described is None:
        config = _config(side_files)
        known = find_architecture(next(iter(config.get("architectures") or ()), None))
        with read_as("the model's configuration", where="config.json"):
            architecture, tensors = known.name, known.tensors(config, {op.name: op.shape for op in plan.ops})
        keys = _keys(config, known, side_files, options)
    else:
        architecture, tensors, keys = described.architecture, described.tensors, _their_keys(described)
    name = model_name(plan)
    model = _model(architecture, keys)
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    formats = []
    for file_type in options.file_types:
        have = None if importance is None else importance.values
        types = plan_types(model, shapes, file_type, source=source_type(plan), importance=have)
        if described is not None:
            kept = (tensor for tensor in tensors if is_kept(architecture, tensor.name, tensor.shape))
            types.update({tensor.name: described.stored[tensor.name] for tensor in kept})
        writer = _writer(architecture, keys, options.split_nbytes)
        add_metadata(writer, plan, name, tensors)
        writer.add_file_type(file_type_id(file_type))
        writer.add_quantization_version(library().GGML_QUANT_VERSION)
        if importance is not None:
            _add_importance(writer, importance)
        ordered = [tensor for key in types for tensor in tensors if tensor.name == key]
        nbytes = {tensor.name: ggml_type(types[tensor.name]).row_nbytes(tensor.shape[-1]) for tensor in tensors}
        with read_as(
            "the model's configuration", where="config.json"
        ):  # values are packed here, not when they are added
            files = lay_out(writer, ordered, types, nbytes, f"{name}-{file_type}.gguf")
        own = _importance(importance, tensors, types)
        native = find()
        used = {of: quantizer_for(of, weighted=_weighted(of, types, own), native=native) for of in set(types.values())}
        formats.append(Format(file_type, files, used, own))
    backends = {of: quantizer.backend for each in formats for of, quantizer in each.quantizers.items()}
    if converter is not None:
        backends["converter"] = converter.title
    return Document(tensors, tuple(formats), dict(sorted(backends.items())), converter, described)


def model_name(plan: Plan) -> str:
    """Base and adapters, as a file name may hold them: `llama-3.1-8b-support-lora`."""
    names = [public_name(plan.base.name), *(public_name(info.name) for info in plan.adapters)]
    parts = (_UNSAFE.sub("-", name.rpartition("/")[2]).strip("-.") for name in names)
    return "-".join(part for part in parts if part) or "model"


def _config(side_files: Mapping[str, bytes]) -> Config:
    config = loads(side_files["config.json"], where="config.json", error=BaseError)
    assert isinstance(config, dict)
    return config


def _keys(config: Config, architecture: Any, side_files: Mapping[str, bytes], options: GgufOptions) -> dict[str, Any]:
    """The writer's keys that all types share: the architecture's, and the tokenizer's, which takes a while to read."""
    from gguf import GGUFWriter

    writer = GGUFWriter(None, architecture.name)
    with read_as("the model's configuration", where="config.json"):
        architecture.describe(config, writer)
    with tempfile.TemporaryDirectory() as directory:
        for name, data in side_files.items():
            (Path(directory) / name).write_bytes(data)
        add_vocabulary(writer, Path(directory), config, pre=options.pre)
    return dict(writer.kv_data[0])


def _their_keys(described: Described) -> dict[str, Any]:
    """The converter's keys as the library's writer holds them."""
    from gguf import GGUFValueType
    from gguf.gguf_writer import GGUFValue

    return {
        name: GGUFValue(_encoded(value), GGUFValueType(kind), None if of is None else GGUFValueType(of))
        for name, kind, of, value in described.keys
    }


def _encoded(value: Any) -> Any:
    """Texts as bytes: some tokens are no UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    return [_encoded(item) for item in value] if isinstance(value, list) else value


def _writer(architecture: str, keys: Mapping[str, Any], split_nbytes: int) -> GGUFWriter:
    from gguf import GGUFWriter

    writer = GGUFWriter(None, architecture, split_max_size=split_nbytes)
    writer.kv_data[0].update(keys)
    return writer


def _model(architecture: str, keys: Mapping[str, Any]) -> Model:
    """What the rules for types look at."""

    def number(key: str, default: int = 0) -> int:
        found = keys.get(f"{architecture}.{key}")
        if found is None:
            return default
        return int(found.value[0] if isinstance(found.value, list) else found.value)

    heads = number("attention.head_count")
    return Model(
        architecture, number("block_count"), heads, number("attention.head_count_kv", heads), number("expert_count")
    )


def source_type(plan: Plan) -> str:
    """The dtype of most of the matrices that are quantized: what is not, keeps it."""
    first = next((op for op in plan.ops if len(op.shape) > 1), None)
    return first.dtype if first is not None and first.dtype in ("F16", "F32") else "BF16"


def _importance(
    importance: ImportanceMatrix | None, tensors: Sequence[GgufTensor], types: Mapping[str, str]
) -> dict[str, Any]:
    """float32[experts, columns] of every tensor that is quantized with one."""
    if importance is None:
        return {}
    found = {}
    for tensor in tensors:
        experts = tensor.shape[0] if len(tensor.shape) == 3 else 1
        own = importance.of(tensor.name, experts, tensor.shape[-1])
        if own is not None and types[tensor.name] not in ("F32", "F16", "BF16", "Q8_0"):
            found[tensor.name] = own
    return found


def _weighted(of: str, types: Mapping[str, str], importance: Mapping[str, Any]) -> bool:
    return any(types[name] == of for name in importance)


def _add_importance(writer: GGUFWriter, importance: ImportanceMatrix) -> None:
    """llama-quantize's keys, without the file's path."""
    for dataset in importance.datasets[:1]:
        writer.add_string("quantize.imatrix.dataset", Path(dataset).name)
    writer.add_int32("quantize.imatrix.entries_count", len(importance.values))
    writer.add_int32("quantize.imatrix.chunks_count", importance.chunks)
