"""diffusers' `pytorch_lora_weights.safetensors`: module names with dots, behind the name of a component.

    name = [component "."] module "." role
    role = lora_A.weight | lora_B.weight | lora_B.bias | lora_magnitude_vector | alpha      PEFT's
         | lora.down.weight | lora.up.weight | lora_linear_layer.down.weight | ...          before that
         | processor.to_q_lora.down.weight | ...                                            attention processors, 2023
         | a role of LyCORIS, such as lokr_w1

What scales a layer, in this order: the LoraConfig in the file's metadata (`lora_adapter_metadata`), its alpha, 1.
Source: diffusers 0.42.1, utils/state_dict_utils.py, utils/peft_utils.py, loaders/lora_base.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ingot.adapters.dialects.dialect import Content, Dialect, DialectConfig, Reading, refuse_unknown
from ingot.adapters.dialects.grouped import Group, Name, alphas, group, reading
from ingot.adapters.dialects.kinds import ROLES
from ingot.adapters.dialects.layer import PEFT_ROLES, Layer
from ingot.adapters.fields import Fields
from ingot.adapters.lora_config import LoraConfig, parse_lora
from ingot.adapters.principal import Method
from ingot.errors import AdapterError, MismatchError
from ingot.formats.strict_json import loads

METADATA_KEY = "lora_adapter_metadata"
#: Names that diffusers and its trainers put before a module's; "" is a file of one model alone.
_COMPONENTS = (
    "unet", "transformer", "transformer_2", "text_encoder", "text_encoder_2", "text_encoder_3", "prior", "controlnet",
    "diffusion_model", "vae", "image_encoder",
)  # fmt: skip
_SIDES = {
    "down": "lora_down.weight", "up": "lora_up.weight", "mid": "lora_mid.weight",
    "A": "lora_down.weight", "B": "lora_up.weight",
}  # fmt: skip
_PATTERNS = (
    re.compile(r"(?P<path>.+)\.lora_(?P<side>[AB])(?:\.default(?:_\d+)?)?\.weight"),
    re.compile(r"(?P<path>.+)\.(?:lora|lora_linear_layer)\.(?P<side>down|up)\.weight"),
    re.compile(r"(?P<path>.+)\.lora_(?P<side>down|up|mid)\.weight"),
    re.compile(r"(?P<path>.+)\.processor\.(?P<old>\w+)_lora\.(?P<side>down|up)\.weight"),
    re.compile(r"(?P<path>.+\.self_attn)\.(?P<old>to_[qkv]|to_out)_lora\.(?P<side>down|up)\.weight"),
    re.compile(r"(?P<path>.+)\.(?P<role>lora_B\.bias|lora_magnitude_vector)(?:\.weight)?"),
    re.compile(rf"(?P<path>.+)\.(?P<role>{'|'.join(map(re.escape, sorted(ROLES - PEFT_ROLES - {'weight'})))})"),
)
_IN_TEXT_ENCODERS = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


def _recognizes(content: Content) -> bool:
    mine = content.raw is None and not any(ref.name.startswith("base_model.") for ref in content.tensors)
    return mine and any(_parse(ref.name) is not None for ref in content.tensors)


def _read(content: Content) -> Reading:
    names = [(ref, _parse(ref.name)) for ref in content.tensors]
    refuse_unknown((ref.name for ref, name in names if name is None), "diffusers")
    groups = group((ref, name) for ref, name in names if name is not None)
    metadata = _metadata(content.metadata)
    layers = {name: _layers(content, name, one, metadata) for name, one in groups.items()}
    every = [layer for of_one in layers.values() for layer in of_one]
    config = DialectConfig(
        method="DIFFUSERS", name=_title(every), found_alphas=alphas(every), raw=dict(content.metadata)
    )
    return reading(groups, layers, config, lambda _: _same)


def _same(path: str, _tensor: str) -> str:
    return path


def _parse(name: str) -> Name | None:
    match = next((match for pattern in _PATTERNS if (match := pattern.fullmatch(name))), None)
    if match is None:
        return None
    found = match.groupdict()
    component, _, path = found["path"].partition(".")
    if component not in _COMPONENTS or not path:
        component, path = "model", found["path"]
    path = path.replace(".processor", "")
    old = found.get("old")
    if old is not None:
        in_text = component.startswith("text_encoder")
        path += f".{_IN_TEXT_ENCODERS.get(old, old) if in_text else 'to_out.0' if old == 'to_out' else old}"
    role = _SIDES[found["side"]] if found.get("side") else found["role"]
    return Name(component, path, role)


def _metadata(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """The settings that diffusers writes into the file, by `component.key`."""
    text = metadata.get(METADATA_KEY)
    if text is None:
        return {}
    raw = loads(text.encode(), where=METADATA_KEY, error=AdapterError)
    if not isinstance(raw, dict):
        raise AdapterError("the file's metadata is no JSON object", where=METADATA_KEY, found=type(raw).__name__)
    return raw


def _config(metadata: Mapping[str, Any], component: str) -> LoraConfig | None:
    """PEFT's configuration for a component; None where the metadata has none. Raises AdapterError as `parse_lora`."""
    prefix = "" if component == "model" else f"{component}."
    own = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    if "r" not in own:
        return None
    return parse_lora(Fields({**own, "peft_type": "LORA"}, f"{METADATA_KEY} of {component}"))


def _scaled(layer: Layer, config: LoraConfig) -> Layer:
    """The layer as the metadata scales it. Raises MismatchError where they disagree."""
    where, rank = f"`{layer.tensors[0].name}`", layer.rank
    if rank is None or layer.kind.title != "LoRA":
        raise MismatchError("the file's metadata is LoRA's, this layer is not", where=where, found=layer.kind.title)
    if "alpha" in layer.numbers:
        hint = "Remove one of them: nothing tells which was trained."
        raise AdapterError("a layer is scaled twice, by its alpha and by the metadata", where=where, hint=hint)
    if config.rank(layer.path) != rank:
        expected = f"rank {config.rank(layer.path)}, by {METADATA_KEY}"
        raise MismatchError(
            "the rank of a tensor is not that of the metadata", where=where, expected=expected, found=rank
        )
    for key, role in (("use_dora", "lora_magnitude_vector"), ("lora_bias", "lora_B.bias")):
        if getattr(config, key) is not (role in layer.roles):
            found = f"{key} {str(getattr(config, key)).lower()} in {METADATA_KEY}"
            raise MismatchError(f"`{role}` and the metadata do not agree", where=where, found=found)
    return replace(layer, given=config.scaling(layer.path, rank))


def _layers(content: Content, component: str, found: Group, metadata: Mapping[str, Any]) -> tuple[Layer, ...]:
    config = _config(metadata, component)
    made = found.layers(content)
    if config is None:
        return made
    if config.block_diagonal is not None or config.kasa or Method.of(config.init_lora_weights) is not None:
        raise AdapterError(f"{config.title} in diffusers' form is not supported", where=METADATA_KEY,
                           hint="Save it with PEFT's own save_pretrained.")  # fmt: skip
    return tuple(_scaled(layer, config) for layer in made)


def _title(layers: list[Layer]) -> str:
    kinds = list(dict.fromkeys(layer.kind.title for layer in layers))
    dora = any({"dora_scale", "lora_magnitude_vector"} & layer.roles.keys() for layer in layers)
    return f"diffusers {' + '.join([*kinds, 'DoRA'] if dora else kinds)}"


DIALECT = Dialect("diffusers", _recognizes, _read)
