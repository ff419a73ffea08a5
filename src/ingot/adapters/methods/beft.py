"""BEFT: nothing but the bias of a Linear is trained (arXiv:2509.15974).

    b[out] + beft_bias[1, out]

Source: `Linear.merge` of PEFT's tuners/beft.
"""

from __future__ import annotations

from ingot.adapters.edit import Edit
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.module import Module
from ingot.adapters.terms import Add
from ingot.errors import MismatchError


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    if "bias" not in module.parameters:
        raise MismatchError(
            "BEFT trained a bias for a layer that has none",
            where=f"`{layer.need('beft_bias').ref.name}`",
            found=f"`{module.path}` without bias",
            hint="There is no tensor that could take it: serve this adapter unmerged. PEFT refuses this merge too.",
        )
    values = layer.check_shape("beft_bias", module, 1, module.view("bias")[2])
    return (Edit("bias", 0, Add(values, 1.0)),)


METHOD = Method(peft_type="BEFT", title="BEFT", roles=("beft_bias",), edits=edits)
