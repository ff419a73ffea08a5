"""From names that are read to layers: each tensor has a component, a module and a role, or it is an error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ingot.adapters.dialects import components
from ingot.adapters.dialects.dialect import BaseFacts, Content, DialectConfig, Reading
from ingot.adapters.dialects.kinds import check_layer
from ingot.adapters.dialects.layer import NUMBERS, Layer
from ingot.adapters.dialects.scalars import read_number
from ingot.errors import AdapterError, MismatchError
from ingot.formats.tensor_ref import TensorRef


@dataclass(frozen=True)
class Name:
    """A tensor's name, read: whose component, which module (as the file spells it), what it is to it."""

    component: str
    path: str
    role: str


@dataclass
class Group:
    """The tensors of one component."""

    modules: dict[str, dict[str, TensorRef]] = field(default_factory=dict)

    @property
    def tensors(self) -> list[TensorRef]:
        return [ref for roles in self.modules.values() for ref in roles.values()]

    def layers(self, content: Content) -> tuple[Layer, ...]:
        """Its layers, in the order of their first tensors. Raises AdapterError for one that is not whole."""
        layers = []
        for path, roles in self.modules.items():
            kind = check_layer(path, roles)
            numbers = {role: read_number(content.weights, ref) for role, ref in roles.items() if role in NUMBERS}
            if numbers.get("alpha") == 0:
                where = f"`{roles['alpha'].name}`"
                raise AdapterError("alpha is 0, which would make the layer do nothing", where=where)
            factors = {role: content.factor(ref) for role, ref in roles.items() if role not in NUMBERS}
            layers.append(Layer(path, kind, factors, numbers))
        _check_alphas(layers, self)
        return tuple(layers)


def group(refs: Iterable[tuple[TensorRef, Name]]) -> dict[str, Group]:
    """The tensors by component. Raises AdapterError where two names mean the same."""
    groups: dict[str, Group] = {}
    for ref, name in refs:
        roles = groups.setdefault(name.component, Group()).modules.setdefault(name.path, {})
        if name.role in roles:
            found = f"`{roles[name.role].name}` and `{ref.name}`"
            raise AdapterError("two tensors mean the same", where=name.path, found=found)
        roles[name.role] = ref
    return groups


def reading(
    groups: Mapping[str, Group],
    layers: Mapping[str, tuple[Layer, ...]],
    config: DialectConfig,
    find: Callable[[BaseFacts], Callable[[str, str], str]],
) -> Reading:
    """The whole adapter as its file spells it; `fit` gives one component of it as a base spells it.

    Args:
        layers: of each component.
        find: for a base, what turns a module's path and a tensor's name, for messages, into the base's path.
    """
    tensors = {name: one.tensors for name, one in groups.items()}

    def fit(base: BaseFacts, wanted: str | None) -> Reading:
        chosen = components.choose(groups, wanted)
        path_of = find(base)
        updates = tuple(replace(one, path=path_of(one.path, one.tensors[0].name)) for one in layers[chosen])
        _check_apart(updates)
        explained = {**_numbers(groups[chosen]), **components.of_others(tensors, chosen)}
        return Reading(config, updates, explained)

    every = tuple(update for of_one in layers.values() for update in of_one)
    explained = {name: why for one in groups.values() for name, why in _numbers(one).items()}
    return Reading(config, every, explained, {name: len(refs) for name, refs in tensors.items()}, fit)


def alphas(layers: Iterable[Layer]) -> tuple[float, ...]:
    """The distinct values of alpha."""
    return tuple(sorted({layer.numbers["alpha"] for layer in layers if "alpha" in layer.numbers}))


def _check_apart(layers: Sequence[Layer]) -> None:
    """Two names of a file may mean one module of the base: the original's and diffusers'."""
    seen: dict[str, Layer] = {}
    for layer in layers:
        other = seen.setdefault(layer.path, layer)
        if other is not layer:
            found = f"`{other.tensors[0].name}` and `{layer.tensors[0].name}`"
            raise MismatchError("two layers of the adapter mean one module", where=layer.path, found=found)


def _numbers(group: Group) -> dict[str, str]:
    """Why the tensors that hold one number are used by no operation."""
    why = {
        "alpha": "alpha of a layer: its value is in the plan, as the layer's scaling",
        "on_input": "which axis a layer stretches: it is in the plan",
    }
    return {ref.name: why[role] for roles in group.modules.values() for role, ref in roles.items() if role in why}


def _check_alphas(layers: Iterable[Layer], group: Group) -> None:
    """Layers with an alpha and others without: nothing tells what those are scaled by."""
    scaled = {layer.path: "alpha" in layer.numbers for layer in layers if layer.rank is not None}
    if len(set(scaled.values())) > 1:
        path = next(path for path, has in scaled.items() if not has)
        first = next(iter(group.modules[path].values()))
        raise AdapterError(
            "a layer lacks its alpha, and others have one",
            where=f"`{first.name}`",
            expected=f"`{path}.alpha`",
            hint="The file is incomplete. An alpha that equals the rank means no scaling.",
        )
