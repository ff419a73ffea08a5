"""torchtune's own adapter files: `adapter_model.pt` or `adapter_0.pt`, with adapter_config.json beside.

    layers.N.attn.q_proj, k_proj, v_proj, output_proj     model.layers.N.self_attn.q_proj, k_proj, v_proj, o_proj
    layers.N.mlp.w1, w2, w3                               model.layers.N.mlp.gate_proj, down_proj, up_proj
    output                                                lm_head

Each has `lora_a.weight` A[r, in], `lora_b.weight` B[out, r], and `magnitude` [out] for DoRA; the scaling is alpha / r.

For Llama and Mistral torchtune turns pairs of neighbours where transformers turns the two halves of a head, so the
rows of q and k stand in another order: transformers' row h, i, j (head, half, position in it) is torchtune's row
h, j, i. B's rows and the magnitudes follow. For Qwen both use halves.

torchtune also saves a copy in PEFT's format, which is read as such. That copy has the rows of q and k reordered for
Qwen2 too, and magnitudes never (0.6.1): for those give adapter_model.pt itself.
Source: torchtune 0.6.1, models/convert_weights.py, models/qwen2/_convert_weights.py, training/checkpointing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ingot.adapters.dialects.dialect import BaseFacts, Content, Dialect, DialectConfig, Reading, refuse_unknown
from ingot.adapters.edit import Update
from ingot.adapters.factor import Factor
from ingot.adapters.fields import Fields
from ingot.adapters.lora import LoraUpdate
from ingot.adapters.source import CONFIG_NAME
from ingot.errors import AdapterError, MismatchError

_NAME = re.compile(
    r"(?:layers\.(?P<layer>\d+)\.(?P<part>.+?)|output)\.(?P<role>lora_a\.weight|lora_b\.weight|magnitude)"
)
_PARTS = {
    "attn.q_proj": "self_attn.q_proj",
    "attn.k_proj": "self_attn.k_proj",
    "attn.v_proj": "self_attn.v_proj",
    "attn.output_proj": "self_attn.o_proj",
    "mlp.w1": "mlp.gate_proj",
    "mlp.w2": "mlp.down_proj",
    "mlp.w3": "mlp.up_proj",
}
#: Where rows are reordered, and the key of the number of heads in config.json.
_HEADS = {"self_attn.q_proj": "num_attention_heads", "self_attn.k_proj": "num_key_value_heads"}
_REORDERED = ("llama", "mistral")
_AS_THEY_ARE = ("qwen2", "qwen3")
_WAY_OUT = "Let torchtune write the merged model: `save_adapter_weights_only: False` in the recipe's config."


@dataclass(frozen=True)
class _Pair:
    """The tensors of one module, named as transformers names it."""

    path: str
    tensors: Mapping[str, Factor]


def _recognizes(content: Content) -> bool:
    return any(_NAME.fullmatch(ref.name) for ref in content.tensors)


def _read(content: Content) -> Reading:
    raw = content.raw
    if raw is None or not {"r", "lora_alpha"} <= raw.keys():
        raise AdapterError(
            f"no {CONFIG_NAME} with r and lora_alpha beside torchtune's weights: they hold no scaling",
            where=content.file,
            hint=f'Write the recipe\'s values beside them: {CONFIG_NAME} with {{"r": 8, "lora_alpha": 16}}, say.',
        )
    fields = Fields(raw, CONFIG_NAME)
    rank, alpha = fields.integer("r", 8), float(fields.number("lora_alpha", 8))
    updates = tuple(_update(pair, rank, alpha) for pair in _pairs(content))
    dora = any(update.magnitude is not None for update in updates)
    config = DialectConfig(
        method="TORCHTUNE",
        name=f"torchtune {'DoRA' if dora else 'LoRA'}",
        base_model_name_or_path=fields.text("base_model_name_or_path"),
        found_alphas=(alpha,),
        raw=raw,
    )

    def fit(base: BaseFacts, _component: str | None) -> Reading:
        return Reading(config, tuple(_in_order(update, base) for update in updates))

    return Reading(config, updates, fit=fit)


def _pairs(content: Content) -> list[_Pair]:
    modules: dict[str, dict[str, Factor]] = {}
    left = []
    for ref in content.tensors:
        match = _NAME.fullmatch(ref.name)
        part = match and ("lm_head" if match["layer"] is None else _PARTS.get(match["part"]))
        if match is None or part is None:
            left.append(ref.name)
            continue
        path = part if match["layer"] is None else f"model.layers.{match['layer']}.{part}"
        modules.setdefault(path, {})[match["role"]] = content.factor(ref)
    refuse_unknown(left, "torchtune for Llama, Mistral and Qwen", hint=_WAY_OUT)
    return [_Pair(path, tensors) for path, tensors in modules.items()]


def _update(pair: _Pair, rank: int, alpha: float) -> LoraUpdate:
    first = next(iter(pair.tensors.values())).ref.name
    for role in ("lora_a.weight", "lora_b.weight"):
        if role not in pair.tensors:
            expected = f"its {role} beside it"
            raise AdapterError("a tensor lacks its counterpart", where=f"`{first}`", expected=expected)
    a, b = pair.tensors["lora_a.weight"], pair.tensors["lora_b.weight"]
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
        raise AdapterError("A and B do not have the same rank", where=f"`{a.ref.name}` and `{b.ref.name}`",
                           expected="A[r, in] and B[out, r]", found=f"{list(a.shape)} and {list(b.shape)}")  # fmt: skip
    if a.shape[0] != rank:
        raise MismatchError("the rank of a tensor is not that of the config", where=f"`{a.ref.name}`",
                            expected=f"rank {rank}, by {CONFIG_NAME}", found=list(a.shape),
                            hint="Use the adapter_config.json that was saved together with these weights.")  # fmt: skip
    magnitude = pair.tensors.get("magnitude")
    if magnitude is not None and magnitude.shape != (b.shape[0],):
        raise AdapterError("the DoRA magnitude has the wrong shape", where=f"`{magnitude.ref.name}`",
                           expected=[b.shape[0]], found=list(magnitude.shape))  # fmt: skip
    return LoraUpdate(pair.path, a, b, alpha / rank, magnitude=magnitude)


def _in_order(update: LoraUpdate, base: BaseFacts) -> LoraUpdate:
    """The update with its output rows in transformers' order."""
    model_type = str(base.config.get("model_type"))
    if model_type not in (*_REORDERED, *_AS_THEY_ARE):
        raise MismatchError(
            "the order of torchtune's rows is known for Llama, Mistral and Qwen alone",
            where=f"`{update.b.ref.name}`",
            expected=" or ".join((*_REORDERED, *_AS_THEY_ARE)),
            found=f"model_type {model_type}",
            hint=_WAY_OUT,
        )
    heads = next((key for end, key in _HEADS.items() if update.path.endswith(end)), None)
    if model_type in _AS_THEY_ARE or heads is None:
        return update
    number = base.config.get(heads, base.config.get("num_attention_heads"))
    if not isinstance(number, int) or number < 1 or update.b.shape[0] % (2 * number):
        expected = f"{heads} = {number} heads of an even size"
        raise MismatchError("the rows of an attention's layer are no whole heads", where=f"`{update.b.ref.name}`",
                            expected=expected, found=list(update.b.shape))  # fmt: skip
    magnitude = None if update.magnitude is None else _halves(update.magnitude, number)
    return replace(update, b=_halves(update.b, number), magnitude=magnitude)


def _halves(rows: Factor, heads: int) -> Factor:
    """Rows h, j, i as rows h, i, j."""
    outputs, *rest = rows.shape
    pairs = rows.then("reshape", heads, outputs // heads // 2, 2, *rest)
    return pairs.then("transpose", 1, 2).then("reshape", outputs, *rest)


def is_copy(file: str, names: Sequence[str]) -> bool:
    """Whether a file in PEFT's format is the copy that torchtune saves beside its own."""
    return file.startswith("adapter_model.") and "adapter_model.pt" in names


def check_copy(updates: Sequence[Update], base: BaseFacts) -> None:
    """Raise MismatchError where the copy in PEFT's format is another adapter than the one that was trained."""
    model_type = base.config.get("model_type")
    for update in updates:
        turned = isinstance(update, LoraUpdate) and update.path.endswith(tuple(_HEADS))
        if turned and (model_type in _AS_THEY_ARE or (isinstance(update, LoraUpdate) and update.magnitude)):
            raise MismatchError(
                "torchtune's copy in PEFT's format has the rows of this layer in a wrong order",
                where=f"`{update.tensors[0].name}`",
                hint="Give torchtune's own file beside it as the adapter: adapter_model.pt.",
            )


DIALECT = Dialect("torchtune", _recognizes, _read)
