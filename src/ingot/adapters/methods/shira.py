"""SHiRA: single elements of the weight, trained as they are (Bhardwaj et al. 2024, arXiv:2406.13175).

    W[out, in],  W[i[0, n], i[1, n]] + v[n]        v = shira_weight, i = shira_indices, n < r * (out + in)

The scaling is 1: PEFT saves no other. Source: `get_delta_weight` of PEFT's tuners/shira/layer.py.
"""

from __future__ import annotations

from ingot.adapters.edit import Edit
from ingot.adapters.fields import Fields
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.methods.products import Elements
from ingot.adapters.methods.weights import Weight
from ingot.adapters.module import Module


def check(fields: Fields) -> None:
    fields.integer("r", 32)


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    weight = Weight.of(layer, module)
    count = layer.fields.integer("r", 32) * sum(weight.shape)
    values = layer.check_shape("shira_weight", module, count)
    indices = layer.check_shape("shira_indices", module, 2, count).as_indices()
    return weight.plus(Elements(weight.shape, values, indices))


METHOD = Method(peft_type="SHIRA", title="SHiRA", roles=("shira_weight", "shira_indices"), edits=edits, check=check)
