"""Module names of a file that writes underscores for dots, held against the names of the base.

kohya's sd-scripts name a UNet's modules as diffusers does (SD 1.x) or as the original checkpoint does (SDXL), each with
underscores for dots. Which dots they were, only the base knows: both spellings of each of its modules are made, and
compared. The original's names of a UNet2DConditionModel, with n resnets in a down block:

    conv_in, conv_out, conv_norm_out         input_blocks.0.0, out.2, out.0
    time_embedding.linear_1, linear_2        time_embed.0, time_embed.2
    add_embedding.linear_1, linear_2         label_emb.0.0, label_emb.0.2
    down_blocks.b.resnets.i, attentions.i    input_blocks.(1 + b·(n + 1) + i).0, .1
    down_blocks.b.downsamplers.0.conv        input_blocks.((b + 1)·(n + 1)).0.op
    mid_block.resnets.0, attentions.0, resnets.1    middle_block.0, .1, .2
    up_blocks.b.resnets.i, attentions.i      output_blocks.(b·(n + 1) + i).0, .1
    up_blocks.b.upsamplers.0.conv            output_blocks.(b·(n + 1) + n).1.conv, or .2.conv behind an attention

Source: diffusers 0.42.1, loaders/single_file_utils.py `convert_ldm_unet_checkpoint`, loaders/lora_conversion_utils.py
`_maybe_map_sgm_blocks_to_diffusers`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from ingot.adapters.dialects.dialect import BaseFacts
from ingot.errors import MismatchError

_UNET = "UNet2DConditionModel"
_TEXT = "text_model."
_CONVERT = "diffusers converts it: pipeline.load_lora_weights(FILE), then pipeline.save_lora_weights(DIRECTORY, ...)."
#: The original names of Flux and Stable Diffusion 3.
_OTHER_LAYOUT = re.compile(r"(double_blocks|single_blocks|joint_blocks)_")
_ORIGINAL = re.compile(r"(input_blocks|middle_block|output_blocks|time_embed|label_emb)(?=[._])|out_[02]$")
_BLOCK = re.compile(
    r"(?P<side>down|up)_blocks\.(?P<block>\d+)\.(?P<kind>resnets|attentions)\.(?P<number>\d+)(?P<rest>.*)"
)
_MIDDLE = re.compile(r"mid_block\.(?P<kind>resnets|attentions)\.(?P<number>\d+)(?P<rest>.*)")
_SAMPLER = re.compile(r"(?P<side>down|up)_blocks\.(?P<block>\d+)\.(?:down|up)samplers\.0\.conv")
_ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_RESNET = {
    ".norm1": ".in_layers.0",
    ".conv1": ".in_layers.2",
    ".time_emb_proj": ".emb_layers.1",
    ".norm2": ".out_layers.0",
    ".conv2": ".out_layers.3",
    ".conv_shortcut": ".skip_connection",
}


class FlatNames:
    """The base's modules by their names with underscores."""

    def __init__(self, base: BaseFacts) -> None:
        self._is_unet = base.config.get("_class_name") == _UNET
        self._paths: dict[str, set[str]] = {}
        for path in base.paths:
            self._paths.setdefault(_flat(path), set()).add(path)
        if base.config.get("model_type") == "clip_text_model" and not any(p.startswith(_TEXT) for p in base.paths):
            for path in base.paths:  # saved by transformers 5, which left this prefix out
                self._paths.setdefault(_flat(_TEXT + path), set()).add(path)
        if self._is_unet:
            for path, original in original_names(sorted(base.paths)):
                self._paths.setdefault(_flat(original), set()).add(path)

    def find(self, spelled: str, tensor: str) -> str:
        """The base's path of a module; `tensor` is named in messages.

        Raises:
            MismatchError: the base has no such module, or two that are spelled the same with underscores.
        """
        found = sorted(self._paths.get(spelled, ()))
        if len(found) > 1:
            raise MismatchError(
                "a name with underscores may mean several modules of the base",
                where=f"`{tensor}`",
                expected="one module",
                found=", ".join(found),
                hint="Rename the adapter's tensors to diffusers' form, with dots: `unet.<module>.lora_A.weight`.",
            )
        if not found:
            raise MismatchError(
                "the base has no module of this name",
                where=f"`{tensor}`",
                expected=f"a module that reads `{spelled}` with underscores for dots",
                hint=self._hint(spelled),
            )
        return found[0]

    def _hint(self, spelled: str) -> str:
        """The way out for a name that was not found."""
        if not self._is_unet and _ORIGINAL.match(spelled):
            return f"The name is one of the original UNet's, and this base is no {_UNET}. {_CONVERT}"
        if _OTHER_LAYOUT.match(spelled):
            return f"The name is one of the transformer's original layout, which fuses q, k and v. {_CONVERT}"
        near = difflib.get_close_matches(spelled, self._paths, n=2)
        if near:
            return f"Near: {', '.join(path for name in near for path in sorted(self._paths[name]))}. Is this the base?"
        return f"The adapter is for another model, or for another layout of it. {_CONVERT}"


def original_names(paths: list[str]) -> Iterator[tuple[str, str]]:
    """(path, name in the original checkpoint) of a UNet's modules, as far as the original has them."""
    depth = len({m["number"] for path in paths if (m := _BLOCK.fullmatch(path)) and _is_first(m)}) + 1
    attending = {m["block"] for path in paths if (m := _BLOCK.fullmatch(path)) and _is_up_attention(m)}
    for path in paths:
        name = _ENDS.get(path) or _of_block(path, depth) or _of_middle(path) or _of_sampler(path, depth, attending)
        if name is not None:
            yield path, name


def _is_first(match: re.Match[str]) -> bool:
    return (match["side"], match["block"], match["kind"]) == ("down", "0", "resnets")


def _is_up_attention(match: re.Match[str]) -> bool:
    return (match["side"], match["kind"]) == ("up", "attentions")


def _of_block(path: str, depth: int) -> str | None:
    match = _BLOCK.fullmatch(path)
    if match is None:
        return None
    first, side = (1, "input") if match["side"] == "down" else (0, "output")
    number = first + int(match["block"]) * depth + int(match["number"])
    return f"{side}_blocks.{number}.{_inner(match['kind'], match['rest'])}"


def _of_middle(path: str) -> str | None:
    match = _MIDDLE.fullmatch(path)
    if match is None:
        return None
    number = 1 if match["kind"] == "attentions" else 2 * int(match["number"])
    return f"middle_block.{number}{_inner(match['kind'], match['rest'])[1:]}"


def _inner(kind: str, rest: str) -> str:
    return f"1{rest}" if kind == "attentions" else f"0{_RESNET.get(rest, rest)}"


def _of_sampler(path: str, depth: int, attending: set[str]) -> str | None:
    match = _SAMPLER.fullmatch(path)
    if match is None:
        return None
    last = (int(match["block"]) + 1) * depth
    if match["side"] == "down":
        return f"input_blocks.{last}.0.op"
    return f"output_blocks.{last - 1}.{2 if match['block'] in attending else 1}.conv"


def _flat(path: str) -> str:
    return path.replace(".", "_")
