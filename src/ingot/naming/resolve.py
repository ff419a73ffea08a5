"""From a module path, in whichever naming an adapter was trained, to the one place on disk that it means.

In this order: a module of the model in memory; a module as the checkpoint on disk names it; a name of another era or
style that transformers would rename while loading; the same with or without the prefix of the bare model. A path that
has two meanings at different places is refused, never guessed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from ingot.adapters.module import Module, ModuleKind
from ingot.errors import MismatchError
from ingot.naming.layout import Layout, NotPlaceable, placements
from ingot.naming.names_only import modules_from
from ingot.naming.placement import Site
from ingot.naming.table import Table, join, not_placeable, split


class Resolver:
    """Answers for one table; remembers what it had to search for."""

    def __init__(self, table: Table) -> None:
        self.table = table
        used = {name: shape for name, shape in table.shapes.items() if name in table.owners}
        self.on_disk = modules_from(used, self._disk_kind)
        self.leaves = dict.fromkeys(split(name)[1] for name in table.parameters)

    def site(self, path: str) -> Site:
        """The module that an adapter's path means.

        Raises:
            MismatchError: no module of the model has this path, or two have, or its parameters cannot be placed.
        """
        module, stored = self.table.modules.get(path), self.on_disk.get(path)
        if module is not None and module.parameters:
            for leaf in stored.parameters if stored is not None else ():
                self._same(join(path, leaf))
            return self.table.site(path)
        if stored is not None:
            return self._disk_site(stored)
        found = self._elsewhere(path)
        if found is None and module is not None:
            return Site(module, {}, {})
        if found is None:
            raise self._not_found(path, "module", [*self.table.modules, *self.on_disk])
        return found

    def parameter(self, name: str) -> tuple[Site, str]:
        """The module that a parameter's full name means, and the parameter's name within it. Raises as `site`."""
        path, leaf = split(name)
        if path in self.table.modules and leaf in self.table.modules[path].parameters:
            self._same(name)
            return self.table.site(path), leaf
        if name in self.table.owners:
            return self._disk_site(self.on_disk[path]), leaf
        found = self._meanings(path, [leaf])
        if not found:
            raise self._not_found(name, "parameter", [*self.table.parameters, *self.table.shapes])
        return self._only(name, found), leaf

    def _same(self, name: str) -> None:
        """Raises MismatchError when the name means one parameter in memory and another one on disk."""
        owner = self.table.owners.get(name, name)
        if owner != name and split(owner)[0] != split(name)[0]:
            raise MismatchError(
                "this name means two things: a parameter of the model in memory, and a tensor on disk that is loaded "
                "into another parameter",
                where=name,
                expected=f"{name} in memory",
                found=f"{owner}, loaded from the tensor of that name",
                hint="Save the adapter again with the transformers version that the base was saved with.",
            )

    def _elsewhere(self, path: str) -> Site | None:
        """A path that stands neither in memory nor on disk as it is."""
        found = self._meanings(path, list(self.leaves))
        return self._only(path, found) if found else None

    def _meanings(self, path: str, leaves: list[str]) -> dict[str, Site]:
        """Every module that the path may mean, by what it is called."""
        found: dict[str, Site] = {}
        parts: dict[str, Layout] = {}
        for leaf in leaves:
            part = self.table.translate(join(path, leaf))
            if part is None:
                continue
            owner, name = split(part.parameter)
            layout = part.layout or self.table.layouts.get(part.parameter)
            if part.layout is None and name == leaf:
                found[owner] = self.table.site(owner)
            elif layout is not None:
                parts[leaf] = layout
        if parts:
            found[path] = self._part_site(path, parts)
        prefix = self.table.prefix
        variants = (join(prefix, path), path.removeprefix(f"{prefix}.")) if prefix else ()
        for variant in variants:
            module = self.table.modules.get(variant)
            if module is not None and any(leaf in module.parameters for leaf in leaves):
                found[variant] = self.table.site(variant)
            elif any(leaf in self.on_disk[variant].parameters for leaf in leaves if variant in self.on_disk):
                found[variant] = self._disk_site(self.on_disk[variant])
        return found

    def _only(self, path: str, found: Mapping[str, Site]) -> Site:
        first, *others = found.values()
        if any(_meaning(other) != _meaning(first) for other in others):
            raise MismatchError(
                "this path may mean several modules of the base model",
                where=path,
                expected="one module",
                found=", ".join(sorted(found)),
                hint="Rename the adapter's tensors to the module that is meant.",
            )
        return first

    def _disk_kind(self, path: str) -> ModuleKind:
        """The class of a module that only the checkpoint's names know, by the module that it is loaded into."""
        name = join(path, "weight")
        owner = self.table.owners.get(name)
        if owner is None:
            return ModuleKind.OTHER
        module = self.table.modules.get(split(owner)[0])
        return ModuleKind.UNKNOWN if module is None else _kind_of_part(module, self.table.shapes[name])

    def _disk_site(self, module: Module) -> Site:
        layouts = {leaf: Layout.whole(join(module.path, leaf), shape) for leaf, shape in module.parameters.items()}
        if module.kind in (ModuleKind.LINEAR, ModuleKind.CONV1D):
            self._refuse_transposed(join(module.path, "weight"))
        return self._placed(module, layouts)

    def _refuse_transposed(self, name: str) -> None:
        """subtle: which way round the module of that era held this weight cannot be told from its shape."""
        owner = self.table.owners.get(name, "")
        if self.table.modules[split(owner)[0]].kind is ModuleKind.EXPERTS or owner not in self.table.layouts:
            return
        boxes = [box for box in self.table.layouts[owner].boxes if box.tensor == name]
        if any(list(box.axes) != sorted(box.axes) for box in boxes):
            raise not_placeable(name, f"it is loaded into {owner} transposed")

    def _part_site(self, path: str, parts: Mapping[str, Layout]) -> Site:
        part = next(part for part in (self.table.translate(join(path, leaf)) for leaf in parts) if part is not None)
        owner = self.table.modules[split(part.parameter)[0]]
        shapes = {leaf: layout.shape for leaf, layout in parts.items()}
        kind = _kind_of_part(owner, next(iter(shapes.values())))
        return self._placed(Module(path, kind, shapes, class_name=owner.class_name), parts)

    def _placed(self, module: Module, layouts: Mapping[str, Layout]) -> Site:
        stacked = module.kind is ModuleKind.EXPERTS
        try:
            placed = {leaf: placements(layout, stacked=stacked) for leaf, layout in layouts.items()}
        except NotPlaceable as reason:
            raise not_placeable(module.path, str(reason)) from None
        return Site(module, placed, {})

    def _not_found(self, path: str, noun: str, known: list[str]) -> MismatchError:
        model = self.table.model_class or "the names in the checkpoint"
        near = near_matches(path, known)
        hint = f"Near matches: {', '.join(near)}." if near else None
        if self.table.why is not None:
            hint = f"{hint or ''} Only names on disk were compared: {self.table.why}.".strip()
        return MismatchError(
            f"the base model has no such {noun}",
            where=path,
            expected=f"a {noun} of {model}",
            found="no match in memory, on disk, under the renames of transformers, or with another prefix",
            hint=hint,
        )


def near_matches(name: str, known: list[str]) -> list[str]:
    """At most three known names that differ little from `name`; numbers are compared only where that decides."""
    number = re.compile(r"\d+")
    templates: dict[str, list[str]] = {}
    for one in known:
        templates.setdefault(number.sub("0", one), []).append(one)
    close = difflib.get_close_matches(number.sub("0", name), templates, n=3)
    numbers = number.findall(name)
    return [min(templates[one], key=lambda full: number.findall(full) != numbers) for one in close]


def _kind_of_part(owner: Module, shape: tuple[int, ...]) -> ModuleKind:
    """Of a module that is now a part of `owner`: one expert of a stack was an nn.Linear."""
    if owner.kind is ModuleKind.EXPERTS and len(shape) == 2:
        return ModuleKind.LINEAR
    return owner.kind


def _meaning(site: Site) -> object:
    """Equal for two sites that are one place on disk; a module of which nothing is on disk is told by its path."""
    places = {(place.tensor, place.block) for blocks in site.placements.values() for place in blocks}
    return places or site.module.path
