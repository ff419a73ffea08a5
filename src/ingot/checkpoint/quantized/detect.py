"""From a checkpoint's names and its quantization_config to the dense tensors that it shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ingot.checkpoint.quantized.awq import find_awq
from ingot.checkpoint.quantized.bitsandbytes import find_bitsandbytes
from ingot.checkpoint.quantized.compressed_tensors import find_compressed
from ingot.checkpoint.quantized.encoded import Encoded, Found, Source
from ingot.checkpoint.quantized.fp8 import find_fp8
from ingot.checkpoint.quantized.gptq import find_gptq
from ingot.checkpoint.quantized.mxfp4 import find_mxfp4
from ingot.checkpoint.quantized.nvfp4 import find_modelopt
from ingot.errors import BaseError
from ingot.formats.tensor_ref import TensorRef

#: Where quantization_config stands: at the top, or in the decoder's own part of the config.
_PARTS = ("", "text_config", "llm_config", "language_config", "thinker_config")
_KEYS = ("quantization_config", "compression_config")
#: What a quantizer writes beside the weights, and what would be untrue beside dense ones.
QUANTIZER_FILES = frozenset({"quantize_config.json", "quant_config.json", "quantization_config.json",
                             "hf_quant_config.json", "quant_log.csv"})  # fmt: skip
_TORCH_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
#: Dtypes that no dense weight of a quantized checkpoint has: such a tensor is a part that nobody claimed.
_ENCODED_DTYPES = frozenset({"U8", "I8", "U16", "U32", "I32", "F8_E4M3", "F8_E5M2", "F8_E8M0"})
#: Names of parts, and of nothing else.
_PART_NAMES = (
    ".qweight", ".qzeros", ".scales", ".g_idx", ".SCB", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map",
    "_scale_inv", ".weight_scale", ".weight_scale_2", ".weight_packed", ".weight_shape", ".weight_zero_point",
    ".weight_global_scale", ".weight_g_idx", "_proj_blocks", "_proj_scales",
)  # fmt: skip

#: Those that no dense checkpoint has, whatever its model class.
_TELLING, _STATE = (".qweight", ".weight_packed", ".weight_scale_inv", ".SCB"), ".quant_state.bitsandbytes__"

METHODS = ("bitsandbytes", "gptq", "awq", "fp8", "mxfp8", "fbgemm_fp8", "mxfp4", "modelopt", "compressed-tensors")


@dataclass(frozen=True)
class DenseView:
    """What a checkpoint shows.

    Attributes:
        shards: by file name, the tensors of each in file order; an encoded one stands where its first part stands.
        set_aside: tensors on disk that are not shown under their own name: name -> what became of them.
        formats: number of encoded tensors by the title of their format.
        config_keys: dotted keys of the config that are untrue of dense weights.
    """

    shards: Mapping[str, tuple[Source, ...]]
    set_aside: Mapping[str, str]
    formats: Mapping[str, int]
    config_keys: tuple[str, ...]


def quantization(config: Mapping[str, object]) -> tuple[str, Mapping[str, object]] | None:
    """(dotted key, settings) of the quantization that a config names; None where it names none.

    Raises:
        BaseError: it is no object.
    """
    for part in _PARTS:
        inner = config.get(part) if part else config
        for key in _KEYS:
            found = inner.get(key) if isinstance(inner, Mapping) else None
            if found:
                dotted = f"{part}.{key}" if part else key
                if not isinstance(found, Mapping):
                    raise BaseError("quantization_config is no object", where=dotted, found=type(found).__name__)
                return dotted, found
    return None


def method_of(settings: Mapping[str, object]) -> str:
    """The quantizer's name, as `quant_method` spells it; "unknown" where it does not say."""
    if settings.get("load_in_4bit") is True or settings.get("load_in_8bit") is True:
        return "bitsandbytes"
    return str(settings.get("quant_method") or ("compressed-tensors" if "config_groups" in settings else "unknown"))


def dense_view(
    shards: Mapping[str, Sequence[TensorRef]], config: Mapping[str, object], read: Callable[[TensorRef], bytes]
) -> DenseView:
    """The view of a checkpoint whose shards hold these tensors; `read` gives the bytes of a small one.

    Law: every tensor on disk is shown, is a part of one that is shown, or is in `set_aside`.

    Raises:
        BaseError: the config and the tensors contradict each other, or one of them is not understood.
    """
    named = quantization(config)
    if named is None:
        _refuse_parts(ref for refs in shards.values() for ref in refs)
        return DenseView({file: tuple(refs) for file, refs in shards.items()}, {}, {}, ())
    key, settings = named
    tensors = {ref.name: ref for refs in shards.values() for ref in refs}
    found = _found(tensors, settings, dense_dtype(config, tensors), read, key)
    taken = _set_aside(found, tensors)
    _check_rest(tensors, taken, found, key, method_of(settings))
    at = {encoded.parts[0][1].name: encoded for encoded in found.encoded}
    shown = {
        file: tuple(at.get(ref.name, ref) for ref in refs if ref.name in at or ref.name not in taken)
        for file, refs in shards.items()
    }
    titles = Counter(encoded.format.title for encoded in found.encoded)
    decoded = {encoded.name for encoded in found.encoded}
    return DenseView(shown, {n: why for n, why in taken.items() if n not in decoded}, dict(titles), (key,))


def _refuse_parts(tensors: Iterable[TensorRef]) -> None:
    """Raises BaseError: the config names no quantization, and yet here are parts that a quantizer alone writes."""
    part = next((ref for ref in tensors if ref.name.endswith(_TELLING) or _STATE in ref.name), None)
    if part is not None:
        raise BaseError(
            "the weights are quantized, and config.json names no quantization", where=part.name,
            expected="quantization_config in config.json",
            hint="config.json is not of these weights: download both together.",
        )  # fmt: skip


def _found(
    tensors: Mapping[str, TensorRef], settings: Mapping[str, object], dtype: str, read: Callable[[TensorRef], bytes],
    key: str,
) -> Found:  # fmt: skip
    method = method_of(settings)
    if method == "bitsandbytes":
        return find_bitsandbytes(tensors, dtype, read)
    if method == "gptq":
        return find_gptq(tensors, dtype, settings)
    if method == "awq":
        return find_awq(tensors, dtype, settings)
    if method in ("fp8", "mxfp8", "fbgemm_fp8"):
        return find_fp8(tensors, dtype, settings)
    if method == "mxfp4":
        return find_mxfp4(tensors, dtype)
    if method == "modelopt":
        return find_modelopt(tensors, dtype, settings)
    if method == "compressed-tensors":
        return find_compressed(tensors, dtype, settings, read)
    raise BaseError(
        "the base is quantized by a method that is not decoded", where=f"config.json: {key}",
        expected=", ".join(METHODS), found=method,
        hint="Give the 16-bit checkpoint that it was quantized from, or dequantize it with the library that made it.",
    )  # fmt: skip


def _set_aside(found: Found, tensors: Mapping[str, TensorRef]) -> dict[str, str]:
    """Every tensor on disk that is a part or of no use, with the reason. Raises BaseError where two claim a part."""
    taken = dict(found.set_aside)
    for encoded in found.encoded:
        for _, ref in encoded.parts:
            if ref.name in taken and ref.name not in found.set_aside:
                raise BaseError("two quantized weights claim one part", where=ref.name, found=encoded.name)
            taken[ref.name] = f"decoded: {encoded.format.title}"
        if encoded.name in tensors and encoded.name not in taken:
            raise BaseError("a weight is stored both quantized and dense", where=encoded.name)
    return taken


def _check_rest(
    tensors: Mapping[str, TensorRef], taken: Mapping[str, str], found: Found, key: str, method: str
) -> None:
    """Raises BaseError: nothing is encoded, or what looks like a part belongs to no weight."""
    if not found.encoded:
        raise BaseError(
            f"config.json says that the base is quantized by {method}, and none of its tensors is", where=key,
            hint=f"If the weights are 16-bit, take {key} out of config.json; if not, this is another layout.",
        )  # fmt: skip
    left = [
        name
        for name, ref in tensors.items()
        if name not in taken and (ref.dtype in _ENCODED_DTYPES or name.endswith(_PART_NAMES))
    ]
    if left:
        raise BaseError(
            f"{len(left)} tensors of the quantized base belong to no weight",
            where=", ".join(left[:5]) + (" …" if len(left) > 5 else ""), expected=f"parts of {method} weights",
            found=tensors[left[0]].dtype, hint="A part beside them is missing, or this layout is not known.",
        )  # fmt: skip


def dense_dtype(config: Mapping[str, object], tensors: Mapping[str, TensorRef]) -> str:
    """What the weights become: the dtype that the config names, or that most of the dense tensors have.

    Raises:
        BaseError: neither says.
    """
    for part in _PARTS:
        inner = config.get(part) if part else config
        for key in ("dtype", "torch_dtype"):
            said = inner.get(key) if isinstance(inner, Mapping) else None
            if isinstance(said, str) and said.removeprefix("torch.") in _TORCH_DTYPES:
                return _TORCH_DTYPES[said.removeprefix("torch.")]
    nbytes: Counter[str] = Counter()
    for ref in tensors.values():
        if ref.dtype in ("F16", "BF16"):
            nbytes[ref.dtype] += ref.nbytes
    if not nbytes:
        raise BaseError("what dtype the decoded weights have is not known", where="config.json: dtype",
                        expected="bfloat16, float16 or float32", hint="Add it to config.json.")  # fmt: skip
    return nbytes.most_common(1)[0][0]


def encoded_in(view: DenseView) -> list[Encoded]:
    """All encoded tensors of a view."""
    return [source for sources in view.shards.values() for source in sources if isinstance(source, Encoded)]
