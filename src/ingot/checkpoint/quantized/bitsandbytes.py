"""bitsandbytes: 4 bits with an absmax for each block, or int8 with a scale for each row.

    nf4, fp4   W = code[q] * absmax, in float32, then rounded to the dtype that W had   (`functional.dequantize_4bit`)
               nested: absmax = map[a] * absmax2 + offset, for each 256 blocks
    int8       W = q * SCB / 127                                          (`functional.int8_vectorwise_dequant`)

On disk: `weight` holds two numbers a byte, the first in its high half, and lies beside `weight.absmax`,
`weight.quant_map`, `weight.nested_absmax`, `weight.nested_quant_map`, and `weight.quant_state.bitsandbytes__nf4`, which
is JSON; int8 has `weight` and `SCB`. Blocks follow one another across rows. Source: bitsandbytes 0.50.2
(functional.QuantState, backends/default/ops.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.checkpoint.quantized.encoded import Encoded, Found, Parts
from ingot.checkpoint.quantized.expect import expect, missing
from ingot.checkpoint.quantized.packing import nibbles
from ingot.errors import BaseError
from ingot.formats.strict_json import loads
from ingot.formats.tensor_ref import DTYPE_NBYTES, TensorRef
from ingot.kernels.codes import FP4, NF4

if TYPE_CHECKING:
    import torch

_STATE = ".quant_state.bitsandbytes__"
_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
_CODES = {"nf4": NF4, "fp4": FP4}


@dataclass(frozen=True)
class FourBit:
    """See the module. `stored` is the dtype that W had; `outer_block` and `offset` are set where absmax is nested."""

    code: str
    block: int
    stored: str
    outer_block: int = 0
    offset: float = 0.0

    kept = ()

    @property
    def title(self) -> str:
        return f"bitsandbytes {self.code}" + (", nested absmax" if self.outer_block else "")

    def decode(self, parts: Parts, begin: int, end: int) -> torch.Tensor:
        """See `Format.decode`."""
        from ingot.kernels.dtypes import TORCH_DTYPE
        from ingot.kernels.nf4 import by_block

        first = begin // 2
        packed = parts.raw("weight", first, -(-end // 2))
        values = nibbles(packed, _CODES[self.code], high_first=True)[begin - first * 2 : end - first * 2]
        block = begin // self.block
        absmax = self._absmax(parts, block, -(-end // self.block))
        return by_block(values, absmax, self.block, begin - block * self.block).to(TORCH_DTYPE[self.stored])

    def _absmax(self, parts: Parts, begin: int, end: int) -> torch.Tensor:
        """Of blocks [begin, end), float32."""
        absmax = parts.elements("absmax", begin, end)
        if not self.outer_block:
            return absmax.float()
        first = begin // self.outer_block
        outer = parts.elements("nested_absmax", first, -(-end // self.outer_block)).repeat_interleave(self.outer_block)
        code = parts.elements("nested_quant_map", 0, 256)
        inside = slice(begin - first * self.outer_block, end - first * self.outer_block)
        return code[absmax.int()] * outer[inside] + self.offset


@dataclass(frozen=True)
class EightBit:
    """See the module."""

    kept = ()
    title = "bitsandbytes int8"

    def decode(self, parts: Parts, begin: int, end: int) -> torch.Tensor:
        """See `Format.decode`."""
        columns = parts.shape[-1]
        first, last = begin // columns, -(-end // columns)
        values = parts.elements("weight", first * columns, last * columns).float().view(-1, columns)
        values *= parts.elements("SCB", first, last).view(-1, 1)
        values *= 1 / 127
        return values.view(-1)[begin - first * columns : end - first * columns]


def find_bitsandbytes(tensors: Mapping[str, TensorRef], dtype: str, read: Callable[[TensorRef], bytes]) -> Found:
    """The encoded weights of a bitsandbytes checkpoint. Reads each weight's small JSON and its 16 codes.

    Raises:
        BaseError: a part is missing, of another shape, or says what bitsandbytes does not define.
    """
    found = Found()
    for name, ref in tensors.items():
        weight, state, kind = name.partition(_STATE)
        if state:
            found.encoded.append(_four_bit(weight, kind, ref, tensors, dtype, read))
        elif name.endswith(".SCB"):
            found.encoded.append(_eight_bit(name.removesuffix(".SCB"), ref, tensors, dtype, read, found))
    return found


def _four_bit(
    name: str, kind: str, state_ref: TensorRef, tensors: Mapping[str, TensorRef], dtype: str,
    read: Callable[[TensorRef], bytes],
) -> Encoded:  # fmt: skip
    state = _State.of(read(state_ref), kind, state_ref)
    numel, blocks = math.prod(state.shape), -(-math.prod(state.shape) // state.block)
    parts = {"weight": tensors.get(name) or missing(name, state_ref)}
    if parts["weight"].nbytes != _stored_nbytes(numel, parts["weight"]):
        raise BaseError("a 4-bit weight does not have the bytes of its shape", where=name,
                        expected=f"{-(-numel // 2)} for {list(state.shape)}", found=parts["weight"].nbytes)  # fmt: skip
    for role in ("absmax", "quant_map", *(("nested_absmax", "nested_quant_map") if state.outer_block else ())):
        parts[role] = tensors.get(f"{name}.{role}") or missing(f"{name}.{role}", state_ref)
    expect(parts["absmax"], ("U8",) if state.outer_block else ("F32", "F16", "BF16"), (blocks,))
    expect(parts["quant_map"], ("F32",), (16,))
    if state.outer_block:
        expect(parts["nested_absmax"], ("F32",), (-(-blocks // state.outer_block),))
        expect(parts["nested_quant_map"], ("F32",), (256,))
    _check_code(kind, read(parts["quant_map"]), parts["quant_map"])
    parts["state"] = state_ref
    form = FourBit(kind, state.block, state.stored, state.outer_block, state.offset)
    return Encoded(name, dtype, state.shape, form, tuple(parts.items()))


def _stored_nbytes(numel: int, ref: TensorRef) -> int:
    """Two numbers a byte, in whole elements of the storage dtype (`bnb_4bit_quant_storage`)."""
    itemsize = DTYPE_NBYTES[ref.dtype]
    return math.ceil(math.ceil(numel / 2) / itemsize) * itemsize


@dataclass(frozen=True)
class _State:
    """The JSON of a `quant_state` tensor."""

    shape: tuple[int, ...]
    block: int
    stored: str
    outer_block: int
    offset: float

    @classmethod
    def of(cls, raw: bytes, kind: str, ref: TensorRef) -> _State:
        value = loads(raw, where=ref.name, error=BaseError)
        state = value if isinstance(value, dict) else {}
        shape, block, stored = state.get("shape"), state.get("blocksize"), state.get("dtype")
        nested = "nested_blocksize" in state
        outer, offset = (state.get("nested_blocksize"), state.get("nested_offset")) if nested else (0, 0.0)
        right = (
            kind in ("nf4", "fp4") and state.get("quant_type") == kind and block in _BLOCKS
            and isinstance(shape, list) and len(shape) > 0 and all(isinstance(n, int) and n > 0 for n in shape)
            and str(stored) in _DTYPES and isinstance(outer, int) and isinstance(offset, int | float)
            and (not nested or (outer > 0 and state.get("nested_dtype") == "float32"))
        )  # fmt: skip
        if not right:
            raise BaseError("the state of a 4-bit weight is not as bitsandbytes writes it", where=ref.name,
                            expected="quant_type, blocksize, dtype and shape", found=str(value)[:200])  # fmt: skip
        assert isinstance(shape, list)
        assert isinstance(outer, int)
        assert isinstance(offset, int | float)
        return cls(tuple(shape), int(str(block)), _DTYPES[str(stored)], outer, _float32(float(offset)))


def _float32(number: float) -> float:
    """What the number becomes as float32, in which bitsandbytes adds it."""
    import numpy as np

    return float(np.float32(number))


def _check_code(kind: str, raw: bytes, ref: TensorRef) -> None:
    """bitsandbytes decodes by the kind and never looks at the stored codes: where they differ, one of the two lies."""
    import numpy as np

    found = np.frombuffer(raw, np.float32)
    expected = np.array(_CODES[kind], np.float32)
    if not np.allclose(found, expected, rtol=0, atol=1e-3):
        raise BaseError(f"the codes of a 4-bit weight are not those of {kind}", where=ref.name,
                        found=", ".join(f"{x:.4g}" for x in found))  # fmt: skip


def _eight_bit(
    module: str, scale: TensorRef, tensors: Mapping[str, TensorRef], dtype: str,
    read: Callable[[TensorRef], bytes], found: Found,
) -> Encoded:  # fmt: skip
    name = f"{module}.weight"
    weight = tensors.get(name) or missing(name, scale)
    expect(weight, ("I8",), None, ndim=2)
    expect(scale, ("F32",), weight.shape[:1])
    order = tensors.get(f"{module}.weight_format")
    if order is not None:
        if any(read(order)):
            raise BaseError(
                "an int8 weight is stored in the order of a GPU's tensor cores", where=order.name,
                hint="Load the model with bitsandbytes and save it again; it then stores rows.",
            )  # fmt: skip
        found.set_aside[order.name] = "says that the int8 weight is stored in rows"
    return Encoded(name, dtype, weight.shape, EightBit(), (("weight", weight), ("SCB", scale)))
