"""FP8 checkpoints: W = q * s with one scale for the tensor, a row, or a block of it.

    fp8         weight_scale_inv[out / 128, in / 128] (DeepSeek, `weight_block_size`); a scalar; or `weight_scale`
    mxfp8       weight_scale_inv[out, in / 32]: bytes of E8M0
    fbgemm_fp8  weight_scale[out, 1]

The product is in float32 and rounded once, to the dtype of the config. The block is that of the config: it cannot be
told from the grid of scales, 192 rows in two blocks are 128 and 64 and not twice 96. Source: DeepSeek-V3
(inference/kernel.py), compressed-tensors 0.20 (FP8BlockDequantizer).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ingot.checkpoint.quantized.encoded import Encoded, Found
from ingot.checkpoint.quantized.expect import contradiction, expect, missing
from ingot.checkpoint.quantized.scaled import SCALE, WEIGHT, Number, Scaled
from ingot.formats.tensor_ref import TensorRef

_FLOAT8 = ("F8_E4M3", "F8_E5M2")
_SCALES = ("F32", "BF16", "F16")
#: What a float8 weight's scale is called beside it, for a module's weight and for a bare parameter (experts).
_SUFFIXES = ("_scale_inv", "_scale")
_ACTIVATIONS = (".input_scale", ".activation_scale", ".input_scale_ub", "_activation_scale", "_input_scale")


def find_fp8(tensors: Mapping[str, TensorRef], dtype: str, settings: Mapping[str, object]) -> Found:
    """The encoded weights of an FP8 checkpoint; what is not float8 was left dense by the quantizer.

    Raises:
        BaseError: a float8 weight without its scale, or a scale that does not fit weight and config.
    """
    found = Found()
    for name, ref in tensors.items():
        if ref.dtype in _FLOAT8 and not name.endswith(_SUFFIXES):
            found.encoded.append(_encoded(name, ref, tensors, dtype, settings))
        elif name.endswith(_ACTIVATIONS):
            found.set_aside[name] = "a scale of activations, which dense weights do not have"
    return found


def _encoded(
    name: str, ref: TensorRef, tensors: Mapping[str, TensorRef], dtype: str, settings: Mapping[str, object]
) -> Encoded:
    scale = next((tensors[name + suffix] for suffix in _SUFFIXES if name + suffix in tensors), None)
    if scale is None:
        missing(name + _SUFFIXES[0], ref)
    title = f"FP8 {'E4M3' if ref.dtype == 'F8_E4M3' else 'E5M2'}"
    exponents = scale.dtype in ("U8", "F8_E8M0")
    expect(scale, (*_SCALES, "U8", "F8_E8M0"), None)
    block, kind = _block(ref, scale, settings)
    form = Scaled(f"{title}, {kind}", Number.PLAIN, block, exponents=exponents)
    return Encoded(name, dtype, ref.shape, form, ((WEIGHT, ref), (SCALE, scale)))


def _block(ref: TensorRef, scale: TensorRef, settings: Mapping[str, object]) -> tuple[tuple[int, int], str]:
    """(height, width) of a block, and what that is called."""
    rows, columns = ref.shape[-2] if len(ref.shape) > 1 else 1, ref.shape[-1]
    matrices = math.prod(ref.shape[:-2])
    if scale.numel == matrices:
        return (rows, columns), "one scale a tensor"
    if scale.shape in ((*ref.shape[:-1], 1), ref.shape[:-1]):
        return (1, columns), "one scale a row"
    asked = settings.get("weight_block_size")
    if not (isinstance(asked, list | tuple) and len(asked) == 2 and all(isinstance(n, int) and n > 0 for n in asked)):
        raise contradiction("weight_block_size", scale, "two numbers", asked)
    height, width = int(asked[0]), int(asked[1])
    grid = (*ref.shape[:-2], -(-rows // height), -(-columns // width))
    if scale.shape != grid:
        raise contradiction("the grid of scales", scale, f"{list(grid)} for blocks of {height}x{width}",
                            list(scale.shape))  # fmt: skip
    return (height, width), f"blocks of {height}x{width}"
