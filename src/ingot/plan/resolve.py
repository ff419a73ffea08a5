"""From what an adapter says of modules to terms that are placed in tensors on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ingot.adapters.adapter import Adapter
from ingot.adapters.dialects import BaseFacts
from ingot.adapters.edit import Edit, Update
from ingot.adapters.methods.method import LayerUpdate, MethodConfig
from ingot.adapters.terms import Term
from ingot.checkpoint.locate import Location
from ingot.checkpoint.quantized.encoded import Source
from ingot.errors import AdapterError, MismatchError
from ingot.naming import Names
from ingot.naming.placement import Placement, Site
from ingot.plan.expected import targeted
from ingot.plan.model import Beside, PlacedTerm
from ingot.plan.replicate import Replication
from ingot.storage.inputs import InputFile


@dataclass(frozen=True)
class Weighted:
    """An open adapter, where it came from, and the weight that the user gave it. `inputs` are its files by name."""

    adapter: Adapter
    location: Location
    inputs: Mapping[str, InputFile]
    weight: float = 1.0

    @classmethod
    def open(
        cls,
        location: Location,
        number: int,
        weight: float,
        assume_peft_version: str | None,
        expert_layout: str | None = None,
    ) -> Weighted:
        """Open adapter `number` of a plan. Raises what `Adapter.open` raises."""
        adapter = Adapter.open(
            location.path,
            adapter_index=number,
            file=location.file,
            assume_peft_version=assume_peft_version,
            expert_layout=expert_layout,
        )
        side = {name: InputFile.open(location.path, name, error=AdapterError) for name in adapter.side_files}
        return cls(adapter, location, {**{file.path.name: file for file in adapter.files}, **side}, weight)

    def on(self, names: Names, config: Mapping[str, object], component: str | None) -> Weighted:
        """The adapter as it reads for this base; see `Adapter.on`."""

        def base() -> BaseFacts:
            stored = (name.rpartition(".")[0] for name in names.on_disk)
            return BaseFacts(dict.fromkeys((*names.modules, *stored)), config)

        return replace(self, adapter=self.adapter.on(base, component))

    def close(self) -> None:
        for file in self.inputs.values():
            file.close()


@dataclass(frozen=True)
class ResolvedEdit:
    """An edit and the module that it is for.

    Attributes:
        layer: set for a layer that `layer_replication` makes.
        beside: other parameters of the module that the edit's term must see.
    """

    adapter: int
    update: Update
    site: Site
    edit: Edit
    layer: int | None = None
    beside: tuple[Beside, ...] = ()

    @property
    def parameter(self) -> str:
        """Full name of the parameter in the base model's memory."""
        return ".".join(filter(None, (self.site.module.path, self.edit.parameter)))

    @property
    def placements(self) -> tuple[Placement, ...]:
        """Where the edit's matrix stands on disk: nowhere, for a tied alias and for a parameter that the base lacks."""
        places = self.site.placements.get(self.edit.parameter, ())
        return tuple(place for place in places if place.index == self.edit.index)


def resolve(
    adapters: Sequence[Weighted], names: Names, replication: Replication, stored: Mapping[str, Source]
) -> list[ResolvedEdit]:
    """Every edit of every adapter, with its site; adapter order, then the adapter's own order.

    `stored` are the base's tensors: a term may depend on the dtype in which a weight is stored (PiSSA's residual).

    Terms are those of weight 1: what the weights and several adapters make of them is settled in `plan.combining`.

    Raises:
        MismatchError: a module is not in the base; a shape does not fit.
    """
    resolved = []
    for number, weighted in enumerate(adapters):
        for update, site, layer in _told(weighted.adapter, names, replication, stored):
            for edit in update.edits(site.module):
                beside = tuple(_beside(name, site, names, stored) for name in getattr(edit.term, "beside", ()))
                resolved.append(ResolvedEdit(number, update, site, edit, layer, beside))
    return resolved


def _told(
    adapter: Adapter, names: Names, replication: Replication, stored: Mapping[str, Source]
) -> list[tuple[Update, Site, int | None]]:
    """Each update with its site and layer; those of a method's layers know of all its modules."""

    def site(path: str) -> tuple[Site, int | None]:
        base, layer = replication.base_path(path)
        return _with_dtypes(names.site(base), stored), layer

    if not isinstance(adapter.config, MethodConfig):
        return [(update, *site(update.path)) for update in adapter.updates]
    paths = targeted(adapter, names, replication)
    found = [(update, *site(update.path)) for update in (*adapter.updates, *adapter.implied(paths))]
    layers = {update.path: update.sees(place.module) for update, place, _ in found if isinstance(update, LayerUpdate)}
    layers.update((path, site(path)[0].module) for path in paths if path not in layers)
    order = {path: number for number, path in enumerate(names.modules)}
    modules = dict(sorted(layers.items(), key=lambda item: order.get(item[1].path, len(order))))
    return [(u.among(modules) if isinstance(u, LayerUpdate) else u, place, layer) for u, place, layer in found]


def _with_dtypes(site: Site, stored: Mapping[str, Source]) -> Site:
    """The site, its module with the dtype of each parameter that is stored in one."""
    dtypes = {name: {stored[place.tensor].dtype for place in places} for name, places in site.placements.items()}
    known = {name: found.pop() for name, found in dtypes.items() if len(found) == 1}
    return replace(site, module=replace(site.module, dtypes=known))


def _beside(parameter: str, site: Site, names: Names, stored: Mapping[str, Source]) -> Beside:
    """A parameter of the site's module, or the one that it is tied to. Raises MismatchError where the base has none."""
    placements = site.placements.get(parameter, ())
    if parameter in site.aliases:
        source, own = names.parameter(site.aliases[parameter])
        placements = source.placements[own]
    if not placements:
        raise MismatchError(
            "a change must see a parameter that the base does not store", where=f"{site.module.path}.{parameter}"
        )
    return Beside(parameter, tuple((stored[place.tensor], place) for place in placements))


@dataclass
class PlacedTensor:
    """A tensor on disk as the matrix `view` = (rows, columns), and the terms that change it with their adapters."""

    view: tuple[int, int]
    terms: list[tuple[int, PlacedTerm]]


def place(edits: Iterable[ResolvedEdit], replication: Replication) -> dict[str, PlacedTensor]:
    """The terms of each on-disk tensor, by its output name."""
    tensors: dict[str, PlacedTensor] = {}
    for item in edits:
        for placement in item.placements:
            name = replication.renamed(placement.tensor, item.layer)
            stack, rows, columns = placement.view
            tensor = tensors.setdefault(name, PlacedTensor((stack * rows, columns), []))
            if item.edit.resizes:
                tensor.view = item.edit.term.shape
            tensor.terms.append((item.adapter, replace(placed_at(item.edit, placement), beside=item.beside)))
    return tensors


def placed_at(edit: Edit, placement: Placement) -> PlacedTerm:
    """The edit's term, cut and turned as its matrix stands on disk. Raises MismatchError where it does not fit."""
    if edit.resizes:
        return whole(edit.term)
    part = edit.term.part(placement.rows, placement.columns)
    term = part.transposed() if placement.transposed else part
    row, column, height, width = placement.block
    if term.shape != (height, width):
        raise MismatchError(
            "an update does not have the shape of its weight",
            where=", ".join([placement.tensor, *(factor.ref.name for factor in edit.term.factors()[:1])]),
            expected=list(term.shape),
            found=[height, width],
        )
    return PlacedTerm(term, (row, row + height), (column, column + width))


def whole(term: Term, beside: tuple[Beside, ...] = ()) -> PlacedTerm:
    """A term that changes all of a tensor's matrix."""
    rows, columns = term.shape
    return PlacedTerm(term, (0, rows), (0, columns), beside)


def claims_of(edits: Iterable[ResolvedEdit], ops_of: Mapping[int, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Which ops use each adapter tensor: `adapter number:tensor name` -> op names. `ops_of` is by id of the edit."""
    claims: dict[str, dict[str, None]] = {}
    for item in edits:
        for factor in item.edit.term.factors():
            key = f"{item.adapter}:{factor.ref.name}"
            claims.setdefault(key, {}).update(dict.fromkeys(ops_of.get(id(item), ())))
    return {key: tuple(ops) for key, ops in claims.items()}


def check_claims(
    adapters: Sequence[Weighted], claims: Mapping[str, tuple[str, ...]], left_out: Mapping[str, str]
) -> dict[str, str]:
    """Law 1. Every adapter tensor is used by an op or explained; returns the explained ones with their reasons.

    `left_out` are those that the user has other adapters' values for: `adapter number:tensor name` -> why.

    Raises:
        AdapterError: some are neither; the message lists them.
    """
    explained = {key: why for key, why in left_out.items() if not claims.get(key)}
    unclaimed = []
    for number, weighted in enumerate(adapters):
        explained.update({f"{number}:{name}": reason for name, reason in weighted.adapter.explained.items()})
        for ref in weighted.adapter.tensors.values():
            key = f"{number}:{ref.name}"
            if not claims.get(key) and key not in explained:
                unclaimed.append(ref.name)
    if unclaimed:
        listed = ", ".join(unclaimed[:10]) + (" …" if len(unclaimed) > 10 else "")
        raise AdapterError(
            f"{len(unclaimed)} tensors of the adapter would be dropped",
            where=listed,
            hint="Every tensor must find its place. Is this the right base? See `ingot inspect ADAPTER`.",
        )
    return explained
