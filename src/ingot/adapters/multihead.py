"""LoRA on torch.nn.MultiheadAttention: one layer on `in_proj_weight`[3E, E], one on `out_proj.weight`[E, E].

PEFT adds the update of `out_proj` twice, in every forward pass as well as when it merges, so that is what was trained;
`versions.out_projection_times` holds the rule. Source: `MultiheadAttention.merge` of PEFT 0.15 .. 0.21.2.
"""

from __future__ import annotations

from dataclasses import dataclass

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.lora import no_parameter, wrong_shape
from ingot.adapters.lora_config import LoraConfig
from ingot.adapters.module import Module
from ingot.adapters.terms import Add, LowRank
from ingot.adapters.versions import out_projection_times
from ingot.errors import MismatchError
from ingot.formats.tensor_ref import TensorRef


@dataclass(frozen=True)
class MultiheadUpdate:
    """A[r, E], B[3E, r] of the input projections; A[r, E], B[E, r] and perhaps a bias[E] of the output projection."""

    path: str
    in_a: Factor
    in_b: Factor
    out_a: Factor
    out_b: Factor
    scaling: float
    config: LoraConfig
    out_bias: Factor | None = None

    @property
    def tensors(self) -> tuple[TensorRef, ...]:
        factors = (self.in_a, self.in_b, self.out_a, self.out_b, self.out_bias)
        return tuple(factor.ref for factor in factors if factor is not None)

    @property
    def rank(self) -> int:
        return self.in_a.shape[0]

    def edits(self, module: Module) -> tuple[Edit, ...]:
        """See `Update.edits`."""
        times = out_projection_times(self.config.release)
        if times is None:
            raise MismatchError(
                "it is not known how often this PEFT release adds the update of `out_proj`",
                where=f"`{self.out_a.ref.name}`",
                found=f"PEFT {self.config.peft_version}",
                hint="If it still adds it twice, say so with `--assume-peft-version 0.21.2`.",
            )
        return (
            self._edit(module, "in_proj_weight", self.in_a, self.in_b, 1),
            self._edit(module, "out_proj.weight", self.out_a, self.out_b, times),
            *self._bias_edit(module),
        )

    def _edit(self, module: Module, parameter: str, a: Factor, b: Factor, times: int) -> Edit:
        if parameter not in module.parameters:
            raise no_parameter(a.ref, module, parameter)
        update = LowRank(b, a, times * self.scaling)
        if update.shape != module.parameters[parameter]:
            raise wrong_shape(a.ref, b.ref, module, parameter, update.shape)
        return Edit(parameter, 0, update)

    def _bias_edit(self, module: Module) -> tuple[Edit, ...]:
        if self.out_bias is None:
            return ()
        if "out_proj.bias" not in module.parameters:
            raise no_parameter(self.out_bias.ref, module, "out_proj.bias")
        if self.out_bias.shape != module.parameters["out_proj.bias"]:
            raise wrong_shape(self.out_bias.ref, self.out_bias.ref, module, "out_proj.bias", self.out_bias.shape)
        return (Edit("out_proj.bias", 0, Add(self.out_bias.then("reshape", 1, self.out_bias.shape[0]), self.scaling)),)
