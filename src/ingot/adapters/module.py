"""What an adapter must know of the module that it changes: its class and the shapes of its parameters.

`naming` fills these from the model class; `adapters` only reads them. Shapes here are those in the model's memory,
which may differ from the checkpoint's: where a block of a parameter stands on disk is `naming`'s business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class ModuleKind(StrEnum):
    """The module classes that PEFT treats differently."""

    LINEAR = "linear"  # weight[out, in]
    CONV1D = "conv1d"  # transformers' Conv1D of GPT-2: weight[in, out]
    EMBEDDING = "embedding"  # weight[num_embeddings, dim]
    CONV = "conv"  # nn.Conv1d/2d/3d: weight[out, in / groups, *kernel]
    MULTIHEAD = "multihead"  # nn.MultiheadAttention: in_proj_weight[3E, E], out_proj.weight[E, E]
    EXPERTS = "experts"  # a module whose own parameters are stacks: [E, out, in] or [E, in, out]
    OTHER = "other"  # known to the model, of no kind that a LoRA layer can wrap (norms, routers with bare parameters)
    UNKNOWN = "unknown"  # no model class is known; only names and shapes on disk are


@dataclass(frozen=True)
class Module:
    """One module of the base model.

    Attributes:
        path: in-memory module path, such as `model.layers.0.self_attn.q_proj`; "" is the model itself.
        kind: which class of layer it is.
        parameters: shape of each own parameter by its name relative to `path`, in the order of declaration.
        groups: of a convolution.
        transposed_experts: expert stacks are [E, in, out] (gpt-oss, Llama 4) instead of [E, out, in].
        class_name: the Python class, for messages.
        dtypes: of each parameter on disk, as a safetensors header spells it; only PiSSA and OLoRA ask for it.
    """

    path: str
    kind: ModuleKind
    parameters: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    groups: int = 1
    transposed_experts: bool = False
    class_name: str = ""
    dtypes: Mapping[str, str] = field(default_factory=dict)

    def view(self, parameter: str) -> tuple[int, int, int]:
        """The parameter as a stack of matrices (N, rows, columns); see `matrix_view`."""
        return matrix_view(self.parameters[parameter], stacked=self.kind is ModuleKind.EXPERTS)


def matrix_view(shape: tuple[int, ...], *, stacked: bool) -> tuple[int, int, int]:
    """A row-major tensor's shape seen as (N, rows, columns), all bytes in the same order.

    Vectors are (1, 1, n), matrices (1, rows, columns), expert stacks (E, rows, columns) when `stacked`, and
    convolutions (1, out, in * kernel). A 0-d tensor is (1, 1, 1).
    """
    if len(shape) < 2:
        return (1, 1, math.prod(shape))
    if len(shape) == 3 and stacked:
        return (shape[0], shape[1], shape[2])
    return (1, shape[0], math.prod(shape[1:]))
