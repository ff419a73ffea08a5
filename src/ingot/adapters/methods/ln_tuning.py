"""LN tuning: norms trained whole (Zhao et al. 2023, arXiv:2312.11420).

    every parameter of a module is replaced by `ln_tuning_layers.<parameter>`

PEFT takes a copy of whatever module `target_modules` names, a norm or not. Source: `LNTuningLayer` of PEFT's
tuners/ln_tuning.
"""

from __future__ import annotations

from ingot.adapters.edit import Edit
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.module import Module, ModuleKind
from ingot.adapters.saved import SavedUpdate

_PREFIX = "ln_tuning_layers."


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    for name in module.parameters:
        layer.need(_PREFIX + name)
    parameters = tuple((role.removeprefix(_PREFIX), factor) for role, factor in layer.tensors.items())
    return SavedUpdate(layer.path, parameters).edits(module)


METHOD = Method(
    peft_type="LN_TUNING",
    title="LN tuning",
    roles=(f"{_PREFIX}weight", f"{_PREFIX}**"),
    edits=edits,
    kinds=frozenset(ModuleKind) - {ModuleKind.MULTIHEAD, ModuleKind.EXPERTS},
)
