"""TinyLoRA: a few trained numbers between two frozen factors of the weight (arXiv:2602.04118).

    Linear     W[out, in]              + B[out, r] @ R[r, r] @ A[r, in],  R = Σ_i v[i] * P[i, r, r]
    Embedding  W[num_embeddings, dim]  the same, with B[num_embeddings, r] and A[r, dim]

A and B, from the weight's singular value decomposition, are in the file; so are the random P, or with `save_projection`
false they are drawn from `projection_seed` and the layer's number. v = tinylora_v.<group>: `weight_tying` says how many
layers share one, by their order in the model. There is no scaling. Source: `get_delta_weight` and `_init_projection` of
PEFT's tuners/tinylora/layer.py, `_create_and_replace` of its model.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.fields import Fields
from ingot.adapters.methods.drawn import PEFT_NBYTES, Drawn, need_peft, once
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.methods.products import Product
from ingot.adapters.methods.weights import Weight, number_of, refuse_unsaved, shared
from ingot.adapters.module import Module, ModuleKind
from ingot.adapters.terms import Load
from ingot.errors import AdapterError

if TYPE_CHECKING:
    import torch


class Projection(Protocol):
    """P of a layer: data until `read`."""

    def factors(self) -> tuple[Factor, ...]: ...

    def read(self, load: Load, like: torch.Tensor, /) -> torch.Tensor:
        """P[u, r, r] in the dtype and on the device of `like`."""


@dataclass(frozen=True)
class Stored:
    """P in the file."""

    tensor: Factor

    def factors(self) -> tuple[Factor, ...]:
        return (self.tensor,)

    def read(self, load: Load, _like: torch.Tensor, /) -> torch.Tensor:
        return load(self.tensor)


@dataclass(frozen=True)
class Seeded:
    """P of a seed, rounded to the dtype of the weight under the layer, as PEFT holds it."""

    seed: int
    layer: int
    size: int  # u
    rank: int
    dtype: str | None

    def factors(self) -> tuple[Factor, ...]:
        return ()

    def read(self, load: Load, like: torch.Tensor, /) -> torch.Tensor:
        return once(load, self, self.draw)[0].to(like)

    def draw(self) -> Drawn:
        from peft.tuners.tinylora.layer import TinyLoraLayer

        from ingot.kernels.dtypes import TORCH_DTYPE

        layer: Any = SimpleNamespace(_layer_idx=self.layer, r={"default": self.rank}, tinylora_P={})
        layer._get_layer_seed = partial(TinyLoraLayer._get_layer_seed, layer)
        TinyLoraLayer._init_projection(layer, "default", self.size, self.seed)
        drawn: torch.Tensor = layer.tinylora_P["default"]
        return (drawn if self.dtype is None else drawn.to(TORCH_DTYPE[self.dtype]),)


@dataclass(frozen=True)
class Tiny(Product):
    """B @ R @ A."""

    a: Factor  # [r, in]
    b: Factor  # [out, r]
    v: Factor  # [u]
    projection: Projection
    formula = "W + B@(Σ vᵢ·Pᵢ)@A"

    @property
    def drawn_nbytes(self) -> int:
        return 0 if isinstance(self.projection, Stored) else PEFT_NBYTES

    def factors(self) -> tuple[Factor, ...]:
        return (self.a, self.b, self.v, *self.projection.factors())

    def matrices(self, load: Load, /) -> tuple[torch.Tensor, torch.Tensor]:
        A, B, v = load(self.a), load(self.b), load(self.v)
        R = (v @ self.projection.read(load, v).flatten(start_dim=1)).view(self.rank, self.rank)
        return B @ R, A


def check(fields: Fields) -> None:
    fields.integer("r", 2)
    fields.integer("u", 64)
    fields.boolean("fan_in_fan_out")
    if not 0 <= fields.real("weight_tying", 0.0) <= 1:
        fields.refuse("weight_tying", "a number from 0 to 1")
    if not fields.boolean("save_projection", True):
        fields.seed("projection_seed", 42)


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    weight, fields = Weight.of(layer, module), layer.fields
    rank, size = min(fields.integer("r", 2), *weight.shape), fields.integer("u", 64)
    A = layer.check_shape("tinylora_A", module, rank, weight.inputs)
    B = layer.check_shape("tinylora_B", module, weight.outputs, rank)
    number = number_of(layer)
    projection: Projection
    if fields.boolean("save_projection", True):
        projection = Stored(layer.check_shape("tinylora_P", module, size, rank, rank))
    else:
        refuse_unsaved("save_projection", filter(None, [layer.get("tinylora_P")]))
        need_peft()
        projection = Seeded(fields.seed("projection_seed", 42), number, size, rank, module.dtypes.get("weight"))
    v = shared(layer, f"tinylora_v.{_group(layer, number)}", size)
    return weight.plus(Tiny(weight.shape, rank, A, B, v, projection))


def _group(layer: Layer, number: int) -> int:
    """Which v the layer takes. Raises AdapterError where the file has not as many as the layers ask for."""
    layers = len(layer.modules)
    groups = max(1, round(layers * (1.0 - layer.fields.real("weight_tying", 0.0))))
    each = max(1, layers // groups)
    used = min((layers - 1) // each, groups - 1) + 1
    if len(layer.shared) != used:
        raise AdapterError(
            "the file does not hold one trained vector for each group of layers", where="tinylora_v",
            expected=f"{used}, for {layers} layers by `weight_tying`", found=len(layer.shared),
            hint="The adapter was trained on another base model, or with another configuration.",
        )  # fmt: skip
    return min(number // each, groups - 1)


METHOD = Method(
    peft_type="TINYLORA",
    title="TinyLoRA",
    roles=("tinylora_A", "tinylora_B", "tinylora_P"),
    edits=edits,
    shared=("tinylora_v.*",),
    kinds=frozenset({ModuleKind.LINEAR, ModuleKind.CONV1D, ModuleKind.EMBEDDING}),
    check=check,
)
