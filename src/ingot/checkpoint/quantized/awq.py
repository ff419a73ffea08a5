"""AWQ in its GEMM layout: 4-bit integers packed along the outputs.

    W[out, in] = (q[in, out] - z[in / group, out]) * s[in / group, out]      rounded once, to the dtype of s
    qweight[in, out / 8], qzeros[groups, out / 8]      eight outputs a word, in the order 0 2 4 6 1 3 5 7
    scales[groups, out]

Source: AutoAWQ 0.2.9 (utils/packing_utils.py, modules/linear/gemm.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.checkpoint.quantized.encoded import Encoded, Found, Parts
from ingot.checkpoint.quantized.expect import contradiction, expect
from ingot.checkpoint.quantized.gptq import dequantized, group_size, packed_parts
from ingot.errors import BaseError
from ingot.formats.tensor_ref import TensorRef

if TYPE_CHECKING:
    import torch

#: Output c of eight stands in nibble _NIBBLE[c] of a word, the lowest first.
_NIBBLE = (0, 4, 1, 5, 2, 6, 3, 7)


@dataclass(frozen=True)
class Awq:
    """See the module."""

    group: int

    kept = ("qweight", "qzeros", "scales")
    title = "AWQ 4-bit"

    def decode(self, parts: Parts, begin: int, end: int) -> torch.Tensor:
        """See `Format.decode`."""
        import torch

        out, inputs = parts.shape
        first, last = begin // inputs, -(-end // inputs)
        scales = parts.kept("scales").view(-1, out)
        numbers = _unpacked(parts.kept("qweight").view(inputs, -1), first, last)
        zeros = _unpacked(parts.kept("qzeros").view(len(scales), -1), first, last)
        groups = torch.arange(inputs, dtype=torch.int32) // self.group
        values = dequantized(numbers, zeros, scales[:, first:last], groups)
        return values.view(-1)[begin - first * inputs : end - first * inputs]


def _unpacked(words: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """Columns [first, last) of the numbers in words[n, out / 8], as uint8[n, last - first]."""
    import torch

    start = first // 8
    shifts = torch.tensor(_NIBBLE, dtype=torch.int32) * 4
    numbers = (words[:, start : -(-last // 8)].unsqueeze(2) >> shifts) & 15
    return numbers.to(torch.uint8).view(len(words), -1)[:, first - start * 8 : last - start * 8]


def find_awq(tensors: Mapping[str, TensorRef], dtype: str, settings: Mapping[str, object]) -> Found:
    """The encoded weights of an AWQ checkpoint.

    Raises:
        BaseError: a layout other than GEMM, or parts that do not go together.
    """
    layout = str(settings.get("version") or settings.get("checkpoint_format") or settings.get("format") or "gemm")
    if layout.lower() != "gemm":
        raise BaseError("this layout of AWQ is not decoded", where="quantization_config: version", expected="gemm",
                        found=layout, hint="Convert it to GEMM with the library that wrote it.")  # fmt: skip
    modules = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    return Found([_awq(module, tensors, dtype, settings) for module in modules])


def _awq(module: str, tensors: Mapping[str, TensorRef], dtype: str, settings: Mapping[str, object]) -> Encoded:
    parts = packed_parts(module, tensors)
    qweight, qzeros, scales = (parts[role] for role in ("qweight", "qzeros", "scales"))
    groups, out = scales.shape
    inputs = qweight.shape[0]
    bits = settings.get("bits", settings.get("w_bit", 4))
    if bits != 4:
        raise contradiction("the number of bits of AWQ's GEMM layout", qweight, 4, bits)
    expect(qweight, ("I32",), (inputs, out // 8))
    expect(qzeros, ("I32",), (groups, out // 8))
    said = {"group_size": settings.get("group_size", settings.get("q_group_size", 128))}
    form = Awq(group_size(said, inputs, groups, scales))
    return Encoded(f"{module}.weight", dtype, (out, inputs), form, tuple(parts.items()))
