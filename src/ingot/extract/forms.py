"""Which form each parameter that differs gets in the adapter: factors, a whole tensor, or a bias."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ingot.adapters.keys import PREFIX
from ingot.adapters.module import Module, ModuleKind
from ingot.errors import MismatchError, UsageError
from ingot.extract.layers import Layout, Target, layout_of
from ingot.extract.model import Parameter
from ingot.extract.selectors import ancestry, last, saved, targets
from ingot.kernels.spelling import MERGEABLE
from ingot.naming.resolve import near_matches

#: Names of the projections of single experts. PEFT, from 0.19 on, takes them for the stacks that transformers 5 makes
#: of those experts, also where a shared expert or a dense layer bears them (`utils/transformers_weight_conversion.py`).
_EXPERT_NAMES = frozenset({"gate", "w1", "w2", "w3", "gate_proj", "up_proj", "down_proj"})


@dataclass(frozen=True)
class Forms:
    """The adapter's tensors, before their values.

    Attributes:
        targets: parameters that get factors, in the model's order.
        whole: parameters that are stored as TUNED has them, by their name in the adapter.
        modules_to_save, target_modules, target_parameters, bias: what adapter_config.json says.
        reasons: why a module is saved whole, by its path.
    """

    targets: tuple[Target, ...]
    whole: Mapping[str, Parameter]
    modules_to_save: tuple[str, ...]
    target_modules: list[str] | str
    target_parameters: tuple[str, ...]
    bias: str
    reasons: Mapping[str, str]


def choose(
    parameters: Sequence[Parameter],
    differing: Collection[str],
    modules: Mapping[str, Module],
    ties: Mapping[str, str],
    save: Sequence[str],
) -> Forms:
    """The forms of all parameters that differ.

    Args:
        parameters: all of the model's, in its order.
        differing: full names of those that differ.
        modules: BASE's, by path.
        ties: parameters that are one in both checkpoints: full name of each alias to that of its source.
        save: what `--save-module` names.

    Raises:
        MismatchError: a parameter differs that no adapter of PEFT's can hold.
        UsageError: a name of `save` is no module's.
    """
    return _Chooser(parameters, differing, modules, ties, save).forms()


@dataclass
class _Chooser:
    parameters: Sequence[Parameter]
    differing: Collection[str]
    modules: Mapping[str, Module]
    ties: Mapping[str, str]
    save: Sequence[str]
    paths: list[str] = field(init=False)
    factored: dict[str, list[Target]] = field(default_factory=dict)
    biased: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # the containers too: PEFT compares their names as well
        self.paths = list(dict.fromkeys(one for path in self.modules for one in ancestry(path)))

    def forms(self) -> Forms:
        self._check_save()
        single_experts = self._stores_single_experts()
        for path, own in self._by_module().items():
            self._sort(path, own, single_experts)
        names, whole = self._whole()
        for path in self.factored.keys() & whole:
            del self.factored[path]
        for path in whole - self.reasons.keys():
            self.reasons[path] = "PEFT saves it together with another one"
        chosen = [target for targets in self.factored.values() for target in targets]
        bias = self._bias(whole)
        wrapped = [target.parameter.path for target in chosen if not target.bare]
        bare = [target.parameter.full for target in chosen if target.bare]
        parameters = targets(bare, [one.full for one in self.parameters]) if bare else []
        if isinstance(parameters, str):
            raise MismatchError("no list of names selects these parameters alone", where=", ".join(bare[:3]),
                                hint="Save their modules whole with --save-module.")  # fmt: skip
        return Forms(
            targets=tuple(chosen),
            whole={**self._saved(whole), **self._biases(bias, whole)},
            modules_to_save=tuple(names),
            target_modules=targets(wrapped, self.paths) if wrapped else [],
            target_parameters=tuple(parameters),
            bias=bias,
            reasons=self.reasons,
        )

    def _by_module(self) -> dict[str, list[Parameter]]:
        """The parameters that differ, by the path of their module."""
        found: dict[str, list[Parameter]] = {}
        for parameter in self.parameters:
            if parameter.full in self.differing:
                found.setdefault(parameter.path, []).append(parameter)
        return found

    def _sort(self, path: str, own: Sequence[Parameter], single_experts: bool) -> None:
        """Into `factored`, `biased` or `reasons`."""
        if not path:
            raise MismatchError(
                "a parameter of the model itself differs, and PEFT can only save those of its modules",
                where=", ".join(one.name for one in own),
            )
        module = self.modules[path]
        if self._is_named(path):
            self.reasons[path] = "named by --save-module"
            return
        if module.kind is ModuleKind.EXPERTS:
            self._sort_experts(module, own)
            return
        weight = next((one for one in own if one.name == "weight"), None)
        others = [one for one in own if one.name not in ("weight", "bias")]
        known = module.kind in (ModuleKind.LINEAR, ModuleKind.CONV1D, ModuleKind.CONV, ModuleKind.UNKNOWN)
        biased = known and any(one.name == "bias" for one in own)
        layout = layout_of(module, weight) if weight is not None else None
        reason = self._reason(module, weight, layout, single_experts)
        if others or reason or (weight is None and not biased):
            self.reasons[path] = reason or "of a kind that has no factors"
            return
        if weight is not None and layout is not None:
            self.factored[path] = [Target(weight, layout, path)]
        if biased:
            self.biased.append(path)

    def _reason(
        self, module: Module, weight: Parameter | None, layout: Layout | None, single_experts: bool
    ) -> str | None:
        """Why this weight gets no factors."""
        if weight is None:
            return None
        if weight.base is None:
            return "BASE does not have it"
        if weight.resized:
            return "its vocabulary was resized"
        if weight.shared:
            return "BASE ties it, and PEFT merges factors into tied weights wrongly"
        if layout is None or not weight.dtypes <= MERGEABLE:
            return "of a kind that has no factors"
        if single_experts and last(module.path) in _EXPERT_NAMES:
            return "PEFT takes its name for that of an expert"
        return None

    def _sort_experts(self, module: Module, own: Sequence[Parameter]) -> None:
        """All of the module's parameters that differ get factors, or it is saved whole."""
        layouts = [layout_of(module, one) for one in own]
        plain = all(one.base is not None and one.dtypes <= MERGEABLE for one in own)
        if not plain or not all(layouts):
            self.reasons[module.path] = "of a kind that has no factors"
            return
        order = {name: at for at, name in enumerate(module.parameters)}
        ranked = sorted(zip(own, layouts, strict=True), key=lambda pair: order[pair[0].name])
        self.factored[module.path] = [
            Target(one, layout, module.path + ".base_layer" * (len(ranked) - 1 - at), bare=True)
            for at, (one, layout) in enumerate(ranked)
            if layout is not None
        ]

    def _stores_single_experts(self) -> bool:
        """Whether BASE's experts, stacks in memory, are tensors of their own on disk."""
        stacks = (one for one in self.parameters if self.modules[one.path].kind is ModuleKind.EXPERTS)
        return any(one.base and len({place.tensor for place in one.base.placements}) > 1 for one in stacks)

    # -- whole tensors -----------------------------------------------------------------------------------------

    def _whole(self) -> tuple[list[str], frozenset[str]]:
        """`modules_to_save`, and all that PEFT saves with them: both sides of a tie, or it would part them."""
        chosen = frozenset(self.reasons)
        while True:
            names, whole = saved(chosen, self.paths)
            sides = [{name.rpartition(".")[0] for name in tie} for tie in self.ties.items()]
            beside = {path for tie in sides if tie & whole for path in tie} - whole
            if not beside:
                return names, whole
            chosen = whole | beside

    def _is_named(self, path: str) -> bool:
        return any(f".{one}".endswith(f".{name}") for one in ancestry(path) for name in self.save)

    def _check_save(self) -> None:
        for name in self.save:
            if not any(f".{path}".endswith(f".{name}") for path in self.paths):
                near = near_matches(name, [*{last(path) for path in self.paths}])
                raise UsageError(f"no module is called {name}", where="--save-module",
                                 hint=f"Near matches: {', '.join(near)}." if near else
                                 "Run `ingot inspect BASE` for the names.")  # fmt: skip

    def _saved(self, whole: Collection[str]) -> dict[str, Parameter]:
        return {f"{PREFIX}{one.full}": one for one in self.parameters if one.path in whole}

    def _bias(self, whole: Collection[str]) -> str:
        """PEFT's `bias`: which biases the adapter brings."""
        biased = [path for path in self.biased if path not in whole]
        if not biased:
            return "none"
        return "lora_only" if all(path in self.factored for path in biased) else "all"

    def _biases(self, bias: str, whole: Collection[str]) -> dict[str, Parameter]:
        """All the biases that PEFT saves with this setting, changed or not."""
        found = {}
        for one in self.parameters:
            wrapped = one.path in self.factored and not self.factored[one.path][0].bare
            if one.name == "bias" and one.path not in whole and (bias == "all" or (bias == "lora_only" and wrapped)):
                found[f"{PREFIX}{one.path}{'.base_layer' if wrapped else ''}.bias"] = one
        return found
