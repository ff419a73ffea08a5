"""mlx-lm: `adapters.safetensors`, with the settings of the training run as its adapter_config.json.

    Linear       W[out, in] + scale · (lora_a[in, r] @ lora_b[r, out]).T
    Embedding    W[num, dim] + scale · lora_a[num, r] @ lora_b[r, dim]
    experts      W[e][out, in] + scale · lora_b[e][out, r] @ lora_a[e][r, in]       a stack for each `switch_mlp`
    DoRA         with a row's length m, of embeddings too: one for each token, where PEFT's has one for each dimension
    full         whole parameters

`scale` is the scaling itself, and no alpha. A layer on an embedding that the head is tied to acts in the head too.
Source: mlx-lm 0.32.2, tuner/{lora,dora,utils}.py, models/*.py `sanitize`; history of mlx-examples, llms/mlx_lm.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ingot.adapters.dialects.dialect import BaseFacts, Content, Dialect, DialectConfig, Reading, refuse_unknown
from ingot.adapters.dora import Dora
from ingot.adapters.edit import Edit, Update
from ingot.adapters.factor import Factor
from ingot.adapters.fields import Fields
from ingot.adapters.lora import LoraUpdate, wrong_shape
from ingot.adapters.module import Module, ModuleKind
from ingot.adapters.saved import SavedUpdate, is_embedding
from ingot.adapters.source import CONFIG_NAME
from ingot.adapters.terms import LowRank
from ingot.errors import AdapterError, MismatchError
from ingot.formats.tensor_ref import TensorRef

_NAME = re.compile(r"(?P<path>.+)\.(?P<role>lora_a|lora_b|m)")
_SWITCH = re.compile(r"(?P<block>.+)\.switch_mlp\.(?P<name>gate_proj|up_proj|down_proj)")
_LAYER = re.compile(r"(?P<stem>(?:.*\.)?layers\.)(?P<number>\d+)\.(?P<key>.+)")
#: How Mixtral and PhiMoE call an expert's three matrices on disk.
_OF_MIXTRAL = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
#: Models whose weights mlx-lm changes when it loads them, under the same names: model type -> ends of module paths.
_CHANGED: Mapping[str, tuple[str, ...]] = {
    "falcon_h1": ("",), "baichuan_m1": ("lm_head",), "bailing_moe": ("lm_head",), "bailing_moe_linear": ("lm_head",),
    "qwen3_next": ("norm",), "qwen3_5": ("norm",), "qwen3_5_moe": ("norm",), "step3p5": ("norm",),
}  # fmt: skip


@dataclass(frozen=True)
class MlxUpdate:
    """A layer on a Linear or on an embedding: which, the module's class decides.

    Attributes:
        a, b: [in, r] and [r, out]; of an embedding [num, r] and [r, dim].
        magnitude: m of DoRA: [out], or [num].
    """

    path: str
    a: Factor
    b: Factor
    scale: float
    magnitude: Factor | None = None
    #: A tied head uses the embedding with its layer, in training and in a merge by mlx-lm.
    acts_on_ties = True

    @property
    def tensors(self) -> tuple[TensorRef, ...]:
        return tuple(factor.ref for factor in (self.a, self.b, self.magnitude) if factor is not None)

    @property
    def rank(self) -> int:
        return self.a.shape[1]

    def edits(self, module: Module) -> tuple[Edit, ...]:
        """See `Update.edits`."""
        if not self._on_embedding(module):
            # mlx-lm wraps no layer that stores its weight transposed, so no shape may be taken for one.
            linear = replace(module, kind=ModuleKind.LINEAR) if module.kind is ModuleKind.UNKNOWN else module
            return LoraUpdate(self.path, self.a.T, self.b.T, self.scale, magnitude=self.magnitude).edits(linear)
        update = LowRank(self.a, self.b, self.scale)
        if update.shape != module.parameters["weight"]:
            raise wrong_shape(self.a.ref, self.b.ref, module, "weight", update.shape)
        return (Edit("weight", 0, update if self.magnitude is None else Dora(update, self.magnitude)),)

    def _on_embedding(self, module: Module) -> bool:
        if module.kind is not ModuleKind.UNKNOWN:
            return module.kind is ModuleKind.EMBEDDING
        as_linear, as_embedding = (self.b.shape[1], self.a.shape[0]), (self.a.shape[0], self.b.shape[1])
        if as_linear == as_embedding:
            return is_embedding(self.path) and not self.path.endswith("lm_head")
        return module.parameters.get("weight") == as_embedding


def _recognizes(content: Content) -> bool:
    names = (ref.name for ref in content.tensors)
    return is_mlx_config(content.raw or {}) or any(name.endswith((".lora_a", ".lora_b")) for name in names)


def is_mlx_config(raw: Mapping[str, Any]) -> bool:
    """Whether these are the settings of a training run of mlx-lm."""
    run = "lora_parameters" in raw or "fine_tune_type" in raw or {"lora_layers", "adapter_path"} <= raw.keys()
    return run and "peft_type" not in raw


def _read(content: Content) -> Reading:
    if content.raw is None or not is_mlx_config(content.raw):
        raise AdapterError(
            f"no {CONFIG_NAME} of mlx-lm beside the weights, and their scale stands there",
            where=content.file,
            hint="Give the folder that the training run wrote: it holds both.",
        )
    fields = Fields(content.raw, CONFIG_NAME)
    kind = fields.text("fine_tune_type") or ("dora" if fields.boolean("use_dora") else "lora")
    if kind == "full":
        return _whole(content, fields)
    if kind not in ("lora", "dora"):
        fields.refuse("fine_tune_type", "lora, dora or full")
    parameters = Fields(fields.mapping("lora_parameters"), f"`lora_parameters` in {CONFIG_NAME}")
    scale = _scale(parameters, content.raw)
    updates = tuple(_updates(content, scale, parameters, dora=kind == "dora"))
    config = _config(fields, "MLX DoRA" if kind == "dora" else "MLX LoRA")

    def fit(base: BaseFacts, _component: str | None) -> Reading:
        _refuse_changed(updates, base)
        expected = _expected(parameters.texts("keys"), fields.raw, updates, base)
        return Reading(replace(config, expected=expected), updates)

    return Reading(config, updates, fit=fit)


def _config(fields: Fields, name: str, whole: frozenset[str] = frozenset()) -> DialectConfig:
    return DialectConfig(
        method="MLX",
        name=name,
        base_model_name_or_path=fields.text("model"),
        raw=fields.raw,
        whole=whole,
        pair="lora_a",
    )


def _scale(parameters: Fields, raw: Mapping[str, Any]) -> float:
    """The scaling of every layer.

    subtle: until June 2024 (mlx-examples #614) a layer was scaled by scale · alpha / rank. The settings of later runs
    have an alpha too, of no effect; what dates a run is that `lora_layers` became `num_layers` in September 2024.
    """
    if "scale" not in parameters.raw:
        hint = "Write the `scale` that the run used: mlx-lm multiplies by it, and divides by no rank."
        raise AdapterError("`scale` is missing", where=parameters.where, hint=hint)
    scale = float(parameters.number("scale", 1))
    dated = "num_layers" in raw or "fine_tune_type" in raw
    if "alpha" in parameters.raw and not dated:
        old = scale * float(parameters.number("alpha", 1)) / parameters.integer("rank", 8)
        if old != scale:
            raise AdapterError(
                "mlx-lm changed what scales a layer in June 2024, and nothing dates this run",
                where=parameters.where,
                expected=f"scale · alpha / rank = {old:g} before, scale = {scale:g} after",
                hint="Write the one that trained it as `scale`, and remove `alpha`.",
            )
    return scale


def _updates(content: Content, scale: float, parameters: Fields, *, dora: bool) -> Iterator[Update]:
    layers: dict[str, dict[str, Factor]] = {}
    left = []
    for ref in content.tensors:
        match = _NAME.fullmatch(ref.name)
        if match is None:
            left.append(ref.name)
        else:
            layers.setdefault(match["path"], {})[match["role"]] = content.factor(ref)
    refuse_unknown(left, f"mlx-lm in a run of `fine_tune_type` {'dora' if dora else 'lora'}")
    if not layers:
        raise AdapterError("adapter has no tensors", where=content.file)
    roles = ("lora_a", "lora_b", "m") if dora else ("lora_a", "lora_b")
    for path, tensors in layers.items():
        first = next(iter(tensors.values())).ref.name
        missing = next((role for role in roles if role not in tensors), None)
        if missing is not None:
            raise AdapterError("a tensor lacks its counterpart", where=f"`{first}`", expected=f"`{path}.{missing}`")
        if tensors.keys() - {*roles}:
            what = "a magnitude in a run that is not called dora"
            raise AdapterError(what, where=f"`{tensors['m'].ref.name}`", found=f"fine_tune_type in {CONFIG_NAME}")
        a, b = tensors["lora_a"], tensors["lora_b"]
        if len(b.shape) == 3:
            yield from _experts(path, a, b, scale)
            continue
        _check_pair(a, b, parameters.integer("rank", 8) if "rank" in parameters.raw else None)
        yield MlxUpdate(path, a, b, scale, tensors.get("m"))


def _check_pair(a: Factor, b: Factor, rank: int | None) -> None:
    where = f"`{a.ref.name}` and `{b.ref.name}`"
    found = f"{list(a.shape)} and {list(b.shape)}"
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[1] != b.shape[0]:
        expected = "lora_a[in, r] and lora_b[r, out]"
        raise AdapterError("the two factors of a layer do not multiply", where=where, expected=expected, found=found)
    if rank is not None and a.shape[1] != rank:
        raise MismatchError("the rank of a tensor is not that of the config", where=where,
                            expected=f"rank {rank}, by {CONFIG_NAME}", found=found,
                            hint="Use the adapter_config.json that was saved together with these weights.")  # fmt: skip


def _experts(path: str, a: Factor, b: Factor, scale: float) -> Iterator[Update]:
    """One update for each expert of a stack, in the names that the experts have on disk.

    a is [E, r, in], or [E · r, in] up to 2025; b is [E, out, r]. All updates of a stack share its two tensors.
    """
    match = _SWITCH.fullmatch(path)
    if match is None:
        raise AdapterError("a stack of experts has an unknown name", where=f"`{b.ref.name}`",
                           expected="<block>.switch_mlp.gate_proj, up_proj or down_proj")  # fmt: skip
    experts, _, rank = b.shape
    if len(a.shape) not in (2, 3) or a.shape[:-1] not in ((experts, rank), (experts * rank,)):
        raise AdapterError("the two factors of a stack do not multiply", where=f"`{a.ref.name}` and `{b.ref.name}`",
                           found=f"{list(a.shape)} and {list(b.shape)}")  # fmt: skip
    stack = a.then("reshape", experts, rank, a.shape[-1])
    of_mixtral = match["block"].endswith("block_sparse_moe")
    name = _OF_MIXTRAL[match["name"]] if of_mixtral else match["name"]
    for expert in range(experts):
        own = f"{match['block']}.experts.{expert}.{name}"
        yield LoraUpdate(own, stack.then("select", 0, expert), b.then("select", 0, expert), scale)


def _whole(content: Content, fields: Fields) -> Reading:
    """A full fine-tune: every parameter of the layers that were trained."""
    modules: dict[str, list[tuple[str, Factor]]] = {}
    quantized = next((ref.name for ref in content.tensors if ref.name.endswith((".scales", ".biases"))), None)
    if quantized is not None:
        raise AdapterError("the run trained a quantized MLX model whole", where=f"`{quantized}`",
                           hint="Merge it with mlx_lm.fuse, on the quantized model.")  # fmt: skip
    for ref in content.tensors:
        path, _, parameter = ref.name.rpartition(".")
        modules.setdefault(path, []).append((parameter, content.factor(ref)))
    if not modules:
        raise AdapterError("adapter has no tensors", where=content.file)
    updates = tuple(SavedUpdate(path, tuple(parameters)) for path, parameters in modules.items())
    config = _config(fields, "MLX full fine-tune", frozenset(modules))

    def fit(base: BaseFacts, _component: str | None) -> Reading:
        _refuse_changed(updates, base)
        return Reading(config, updates)

    return Reading(config, updates, fit=fit)


def _refuse_changed(updates: Sequence[Update], base: BaseFacts) -> None:
    """Raise MismatchError where mlx-lm trained other values than the base stores under the name."""
    model_type = str(base.config.get("model_type"))
    ends = _CHANGED.get(model_type)
    if ends is None:
        return
    whole = isinstance(updates[0], SavedUpdate)
    for update in updates:
        norms = ends == ("norm",)
        if update.path.endswith(ends) and (whole or not norms):
            raise MismatchError(
                f"mlx-lm rescales this weight of {model_type} when it loads the base, so it trained another one",
                where=f"`{update.tensors[0].name}`",
                hint="Merge it with mlx_lm.fuse.",
            )


def _expected(
    keys: tuple[str, ...], raw: Mapping[str, Any], updates: Sequence[Update], base: BaseFacts
) -> frozenset[str]:
    """The modules that `keys` names in the last `num_layers` of the layers that were trained, and outside of layers."""
    count = raw.get("num_layers", raw.get("lora_layers"))
    if not keys or not isinstance(count, int):
        return frozenset()
    stems = {match["stem"] for update in updates if (match := _LAYER.fullmatch(update.path))}
    found = {path: match for path in base.paths if (match := _LAYER.fullmatch(path)) and match["stem"] in stems}
    depth = 1 + max((int(match["number"]) for match in found.values()), default=-1)
    first = depth - count if 0 < count <= depth else 0
    inside = {path for path, match in found.items() if match["key"] in keys and int(match["number"]) >= first}
    return frozenset({*inside, *(path for path in base.paths if path in keys)})


DIALECT = Dialect("MLX", _recognizes, _read)
