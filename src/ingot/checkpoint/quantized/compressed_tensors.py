"""compressed-tensors: what llm-compressor writes. The scheme of each module is one of the config's groups.

    pack-quantized     weight_packed in int32 words, 2, 4 or 8 bits, weight_shape; W = (q - z) * s
    int-quantized      weight in int8
    float-quantized    weight in float8; one scale a tensor, a row, a block
    nvfp4-pack         weight_packed in E2M1, weight_scale in float8:  W = q * (weight_scale / weight_global_scale)
    mxfp4-pack, mxfp8  weight_scale in bytes of E8M0

weight_scale[rows / height, columns / width], weight_zero_point likewise, weight_g_idx[columns] where groups are in the
order of the activations. The product is rounded to the dtype of the scales (bfloat16 for 4-bit floats and E8M0), then
to that of the config. Source: compressed-tensors 0.20 (compressors/*, quantization/lifecycle/forward.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ingot.checkpoint.quantized.encoded import Encoded, Found
from ingot.checkpoint.quantized.expect import contradiction, expect, missing
from ingot.checkpoint.quantized.scaled import GROUPS, OUTER, SCALE, WEIGHT, ZERO, Number, Scaled
from ingot.errors import BaseError
from ingot.formats.tensor_ref import TensorRef

_BITS = (2, 4, 8)
_FLOATS = ("F32", "BF16", "F16")
_ACTIVATIONS = re.compile(r".*\.((input|output)_(scale|zero_point|global_scale)|[qkv]_(scale|zero_point|global_scale))")


@dataclass(frozen=True)
class _Scheme:
    """How one group of the config quantizes weights."""

    targets: tuple[str, ...]
    bits: int
    number: str
    strategy: str
    group: int
    block: tuple[int, int]

    def span(self, rows: int, columns: int) -> tuple[int, int]:
        """(height, width) of what shares a scale."""
        if self.strategy == "tensor":
            return (rows, columns)
        if self.strategy == "block":
            return self.block
        return (1, self.group if self.strategy in ("group", "tensor_group") else columns)


@dataclass(frozen=True)
class _Reading:
    tensors: Mapping[str, TensorRef]
    dtype: str
    schemes: tuple[_Scheme, ...]
    read: Callable[[TensorRef], bytes]


def find_compressed(
    tensors: Mapping[str, TensorRef], dtype: str, settings: Mapping[str, object], read: Callable[[TensorRef], bytes]
) -> Found:
    """The encoded weights of a compressed-tensors checkpoint. Reads each packed weight's shape.

    Raises:
        BaseError: parts that do not go together, or a config that asks for what is not decoded.
    """
    for key in ("transform_config", "sparsity_config"):
        said = settings.get(key)
        if isinstance(said, Mapping) and said and said.get("format") != "dense":
            raise BaseError(f"the weights are {'sparse' if key == 'sparsity_config' else 'rotated'}, which is not "
                            "undone here", where=f"quantization_config: {key}",
                            hint="Give the 16-bit checkpoint that it was made of.")  # fmt: skip
    reading = _Reading(tensors, dtype, tuple(_schemes(settings)), read)
    found = Found()
    for name, ref in tensors.items():
        if name.endswith(".weight_packed"):
            found.encoded.append(_encoded(name.removesuffix("_packed"), ref, reading))
        elif name.endswith(".weight") and f"{name}_scale" in tensors:
            found.encoded.append(_encoded(name, ref, reading))
        elif _ACTIVATIONS.fullmatch(name):
            found.set_aside[name] = "a scale of activations, which dense weights do not have"
    return found


def _schemes(settings: Mapping[str, object]) -> Iterator[_Scheme]:
    groups = settings.get("config_groups")
    for name, group in groups.items() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if not isinstance(weights, Mapping):
            continue
        structure = weights.get("block_structure") or (0, 0)
        height, width = structure.split("x") if isinstance(structure, str) else structure
        group_size = weights.get("group_size") or 0
        strategy = weights.get("strategy") or ("group" if group_size > 0 else "channel" if group_size < 0 else "tensor")
        targets = group.get("targets") or ()
        if strategy not in ("tensor", "channel", "group", "tensor_group", "block"):
            raise BaseError("a strategy of weights that is not decoded", where=f"quantization_config: {name}",
                            found=strategy)  # fmt: skip
        yield _Scheme(tuple(map(str, targets)), int(weights.get("num_bits", 8)), str(weights.get("type", "int")),
                      strategy, max(0, int(group_size)), (int(height), int(width)))  # fmt: skip


def _scheme_of(module: str, ref: TensorRef, schemes: tuple[_Scheme, ...]) -> _Scheme:
    """The scheme of the groups that mean this module: by name or pattern before class, as the library decides."""
    named = [s for s in schemes if any(_means(target, module) for target in s.targets)]
    classes = [s for s in schemes if any(not t.startswith("re:") and "." not in t for t in s.targets)]
    for fitting in (named, classes, list(schemes)):
        distinct = {(s.bits, s.number, s.strategy, s.group, s.block): s for s in fitting}
        if len(distinct) == 1:
            return next(iter(distinct.values()))
        if distinct:
            break
    raise contradiction("the scheme of a module", ref, "one group of config_groups that means it",
                        f"{len(named or schemes)} that may")  # fmt: skip


def _means(target: str, module: str) -> bool:
    return re.match(target[3:], module) is not None if target.startswith("re:") else target == module


def _encoded(name: str, ref: TensorRef, reading: _Reading) -> Encoded:
    scheme = _scheme_of(name.removesuffix(".weight"), ref, reading.schemes)
    scale = reading.tensors.get(f"{name}_scale") or missing(f"{name}_scale", ref)
    if len(ref.shape) != 2:
        raise BaseError("a quantized weight that is no matrix", where=ref.name, found=list(ref.shape))
    parts = {WEIGHT: ref, SCALE: scale}
    number, shape = _number(name, ref, scheme, reading)
    exponents = scale.dtype in ("U8", "F8_E8M0")
    outer = ""
    if number is Number.E2M1 and not exponents:
        parts[OUTER] = reading.tensors.get(f"{name}_global_scale") or missing(f"{name}_global_scale", ref)
        expect(parts[OUTER], ("F32",), (1,) if parts[OUTER].shape else ())
        outer = "divide"
    expect(scale, ("F8_E4M3",) if outer else (*_FLOATS, "U8", "F8_E8M0"), None)
    block = scheme.span(*shape)
    _check_grid(scale, shape, block, scheme)
    _optional(name, shape, block, scheme, parts, reading)
    if number is Number.PACKED:
        parts["shape"] = reading.tensors[f"{name}_shape"]
    product = "BF16" if number is Number.E2M1 or exponents else scale.dtype
    bits = scheme.bits if number is Number.PACKED else 0
    form = Scaled(_title(scheme, number, exponents), number, block, product, bits, exponents, outer)
    return Encoded(name, reading.dtype, shape, form, tuple(parts.items()))


def _title(scheme: _Scheme, number: Number, exponents: bool) -> str:
    if number is Number.E2M1:
        return f"compressed-tensors {'MXFP4' if exponents else 'NVFP4'}"
    kind = "mxfp8" if exponents else f"{scheme.number}{scheme.bits}"
    of = f"{scheme.group}" if scheme.strategy == "group" else ""
    return f"compressed-tensors {kind}, {scheme.strategy}{of}"


def _number(name: str, ref: TensorRef, scheme: _Scheme, reading: _Reading) -> tuple[Number, tuple[int, int]]:
    """How the weight is stored, and its dense shape."""
    rows, columns = ref.shape
    if ref.name == name:
        wanted = ("F8_E4M3",) if scheme.number == "float" else ("I8",)
        if ref.dtype not in wanted:
            raise contradiction("the type of a weight", ref, f"{scheme.number}{scheme.bits}, stored as {wanted[0]}",
                                ref.dtype)  # fmt: skip
        return Number.PLAIN, (rows, columns)
    if ref.dtype == "U8":
        return Number.E2M1, (rows, columns * 2)
    expect(ref, ("I32",), None)
    shape_ref = reading.tensors.get(f"{name}_shape") or missing(f"{name}_shape", ref)
    shape = _shape(reading.read(shape_ref), shape_ref)
    if scheme.number != "int" or scheme.bits not in _BITS:
        raise BaseError("packed numbers of a kind that is not decoded", where=ref.name,
                        expected=f"int of {list(_BITS)} bits", found=f"{scheme.number} of {scheme.bits}")  # fmt: skip
    if (rows, columns) != (shape[0], -(-shape[1] * scheme.bits // 32)):
        raise contradiction("the words of a packed weight", ref,
                            [shape[0], -(-shape[1] * scheme.bits // 32)], list(ref.shape))  # fmt: skip
    return Number.PACKED, shape


def _shape(raw: bytes, ref: TensorRef) -> tuple[int, int]:
    import numpy as np

    expect(ref, ("I64", "I32"), (2,))
    rows, columns = np.frombuffer(raw, np.int64 if ref.dtype == "I64" else np.int32).tolist()
    if rows < 1 or columns < 1:
        raise BaseError("the shape of a packed weight is none", where=ref.name, found=[rows, columns])
    return rows, columns


def _check_grid(scale: TensorRef, shape: tuple[int, int], block: tuple[int, int], scheme: _Scheme) -> None:
    if min(block) < 1:
        raise contradiction("the size of a group or block", scale, "a size above 0", list(block))
    grid = (-(-shape[0] // block[0]), -(-shape[1] // block[1]))
    if scale.numel != math.prod(grid) or (len(scale.shape) == 2 and scale.shape != grid):
        raise contradiction(f"the grid of scales ({scheme.strategy})", scale, list(grid), list(scale.shape))


def _optional(
    name: str, shape: tuple[int, int], block: tuple[int, int], scheme: _Scheme, parts: dict[str, TensorRef],
    reading: _Reading,
) -> None:  # fmt: skip
    """Zero points and the groups of columns, where they are stored."""
    rows, groups = -(-shape[0] // block[0]), -(-shape[1] // block[1])
    zero = reading.tensors.get(f"{name}_zero_point")
    if zero is not None:
        packed = zero.dtype == "I32" and parts[WEIGHT].dtype == "I32"
        expect(zero, ("I32",) if packed else ("I8",), None)
        expected = -(-rows * scheme.bits // 32) * groups if packed else rows * groups
        if zero.numel != expected or packed != (parts[WEIGHT].dtype == "I32"):
            raise contradiction("the zero points", zero, f"{expected} elements", list(zero.shape))
        parts[ZERO] = zero
    order = reading.tensors.get(f"{name}_g_idx")
    if order is not None:
        expect(order, ("I32", "I64"), (shape[1],))
        parts[GROUPS] = order
