"""Super-Tuning: the largest elements of the weight, trained; in its hybrid "Supra" with LoRA beside (arXiv:2607.09287).

    W[out, in] + s * B[out, r] @ A[r, in],  W.flatten()[i[n]] + v[n]

v = supertuning_values, i = supertuning_indices, s = lora_alpha / r with `lora_alpha` 2 * r by default; without `r`
there is no LoRA. Source: `merge` of PEFT's tuners/supertuning/layer.py.
"""

from __future__ import annotations

from ingot.adapters.edit import Edit
from ingot.adapters.fields import Fields
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.methods.products import Elements
from ingot.adapters.methods.weights import Weight
from ingot.adapters.module import Module
from ingot.adapters.terms import LowRank
from ingot.errors import AdapterError


def check(fields: Fields) -> None:
    _low_rank(fields)
    if not fields.boolean("save_precomputed_indices", True):
        raise AdapterError(
            "the trained elements were not saved, and the base does not tell them: of equal magnitudes the training's "
            "device and dtype chose",
            where="`save_precomputed_indices` in adapter_config.json",
            hint="Merge it with PEFT's `merge_and_unload`, on a device and in a dtype like those of the training.",
        )


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    weight = Weight.of(layer, module)
    indices = layer.need("supertuning_indices").as_indices()
    values = layer.check_shape("supertuning_values", module, *indices.shape)
    if len(indices.shape) != 1:
        raise layer.mismatch("supertuning_indices", module, "[n]")
    sparse = weight.plus(Elements(weight.shape, values, indices))
    low_rank = _low_rank(layer.fields)
    if low_rank is None:
        return sparse
    rank, scaling = low_rank
    A = layer.check_shape("supertuning_lora_A.weight", module, rank, weight.inputs)
    B = layer.check_shape("supertuning_lora_B.weight", module, weight.outputs, rank)
    return (*sparse, Edit("weight", 0, LowRank(B, A, scaling)))


def _low_rank(fields: Fields) -> tuple[int, float] | None:
    """r and s; None without LoRA."""
    if fields.raw.get("r") is None:
        if fields.raw.get("lora_alpha") is not None:
            fields.refuse("lora_alpha", "null where `r` is null")
        return None
    rank = fields.integer("r", 1)
    alpha = 2.0 * rank if fields.raw.get("lora_alpha") is None else fields.real("lora_alpha", 0)
    return rank, alpha / rank


METHOD = Method(
    peft_type="SUPERTUNING",
    title="Super-Tuning",
    roles=("supertuning_values", "supertuning_indices", "supertuning_lora_A.weight", "supertuning_lora_B.weight"),
    edits=edits,
    check=check,
)
