"""FRoD: a weight written anew over a basis that all layers of one role share (doi 10.1609/aaai.v40i31.39813).

    Linear  U[out, in] @ (S + diag(l)) @ V^T      Conv1D  the transpose

V[in, in] is stored once for each role of a module ("self_attn_q_proj"), with the places of S[in, in], whose values at
these places each layer stores (frod_lambda_s_values), and so it does l[in] (frod_lambda_l). U comes from the base:
the columns of W V^-T made to length 1, solved in float64 and rounded to the base's dtype. Source: PEFT's tuners/frod.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor, Indices
from ingot.adapters.fields import Fields
from ingot.adapters.forms import Rewritten, Whole
from ingot.adapters.methods import owner
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.module import Module, ModuleKind
from ingot.adapters.terms import Apply, Load, Needs
from ingot.errors import AdapterError, MismatchError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Rewoven:
    """U @ (S + diag(l)) @ V^T of W[out, in]. `dtype` is the base weight's, as in a safetensors header."""

    basis: Factor  # V[in, in]
    places: Indices  # [2, n]
    values: Factor  # [n]
    diagonal: Factor  # l[in]
    size: Indices  # [2]: in, in
    outputs: int
    dtype: str
    formula = "U@(S + diag(l))@Vᵀ"
    needs = Needs.WHOLE

    @property
    def shape(self) -> tuple[int, int]:
        return (self.outputs, self.basis.shape[0])

    def factors(self) -> tuple[Factor, ...]:
        return (self.basis, self.places, self.values, self.diagonal, self.size)

    @property
    def kept_nbytes(self) -> int:
        rows, columns = self.shape
        return 4 * columns * (rows + columns)

    @property
    def drawn_nbytes(self) -> int:
        rows, columns = self.shape
        return owner.PEFT_NBYTES + 8 * columns * (2 * columns + 4 * rows)

    def make(self, load: Load, whole: Whole, /) -> Apply:
        import torch

        from ingot.kernels.dtypes import TORCH_DTYPE

        basis, places = load(self.basis), load(self.places)
        self._check(places, load(self.size))
        with owner.ALONE:
            # PEFT's method is one of a class, and uses nothing of it.
            left, _ = owner.call("frod.layer", "FrodLayer._calculate_frod_u_and_lambda", None, basis, whole())
        left = left.to(TORCH_DTYPE[self.dtype]).to(basis.device)
        middle = torch.diag(load(self.diagonal))
        middle.index_put_((places[0], places[1]), load(self.values), accumulate=True)
        right = middle @ basis.T
        return lambda tile, row: tile.copy_(left[row : row + len(tile)].to(right.dtype) @ right)

    def _check(self, places: torch.Tensor, size: torch.Tensor) -> None:
        width = self.basis.shape[0]
        if size.tolist() != [width, width] or bool(((places < 0) | (places >= width)).any()):
            raise AdapterError(
                "places of the sparse matrix lie outside of it", where=f"`{self.places.ref.name}`",
                expected=f"0 to {width - 1}, and {[width, width]} in `{self.size.ref.name}`", found=size.tolist(),
            )  # fmt: skip

    def flops(self) -> int:
        rows, columns = self.shape
        return 2 * rows * columns**2 * 2 + 2 * columns**3


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    owner.require("FRoD")
    inputs = layer.axis("frod_lambda_l", module, 0, of=1)
    _, rows, columns = module.view("weight")
    outputs = rows * columns // inputs if inputs else 0
    transposed = layer.is_transposed(module, outputs, inputs)
    if (outputs, inputs) != ((columns, rows) if transposed else (rows, columns)):
        raise layer.mismatch("frod_lambda_l", module, "as many values as the layer has inputs")
    role = role_of(layer.path)
    basis = _shared(layer, f"frod_V.{role}", inputs, inputs)
    count = layer.axis("frod_lambda_s_values", module, 0, of=1)
    places = _shared(layer, f"frod_s_indices.{role}", 2, count)
    size = _shared(layer, f"frod_s_size.{role}", 2)
    change = Rewritten(
        Rewoven(
            basis,
            Indices(places.adapter, places.ref),
            layer.need("frod_lambda_s_values"),
            layer.need("frod_lambda_l"),
            Indices(size.adapter, size.ref),
            outputs,
            module.dtypes.get("weight", "F32"),
        )
    )
    return (Edit("weight", 0, change.transposed() if transposed else change),)


def _shared(layer: Layer, name: str, *shape: int) -> Factor:
    factor = layer.need_shared(name)
    if factor.shape != shape:
        raise MismatchError(
            "what layers of one role share does not fit this layer", where=f"`{factor.ref.name}`",
            expected=f"{list(shape)}, for `{layer.path}`", found=list(factor.shape),
        )  # fmt: skip
    return factor


def role_of(path: str) -> str:
    """What a module is to its block: layers of one role share a basis. Source: `_category_from_key` of PEFT.

    Example: role_of("model.layers.0.self_attn.q_proj") -> "self_attn_q_proj"
    """
    parts = path.split(".")
    if len(parts) == 1 or parts[-2].isdigit():
        return parts[-1]
    if parts[-3:] == ["attention", "output", "dense"]:
        return "attention_output"
    return f"{parts[-2]}_{parts[-1]}"


def check(fields: Fields) -> None:
    fields.boolean("fan_in_fan_out")
    if not fields.boolean("save_projection", True):
        raise AdapterError(
            "the basis was not saved with this adapter, and to find it again takes all layers of a role at once",
            where=f"`save_projection` in {fields.where}", found="false",
            hint="Load it with PEFT, set `save_projection` in its config to true, and save it again.",
        )  # fmt: skip


METHOD = Method(
    peft_type="FROD",
    title="FRoD",
    roles=("frod_lambda_l", "frod_lambda_s_values"),
    shared=("frod_V.+", "frod_s_indices.+", "frod_s_size.+"),
    edits=edits,
    kinds=frozenset({ModuleKind.LINEAR, ModuleKind.CONV1D}),
    check=check,
)
