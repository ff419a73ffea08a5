"""What resolving needs to know of one model, whoever found it out: a model class, a known family, or names alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ingot.adapters.module import Module, ModuleKind
from ingot.errors import MismatchError
from ingot.naming.layout import Layout, NotPlaceable, placements
from ingot.naming.placement import Site


@dataclass(frozen=True)
class Part:
    """What a tensor name of another era stands for: `parameter` of the model, or the part of it at `layout`."""

    parameter: str
    layout: Layout | None = None


def _no_part(_: str) -> Part | None:
    return None


def _same_name(parameter: str) -> str:
    return parameter


@dataclass(frozen=True)
class Table:
    """One model.

    Attributes:
        model_class: name of the transformers class; None where only names on disk are known.
        why: the reason why there is no model class.
        modules: every module by its in-memory path.
        shapes: every tensor on disk.
        layouts: where each parameter stands, by its full in-memory name; absent ones have none.
        scattered: parameters that are on disk, but not in blocks: the reason, by full name.
        owners: the in-memory parameter (the first of several) that a tensor on disk is loaded into.
        tied: parameters that are not on disk because another, which is, stands for them: alias to source.
        stored_twice: pairs that the model ties although both are on disk: alias to source.
        prefix: name of the submodule that holds the bare model ("model" of a LlamaForCausalLM), or "".
        translate: the meaning of a tensor name that is neither in memory nor on disk.
        disk_name: the name on disk of a parameter that is not there yet.
        dense: patterns of module paths that transformers leaves dense where bitsandbytes quantizes.
    """

    model_class: str | None
    modules: Mapping[str, Module]
    shapes: Mapping[str, tuple[int, ...]]
    layouts: Mapping[str, Layout]
    why: str | None = None
    scattered: Mapping[str, str] = field(default_factory=dict)
    owners: Mapping[str, str] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    stored_twice: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    translate: Callable[[str], Part | None] = _no_part
    disk_name: Callable[[str], str] = _same_name
    dense: tuple[str, ...] = ()

    @property
    def parameters(self) -> Iterable[str]:
        """Full names of all parameters, in the order of declaration."""
        return (join(path, name) for path, module in self.modules.items() for name in own_parameters(module))

    @property
    def unused(self) -> tuple[str, ...]:
        """Tensors on disk that no parameter is loaded from."""
        return tuple(name for name in self.shapes if name not in self.owners)

    @property
    def absent(self) -> tuple[str, ...]:
        """Parameters that have no tensor on disk and no other parameter to stand for them."""
        held = (self.layouts, self.scattered, self.tied)
        return tuple(name for name in self.parameters if not any(name in where for where in held))

    def site(self, path: str) -> Site:
        """The module at this in-memory path. Raises KeyError for no module, MismatchError for scattered parameters."""
        module = self.modules[path]
        stacked = module.kind is ModuleKind.EXPERTS
        placed, aliases = {}, {}
        for name in module.parameters:
            full = join(path, name)
            if full in self.tied:
                aliases[name] = self.tied[full]
            elif full in self.scattered:
                raise not_placeable(full, self.scattered[full])
            elif full in self.layouts:
                try:
                    placed[name] = placements(self.layouts[full], stacked=stacked)
                except NotPlaceable as reason:
                    raise not_placeable(full, str(reason)) from None
        return Site(module, placed, aliases)


def tied_aliases(pairs: Mapping[str, str], present: Callable[[str], bool]) -> dict[str, str]:
    """Which parameters another one on disk stands for, given the model's tied pairs (target to source).

    As transformers ties while it loads: pairs with both on disk stay apart; a target absent on disk takes its source;
    a source absent on disk takes the first of its targets that is there. (Of two that are both there, transformers
    ties those with equal values; values are not known here.)
    """
    groups: dict[str, list[str]] = {}
    for target, source in pairs.items():
        groups.setdefault(source, [source]).append(target)
    aliases = {}
    for members in groups.values():
        held = next((name for name in members if present(name)), None)
        if held is not None:
            aliases.update({name: held for name in members if not present(name)})
    return aliases


def stored_twice(pairs: Mapping[str, str], present: Callable[[str], bool]) -> dict[str, str]:
    """The model's tied pairs (target to source) of which both have a tensor on disk."""
    return {target: source for target, source in pairs.items() if present(target) and present(source)}


def own_parameters(module: Module) -> Iterable[str]:
    """Names of the parameters of the module itself, without those that a MULTIHEAD shows of its submodule."""
    return (name for name in module.parameters if "." not in name)


def join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def split(name: str) -> tuple[str, str]:
    """`a.b.weight` -> (`a.b`, `weight`)."""
    path, _, leaf = name.rpartition(".")
    return path, leaf


def not_placeable(where: str, reason: str) -> MismatchError:
    return MismatchError(
        "this parameter does not stand in blocks in the checkpoint, so an adapter cannot be added to it there",
        where=where,
        found=reason,
        hint="Load the model with transformers, save it with save_pretrained(..., save_original_format=False), and use "
        "that checkpoint as the base.",
    )
