"""GPTQ: integers packed along the inputs, with a scale and a zero point for each group of them.

    W[out, in] = (q[in, out] - z[g(in), out]) * s[g(in), out]      rounded once, to the dtype of s
    qweight[in * bits / 32, out]      one stream of bits along the inputs
    qzeros[groups, out * bits / 32]   likewise along the outputs; z - 1 in version 1, z in version 2
    scales[groups, out]
    g_idx[in]                         the group of each input; in / group_size where it is not stored

Source: AutoGPTQ 0.7.1 (nn_modules/qlinear/qlinear_cuda.py); GPTQModel (utils/model.py: version 1 becomes 2 by adding 1
to all zero points of a word at once, with carries; with 3 bits it takes the first word's ones for the third's).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.checkpoint.quantized.encoded import Encoded, Found, Parts
from ingot.checkpoint.quantized.expect import contradiction, expect, missing
from ingot.checkpoint.quantized.packing import integers
from ingot.errors import BaseError
from ingot.formats.tensor_ref import TensorRef

if TYPE_CHECKING:
    import torch

_SCALES = ("F16", "BF16", "F32")
BITS = (2, 3, 4, 8)
#: One in every number of a word; with 3 bits some numbers stand in two words.
ONES = {2: 0x5555_5555, 4: 0x1111_1111, 8: 0x0101_0101}
_STRADDLING = 3


@dataclass(frozen=True)
class Gptq:
    """See the module. `group` is 0 where g_idx says which group an input belongs to."""

    bits: int
    group: int
    version: int

    kept = ("qweight", "qzeros", "scales", "g_idx")

    @property
    def title(self) -> str:
        return f"GPTQ {self.bits}-bit" + ("" if self.version == 1 else " v2") + ("" if self.group else ", g_idx")

    def decode(self, parts: Parts, begin: int, end: int) -> torch.Tensor:
        """See `Format.decode`."""
        import torch

        out, inputs = parts.shape
        first, last = begin // inputs, -(-end // inputs)
        words = parts.kept("qweight").view(-1, out)[:, first:last].contiguous()
        scales = parts.kept("scales").view(-1, out)
        groups = parts.kept("g_idx") if not self.group else torch.arange(inputs, dtype=torch.int32) // self.group
        zeros = self._zeros(parts.kept("qzeros").view(len(scales), -1), first, last)
        values = dequantized(integers(words, self.bits), zeros, scales[:, first:last], groups)
        return values.view(-1)[begin - first * inputs : end - first * inputs]

    def _zeros(self, packed: torch.Tensor, first: int, last: int) -> torch.Tensor:
        """z[groups, last - first] of outputs [first, last), from whole words."""
        start = first // 32
        words = packed[:, start * self.bits : -(-last // 32) * self.bits]
        if self.version == 1 and self.bits != _STRADDLING:
            words = words + ONES[self.bits]
        zeros = integers(words.T.contiguous(), self.bits)[first - start * 32 : last - start * 32].T
        return (zeros + 1) & 7 if self.version == 1 and self.bits == _STRADDLING else zeros


def dequantized(q: torch.Tensor, z: torch.Tensor, s: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """((q[in, n] - z[g, n]) * s[g, n]) transposed: W[n, in] in the dtype of s, where g = groups[in].

    Raises:
        BaseError: an input belongs to a group that has no scale.
    """
    if int(groups.min()) < 0 or int(groups.max()) >= len(s):
        raise BaseError("g_idx of a quantized weight names a group that has no scale", expected=f"0 to {len(s) - 1}",
                        found=f"{int(groups.min())} to {int(groups.max())}")  # fmt: skip
    values = q.float().sub_(z.float().index_select(0, groups))
    values.mul_(s.float().index_select(0, groups))
    return values.to(s.dtype).T.contiguous()


def find_gptq(tensors: Mapping[str, TensorRef], dtype: str, settings: Mapping[str, object]) -> Found:
    """The encoded weights of a GPTQ checkpoint.

    Raises:
        BaseError: a part is missing or of another shape, or the config says something else.
    """
    layout = str(settings.get("checkpoint_format") or settings.get("format") or "gptq")
    by_gptqmodel = "gptqmodel" in str(settings.get("meta", "")).lower()
    if layout == "gptq" and settings.get("bits") == _STRADDLING and by_gptqmodel:
        raise BaseError(
            "GPTQModel stores the zero points of 3-bit weights of version 1 in another way than the format says",
            where="quantization_config: checkpoint_format", expected="gptq_v2", found="gptq",
            hint="Save it again with GPTQModel as gptq_v2.",
        )  # fmt: skip
    if layout not in ("gptq", "gptq_v2"):
        raise BaseError("this layout of GPTQ is not decoded", where="quantization_config: checkpoint_format",
                        expected="gptq or gptq_v2", found=layout,
                        hint="Convert it to the plain layout with the library that wrote it.")  # fmt: skip
    version = 2 if layout == "gptq_v2" else 1
    modules = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    return Found([_gptq(module, tensors, dtype, settings, version) for module in modules])


def _gptq(
    module: str, tensors: Mapping[str, TensorRef], dtype: str, settings: Mapping[str, object], version: int
) -> Encoded:
    parts = packed_parts(module, tensors)
    qweight, qzeros, scales = (parts[role] for role in ("qweight", "qzeros", "scales"))
    groups, out = scales.shape
    bits = qzeros.shape[1] * 32 // max(1, out)
    if bits not in BITS:
        raise BaseError("zero points of another number of bits than GPTQ defines", where=qzeros.name,
                        expected=f"[groups, out * bits / 32] with out = {out} and bits among {list(BITS)}",
                        found=list(qzeros.shape))  # fmt: skip
    inputs = qweight.shape[0] * 32 // bits
    expect(qweight, ("I32",), (inputs * bits // 32, out))
    expect(qzeros, ("I32",), (groups, out * bits // 32))
    varied = bool(settings.get("dynamic"))  # GPTQModel's settings for some modules
    if not varied and settings.get("bits", bits) != bits:
        raise contradiction("the number of bits", qweight, settings.get("bits"), bits)
    if "g_idx" in parts:
        expect(parts["g_idx"], ("I32", "I64"), (inputs,))
        form = Gptq(bits, 0, version)
    else:
        form = Gptq(bits, group_size(settings, inputs, groups, scales), version)
    return Encoded(f"{module}.weight", dtype, (out, inputs), form, tuple(parts.items()))


def packed_parts(module: str, tensors: Mapping[str, TensorRef]) -> dict[str, TensorRef]:
    """qweight, qzeros, scales and g_idx of a module. Raises BaseError where one is missing or of another kind."""
    qweight = tensors[f"{module}.qweight"]
    expect(qweight, ("I32",), None, ndim=2)
    parts = {"qweight": qweight}
    for role in ("qzeros", "scales"):
        parts[role] = tensors.get(f"{module}.{role}") or missing(f"{module}.{role}", qweight)
    expect(parts["scales"], _SCALES, None, ndim=2)
    expect(parts["qzeros"], ("I32",), None, ndim=2)
    if f"{module}.g_idx" in tensors:
        parts["g_idx"] = tensors[f"{module}.g_idx"]
    return parts


def group_size(settings: Mapping[str, object], inputs: int, groups: int, scales: TensorRef) -> int:
    """Inputs of a group, where the config and the number of scales agree. Raises BaseError where they do not."""
    said = settings.get("group_size", -1)
    size = said if isinstance(said, int) and said > 0 else inputs
    if -(-inputs // size) != groups:
        raise contradiction("the size of a group", scales, f"{-(-inputs // size)} groups of {size} inputs", groups)
    return size
