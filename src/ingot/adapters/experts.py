"""LoRA on bare parameters (`target_parameters`): the expert stacks of mixture-of-experts models.

A layer's A is [E * r, in] with the expert as the slow index of its rows, its B is [out, r * E] with the expert as the
fast index of its columns. With B_e = B.reshape(out, r, E)[:, :, e] and A_e = A.reshape(E, r, in)[e]:

    W[e][out, in] + s * B_e @ A_e    or    W[e][in, out] + s * (B_e @ A_e).T

Which of the two depends on the PEFT release (see `versions`). The file does not name the parameter either: PEFT wraps
one after another in the order in which the module declares them, so that the first one is the innermost `base_layer`.
Unsloth read B block by block until September 2026, as [out, E * r] with the expert as the slow index, and saved such
adapters in the same names and shapes (unsloth-zoo #1269); since then its config says which: `LoraConfig.expert_blocks`.
Source: `ParamWrapper` and `_inject_parameters` of PEFT 0.17 .. 0.21.2.
"""

from __future__ import annotations

from dataclasses import dataclass

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.lora import wrong_shape
from ingot.adapters.lora_config import LoraConfig
from ingot.adapters.module import Module
from ingot.adapters.terms import LowRank
from ingot.adapters.versions import ExpertLayout, expert_layout
from ingot.errors import MismatchError
from ingot.formats.tensor_ref import TensorRef


@dataclass(frozen=True)
class ParametersUpdate:
    """LoRA on one or more parameters of a module.

    Attributes:
        pairs: (A, B) of each wrapped parameter, the innermost one first.
    """

    path: str
    pairs: tuple[tuple[Factor, Factor], ...]
    config: LoraConfig

    @property
    def tensors(self) -> tuple[TensorRef, ...]:
        return tuple(factor.ref for pair in self.pairs for factor in pair)

    @property
    def rank(self) -> int:
        """The rank that the config gives; the tensors hold it times the number of experts."""
        return self.config.rank(self.path)

    def edits(self, module: Module) -> tuple[Edit, ...]:
        """See `Update.edits`."""
        edits: tuple[Edit, ...] = ()
        for parameter, (a, b) in zip(self._parameters(module), self.pairs, strict=True):
            shape = module.parameters[parameter]
            if len(shape) == 2:
                edits += (self._matrix_edit(module, parameter, a, b),)
            elif len(shape) == 3:
                edits += self._stack_edits(module, parameter, a, b)
            else:
                raise wrong_shape(a.ref, b.ref, module, parameter, (b.shape[0], a.shape[1]))
        return edits

    def _parameters(self, module: Module) -> tuple[str, ...]:
        """The names of the wrapped parameters, in the order of `pairs`."""
        names = [name for name in module.parameters if self.config.targets_parameter(self.path, name)]
        if len(names) != len(self.pairs):
            raise MismatchError(
                "the adapter's layers do not match the parameters that `target_parameters` names",
                where=f"`{self.pairs[0][0].ref.name}`",
                expected=f"{len(self.pairs)} of {list(module.parameters)} in `{module.path}`",
                found=names,
            )
        return tuple(names)

    def _scaling(self, parameter: str, rank: int, a: Factor) -> float:
        path = f"{self.path}.{parameter}"
        if self.config.rank(path) != rank:
            raise MismatchError(
                "the rank of the tensors is not that of the config",
                where=f"`{a.ref.name}`",
                expected=f"rank {self.config.rank(path)} for `{path}`",
                found=f"rank {rank} from {list(a.shape)}",
            )
        return self.config.scaling(path, rank)

    def _matrix_edit(self, module: Module, parameter: str, a: Factor, b: Factor) -> Edit:
        update = LowRank(b, a, self._scaling(parameter, a.shape[0], a))
        if update.shape != module.parameters[parameter]:
            raise wrong_shape(a.ref, b.ref, module, parameter, update.shape)
        return Edit(parameter, 0, update)

    def _stack_edits(self, module: Module, parameter: str, a: Factor, b: Factor) -> tuple[Edit, ...]:
        experts = module.parameters[parameter][0]
        if a.shape[0] != b.shape[1] or a.shape[0] % experts:
            raise wrong_shape(a.ref, b.ref, module, parameter, (experts, b.shape[0], a.shape[1]))
        rank = a.shape[0] // experts
        scaling = self._scaling(parameter, rank, a)
        layout = self._layout(module, parameter, a, b)
        a_stack = a.then("reshape", experts, rank, a.shape[1])
        blocks = self.config.expert_blocks
        b_stack = b.then("reshape", b.shape[0], *((experts, rank) if blocks else (rank, experts)))
        axis = 1 if blocks else 2
        pairs = ((b_stack.then("select", axis, e), a_stack.then("select", 0, e)) for e in range(experts))
        updates = (LowRank(left, right, scaling) for left, right in pairs)
        if layout is ExpertLayout.IN_OUT:
            updates = (update.transposed() for update in updates)
        return tuple(Edit(parameter, e, update) for e, update in enumerate(updates))

    def _layout(self, module: Module, parameter: str, a: Factor, b: Factor) -> ExpertLayout:
        """The layout that fits the shapes and the release that saved the adapter."""
        experts, d1, d2 = module.parameters[parameter]
        fits = {ExpertLayout.OUT_IN: (d1, d2), ExpertLayout.IN_OUT: (d2, d1)}
        possible = [layout for layout, shape in fits.items() if shape == (b.shape[0], a.shape[1])]
        if not possible:
            raise wrong_shape(a.ref, b.ref, module, parameter, (experts, b.shape[0], a.shape[1]))
        saved_as = expert_layout(self.config.release, transposed=module.transposed_experts)
        if saved_as is None and len(possible) == 1:
            return possible[0]
        if saved_as in possible:
            return saved_as
        version = self.config.peft_version
        what = (
            "nothing tells which axis of the square experts is the input"
            if saved_as is None
            else (f"PEFT {version} would have saved these experts with their axes swapped")
        )
        raise MismatchError(
            what,
            where=f"`{a.ref.name}`",
            expected=f"a layout for {list(module.parameters[parameter])} of `{module.path}.{parameter}`",
            found=f"{list(a.shape)} and {list(b.shape)}, saved by PEFT {version or 'of unknown version'}",
            hint="Say which PEFT release trained the adapter: `--assume-peft-version 0.18.1`, for example.",
        )
