"""kohya's sd-scripts and LyCORIS: one file, module names with underscores for dots behind the name of a component.

    name = prefix module "." role
    prefix = lora_unet_ | lora_te_ | lora_te1_ | lora_te2_ | lora_te3_ | lycoris_
    role: see `kinds`

A transformer in the UNet's place is called `lora_unet_` too. Source: kohya-ss/sd-scripts, networks/lora.py and
lora_flux.py; lycoris-lora 4.1.3, kohya.py and wrapper.py.
"""

from __future__ import annotations

import re

from ingot.adapters.dialects.dialect import Content, Dialect, DialectConfig, Reading, refuse_unknown
from ingot.adapters.dialects.flat_names import FlatNames
from ingot.adapters.dialects.grouped import Name, alphas, group, reading
from ingot.adapters.dialects.kinds import ROLES
from ingot.adapters.dialects.layer import PEFT_ROLES, Layer
from ingot.errors import AdapterError

_COMPONENTS = {
    "lora_unet": "unet", "lora_te": "text_encoder", "lora_te1": "text_encoder", "lora_te2": "text_encoder_2",
    "lora_te3": "text_encoder_3", "lycoris": "model",
}  # fmt: skip
_NAME = re.compile(rf"(?P<prefix>{'|'.join(_COMPONENTS)})_(?P<module>[^.]+)\.(?P<role>.+)")
_ROLES = ROLES - PEFT_ROLES
#: LyCORIS' methods that are not merged here.
_OTHERS = {
    "oft_blocks": "LyCORIS' OFT and BOFT", "oft_diag": "LyCORIS' diag-OFT", "a1.weight": "LyCORIS' GLoRA",
    "bias_indices": "a LyCORIS file with sparse differences",
}  # fmt: skip


def _recognizes(content: Content) -> bool:
    return any(_NAME.fullmatch(ref.name) for ref in content.tensors)


def _read(content: Content) -> Reading:
    read = [(ref, match) for ref in content.tensors if (match := _NAME.fullmatch(ref.name)) and match["role"] in _ROLES]
    known = {ref.name for ref, _ in read}
    _refuse([ref.name for ref in content.tensors if ref.name not in known])
    groups = group((ref, Name(_COMPONENTS[match["prefix"]], match["module"], match["role"])) for ref, match in read)
    layers = {name: one.layers(content) for name, one in groups.items()}
    every = [layer for of_one in layers.values() for layer in of_one]
    config = DialectConfig(
        method="KOHYA",
        name=f"kohya {_titles(every)}",
        base_model_name_or_path=content.metadata.get("ss_sd_model_name") or None,
        found_alphas=alphas(every),
        raw=dict(content.metadata),
    )
    return reading(groups, layers, config, lambda base: FlatNames(base).find)


def _refuse(left: list[str]) -> None:
    """Raise AdapterError for names that are left: methods that are not merged are called by their names."""
    for name in left:
        other = _OTHERS.get(name.partition(".")[2])
        if other is not None:
            hint = "Merge it with LyCORIS, or extract a LoRA from what that makes."
            raise AdapterError(f"{other} cannot be merged", where=f"`{name}`", hint=hint)
    refuse_unknown(left, "kohya or LyCORIS")


def _titles(layers: list[Layer]) -> str:
    """Example: "LoRA (LyCORIS LoHa + DoRA)"; "LoRA" where there is nothing else."""
    kinds = [title for title in dict.fromkeys(layer.kind.title for layer in layers) if title != "LoRA"]
    kinds += ["DoRA"] if any("dora_scale" in layer.roles for layer in layers) else []
    return f"LoRA ({' + '.join(kinds)})" if kinds else "LoRA"


DIALECT = Dialect("kohya", _recognizes, _read)
