"""The kinds of layers in kohya, LyCORIS and diffusers files: their tensors by role, and what they do to a weight.

    LoRA, LoCon   W + s·up[out, r] @ down[r, in·k]                  s = alpha / r; lora_mid[r, r, k] may stand between
    LoHa          W + s·(w1_a @ w1_b) ∘ (w2_a @ w2_b)               s = alpha / r; hada_t1, hada_t2 may stand between
    LoKr          W + s·w1 ⊗ w2, each whole or a product            s = alpha / r, 1 where both are whole; lokr_t2
    (IA)³         W ∘ (1 + w)                                       along the outputs, or along the inputs (on_input)
    difference    W + diff                                          norms: W + w_norm
    bias          b + diff_b, b + b_norm                            beside any of them
    dora_scale    V = W + s·D, with another length                  beside LoRA, LoHa and LoKr; see `decomposed`
    lora_magnitude_vector, lora_B.bias                              PEFT's DoRA and b + s·bias, in diffusers' files

LyCORIS' forward pass decides, which is what was trained. Its own `merge_to` scales LoHa and LoKr twice.
Source: lycoris-lora 4.1.3, modules/{locon,loha,lokr,ia3,full,norms}.py; kohya-ss/sd-scripts, networks/lora.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ingot.adapters.dialects.deltas import Cored, Difference
from ingot.adapters.dialects.layer import BIASES, PEFT_ROLES, Layer
from ingot.adapters.dialects.scaled import Scaled
from ingot.adapters.factor import Factor
from ingot.adapters.forms import Plus, Rewritten
from ingot.adapters.methods.loha import Hadamard, HadamardOfCores
from ingot.adapters.methods.lokr import Kronecker
from ingot.adapters.terms import LowRank, Term
from ingot.errors import AdapterError
from ingot.formats.tensor_ref import TensorRef


def _low_rank(layer: Layer, shape: tuple[int, ...]) -> Term:
    up, down, core = layer.flat("lora_up.weight"), layer.flat("lora_down.weight"), layer.core("lora_mid.weight")
    kernel = (layer.roles["lora_down.weight"] if core is None else layer.roles["lora_mid.weight"]).shape[2:]
    inputs, rank = layer.roles["lora_down.weight"].shape[1], layer.roles["lora_up.weight"].shape[1]
    # A convolution with a kernel of 1 may be stored as a matrix, on either side.
    fits = _stripped((up.shape[0], inputs, *kernel)) == _stripped(shape)
    if not fits or up.shape[1] != rank:
        raise layer.mismatch("lora_down.weight", shape)
    if core is None:
        return LowRank(up, down, layer.scaling)
    if core.shape[:2] != (rank, down.shape[0]) or down.shape[1] != inputs:
        raise layer.mismatch("lora_mid.weight", shape)
    return Plus(Cored((shape[0], math.prod(shape[1:])), rank, up, down, core), layer.scaling)


def _hadamard(layer: Layer, shape: tuple[int, ...]) -> Term:
    a1, b1, a2, b2 = (layer.flat(f"hada_{name}") for name in ("w1_a", "w1_b", "w2_a", "w2_b"))
    t1, t2 = layer.core("hada_t1"), layer.core("hada_t2")
    cored = t1 is not None and t2 is not None
    rank = b1.shape[0]
    out, columns = (rank, shape[0]) if cored else (shape[0], rank), (rank, math.prod(shape[1 : 2 if cored else None]))
    same = {a1.shape, a2.shape} == {out} and {b1.shape, b2.shape} == {columns}
    if not same or (t1 is None) is not (t2 is None):
        raise layer.mismatch("hada_w1_a", shape)
    if t1 is None or t2 is None:
        return Plus(Hadamard(a1, b1, a2, b2), layer.scaling)
    if {t1.shape, t2.shape} != {(rank, rank, math.prod(shape[2:]), 1)}:
        raise layer.mismatch("hada_t1", shape)
    return Plus(HadamardOfCores(a1, b1, t1, a2, b2, t2), layer.scaling)


def _kronecker(layer: Layer, shape: tuple[int, ...]) -> Term:
    core = layer.core("lokr_t2")
    left, right = _half(layer, 1), _half(layer, 2)
    if core is not None:
        right = (right[0].T, *right[1:])
    (a, c), (b, d) = _sides(left), _sides(right)
    fits = (a * b, c * d * (1 if core is None else core.shape[2])) == (shape[0], math.prod(shape[1:]))
    chained = all(len(half) == 1 or half[0].shape[1] == half[1].shape[0] for half in (left, right))
    around = core is None or (len(right) == 2 and core.shape[:2] == (right[0].shape[1], right[1].shape[0]))
    if not (fits and chained and around):
        raise layer.mismatch("lokr_w1" if len(left) == 1 else "lokr_w1_a", shape)
    return Plus(Kronecker(left, right, (shape[0], math.prod(shape[1:])), core), layer.scaling)


def _half(layer: Layer, number: int) -> tuple[Factor, ...]:
    """One side of a Kronecker product: a matrix, or two to be multiplied."""
    whole = f"lokr_w{number}"
    return (layer.flat(whole),) if whole in layer.roles else (layer.flat(f"{whole}_a"), layer.flat(f"{whole}_b"))


def _sides(half: tuple[Factor, ...]) -> tuple[int, int]:
    return half[0].shape[0], half[-1].shape[1]


def _stretch(layer: Layer, shape: tuple[int, ...]) -> Term:
    values = layer.roles["weight"]
    along_inputs = bool(layer.numbers["on_input"])
    if math.prod(values.shape) != shape[1 if along_inputs else 0]:
        raise layer.mismatch("weight", shape)
    kernel = math.prod(shape[2:]) if along_inputs else None
    vector = values.then("reshape", math.prod(values.shape))
    return Rewritten(Scaled((shape[0], math.prod(shape[1:])), vector, kernel))


def _difference(layer: Layer, shape: tuple[int, ...]) -> Term:
    role = "diff" if "diff" in layer.roles else "w_norm"
    return Plus(Difference(layer.fitted(role, shape)))


def _stripped(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A weight's shape without the kernel's trailing extents of 1."""
    kept = len(shape)
    while kept > 2 and shape[kept - 1] == 1:
        kept -= 1
    return shape[:kept]


@dataclass(frozen=True)
class Kind:
    """A kind of layer.

    Attributes:
        marks: roles that a layer of this kind alone has.
        needs: for each thing that must be there, the roles of which one alternative must be there whole.
        may: roles that may stand beside them.
        term: what it does to a weight of this shape; None where it changes the bias alone.
        ranked: roles whose first axis is the rank.
        of_vectors: whether the weight may be a mere vector, as a norm's is.
    """

    title: str
    marks: frozenset[str]
    needs: tuple[tuple[tuple[str, ...], ...], ...]
    term: Callable[[Layer, tuple[int, ...]], Term] | None
    may: frozenset[str] = frozenset()
    ranked: tuple[str, ...] = ()
    of_vectors: bool = False

    @property
    def roles(self) -> frozenset[str]:
        named = {role for alternatives in self.needs for roles in alternatives for role in roles}
        return frozenset({*self.marks, *named, *self.may, *BIASES})


_PAIR = (("lora_down.weight", "lora_up.weight"),)
KINDS = (
    Kind("LoRA", frozenset({"lora_up.weight", "lora_down.weight", "lora_mid.weight"}), (_PAIR,), _low_rank,
         frozenset({"alpha", "dora_scale"}) | PEFT_ROLES, ("lora_down.weight",)),
    Kind("LyCORIS LoHa", frozenset(f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")),
         ((("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),),), _hadamard,
         frozenset({"alpha", "dora_scale"}), ("hada_w1_b",)),
    Kind("LyCORIS LoKr", frozenset(f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")),
         ((("lokr_w1",), ("lokr_w1_a", "lokr_w1_b")), (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"))), _kronecker,
         frozenset({"alpha", "dora_scale"}), ("lokr_w2_b", "lokr_w1_b")),
    Kind("LyCORIS (IA)³", frozenset({"weight", "on_input"}), ((("weight", "on_input"),),), _stretch),
    Kind("full difference", frozenset({"diff"}), ((("diff",),),), _difference, of_vectors=True),
    Kind("norms", frozenset({"w_norm"}), ((("w_norm",),),), _difference, of_vectors=True),
    Kind("biases", frozenset(BIASES), (), None),
)  # fmt: skip
ROLES = frozenset({role for kind in KINDS for role in kind.roles})


def check_layer(path: str, names: Mapping[str, TensorRef]) -> Kind:
    """The kind of the layer that has tensors of these roles.

    Raises:
        AdapterError: it is of no kind or of two, lacks a tensor, or has one too many; the message names it.
    """
    kinds = [kind for kind in KINDS if kind.marks & names.keys()]
    if len(kinds) > 1 and kinds[-1].marks == frozenset(BIASES):
        kinds.pop()
    first = next(iter(names.values())).name
    if len(kinds) != 1:
        found = " and ".join(kind.title for kind in kinds) or ", ".join(names)
        what = (
            "one module has layers of two kinds" if kinds else "tensors stand alone, without the layer they belong to"
        )
        raise AdapterError(what, where=f"`{first}`", found=found)
    kind = kinds[0]
    for alternatives in kind.needs:
        if not any(names.keys() >= {*roles} for roles in alternatives):
            begun = next((roles for roles in alternatives if names.keys() & {*roles}), alternatives[0])
            missing = next(role for role in begun if role not in names)
            expected = f"`{path}.{missing}`"
            raise AdapterError("a tensor lacks its counterpart", where=f"`{first}`", expected=expected)
        if sum(names.keys() >= {*roles} for roles in alternatives) > 1:
            raise AdapterError("a factor is stored twice, whole and as a product", where=f"`{first}`")
    extra = next((ref for role, ref in names.items() if role not in kind.roles), None)
    if extra is not None:
        raise AdapterError(f"a tensor does not belong to a {kind.title} layer", where=f"`{extra.name}`")
    return kind
