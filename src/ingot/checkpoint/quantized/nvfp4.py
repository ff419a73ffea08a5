"""What NVIDIA's ModelOpt writes: NVFP4, and FP8 with one scale a tensor.

    NVFP4   weight[out, in / 2] in E2M1, the first number in the low half; weight_scale[out, in / 16] in float8;
            weight_scale_2, one number:   W = q * (weight_scale * weight_scale_2), in float32
    FP8     weight in float8, weight_scale: W = q * weight_scale

`input_scale` and the scales of the key and value cache belong to the activations. Source: ModelOpt
(torch/quantization/qtensor/nvfp4_tensor.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from ingot.checkpoint.quantized.encoded import Encoded, Found
from ingot.checkpoint.quantized.expect import expect
from ingot.checkpoint.quantized.fp8 import find_fp8
from ingot.checkpoint.quantized.scaled import OUTER, SCALE, WEIGHT, Number, Scaled
from ingot.errors import BaseError
from ingot.formats.tensor_ref import TensorRef

#: Numbers that share a scale.
_BLOCK = 16
_CACHE = (".k_scale", ".v_scale", ".q_scale", ".k_bmm_quantizer._amax", ".v_bmm_quantizer._amax", ".prob_output_scale")


def find_modelopt(tensors: Mapping[str, TensorRef], dtype: str, settings: Mapping[str, object]) -> Found:
    """The encoded weights of a ModelOpt checkpoint.

    Raises:
        BaseError: an algorithm other than NVFP4 and FP8, or parts that do not go together.
    """
    algorithm = str(settings.get("quant_algo", "")).upper()
    if algorithm not in ("NVFP4", "FP8"):
        raise BaseError("this algorithm of ModelOpt is not decoded", where="quantization_config: quant_algo",
                        expected="NVFP4 or FP8", found=algorithm or "none")  # fmt: skip
    four_bit = {name: ref for name, ref in tensors.items() if ref.dtype == "U8" and f"{name}_scale_2" in tensors}
    scales = {f"{name}_scale" for name in four_bit}
    found = find_fp8({name: ref for name, ref in tensors.items() if name not in scales}, dtype, settings)
    found.encoded += [_nvfp4(name, ref, tensors, dtype) for name, ref in four_bit.items()]
    found.set_aside |= {n: "a scale of the attention's cache, which dense weights do not have"
                        for n in tensors if n.endswith(_CACHE)}  # fmt: skip
    return found


def _nvfp4(name: str, ref: TensorRef, tensors: Mapping[str, TensorRef], dtype: str) -> Encoded:
    scale, second = tensors.get(f"{name}_scale"), tensors[f"{name}_scale_2"]
    shape = (*ref.shape[:-1], ref.shape[-1] * 2)
    if scale is None:
        raise BaseError("a part of a quantized weight is missing", where=f"{name}_scale",
                        expected=f"it beside {second.name}")  # fmt: skip
    expect(scale, ("F8_E4M3",), (*shape[:-1], -(-shape[-1] // _BLOCK)))
    expect(second, ("F32",), (1,) if second.shape else ())
    form = Scaled("NVFP4", Number.E2M1, (1, _BLOCK), outer="multiply")
    return Encoded(name, dtype, shape, form, ((WEIGHT, ref), (SCALE, scale), (OUTER, second)))
