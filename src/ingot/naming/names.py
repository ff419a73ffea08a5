"""The one question of this room: which module is meant, and where do its parameters stand on disk?"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Protocol

from ingot.adapters.module import Module
from ingot.errors import BaseError, MismatchError, MissingComponent
from ingot.naming import fast, names_only, transformers_map
from ingot.naming.placement import Site
from ingot.naming.resolve import Resolver
from ingot.naming.table import Table

#: How configurations spell the number of layers.
DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers", "depth")


class HasShape(Protocol):
    """A tensor on disk, as much of it as naming needs."""

    @property
    def shape(self) -> tuple[int, ...]: ...


class Names:
    """The names of one checkpoint, as an adapter with this task sees them.

    Lazy: nothing is imported or built before a question needs it, and for the families of `fast` nothing of
    transformers ever is, as long as the questions are asked in the names on disk.

    Laws: the sites of all modules together cover every tensor on disk that is not in `unused` exactly once, and every
    parameter is covered exactly once, is in `tied`, or is in `absent`.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        config: Mapping[str, object],
        task: str | None,
        auto_class: str | None,
        num_labels: int | None,
    ) -> None:
        self._shapes, self._config = shapes, config
        self._task, self._auto_class, self._num_labels = task, auto_class, num_labels
        self._quick = fast.table(shapes, config, task=task, auto_class=auto_class)

    @classmethod
    def of(
        cls,
        tensors: Mapping[str, HasShape],
        config: Mapping[str, object],
        *,
        task: str | None = None,
        auto_class: str | None = None,
        num_labels: int | None = None,
    ) -> Names:
        """The names of a checkpoint.

        Args:
            tensors: what stands on disk, in the dense shapes that the checkpoint shows.
            config: the parsed config.json.
            task: the adapter's `task_type`.
            auto_class: the adapter's `auto_mapping.base_model_class`.
            num_labels: rows of the adapter's classification head.

        Raises:
            BaseError: the configuration asks for a model out of all proportion to its tensors.
        """
        _refuse_absurd_depth(config, len(tensors))
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        return cls(shapes, config, task, auto_class, num_labels)

    @property
    def model_class(self) -> str | None:
        """The transformers class, such as "LlamaForCausalLM"; None where only the names on disk are known."""
        return self._known.model_class

    @property
    def why(self) -> str | None:
        """Why `model_class` is None."""
        return self._known.why

    @property
    def tied(self) -> Mapping[str, str]:
        """Parameters that are not on disk because another one stands for them: full name of alias to that of source.

        Two parameters that the configuration ties but that are both on disk are in `stored_twice` instead.
        """
        return self._known.tied

    @property
    def stored_twice(self) -> Mapping[str, str]:
        """Parameters that the configuration ties although both are on disk: alias to source.

        transformers ties those when their values are equal. An edit of one alone parts them.
        """
        return self._known.stored_twice

    @property
    def absent(self) -> tuple[str, ...]:
        """Parameters of the model class that are neither on disk nor tied: a new head, a pooler that was not saved."""
        return self._known.absent

    @property
    def unused(self) -> tuple[str, ...]:
        """Tensors on disk that the model class does not use: the head of another task, extra prediction layers."""
        return self._known.unused

    @property
    def dense_in_bitsandbytes(self) -> tuple[str, ...]:
        """Patterns of module paths that transformers does not give to bitsandbytes, unless it is told otherwise."""
        return self._known.dense

    @property
    def modules(self) -> Mapping[str, Module]:
        """Every module of the model class by its in-memory path."""
        return self._known.modules

    @property
    def on_disk(self) -> Collection[str]:
        """The names of all tensors on disk."""
        return self._shapes.keys()

    def site(self, path: str) -> Site:
        """Where the module at an adapter's path (without `base_model.model.`) stands.

        Raises:
            MismatchError: the model has no such module, or two; or its parameters do not stand in blocks on disk.
            MissingComponent: the path is not a name on disk, and transformers is not installed to map it.
        """
        quick = self._quick
        if quick is not None and path in quick.modules and quick.modules[path].parameters:
            return quick.site(path)
        try:
            return self._resolver.site(path)
        except MismatchError as error:
            raise self._blame(error) from None

    def parameter(self, name: str) -> tuple[Site, str]:
        """The module of a parameter given by its full name, and the parameter's name within that module.

        A parameter without a tensor on disk has no placements; its alias is given where it is tied. Raises as `site`.
        """
        path, _, leaf = name.rpartition(".")
        quick = self._quick
        if quick is not None and path in quick.modules and leaf in quick.modules[path].parameters:
            return quick.site(path), leaf
        try:
            return self._resolver.parameter(name)
        except MismatchError as error:
            raise self._blame(error) from None

    def new_on_disk_name(self, parameter: str) -> str:
        """The tensor name under which a parameter that has no tensor yet must be written.

        In the style of the checkpoint: where that holds names of before transformers 5, so is this one.
        """
        return self._known.disk_name(parameter)

    @cached_property
    def _full(self) -> Table:
        if not transformers_map.is_available():
            return self._quick or names_only.table(self._shapes, why="transformers is not installed")
        try:
            return transformers_map.table(
                self._shapes,
                self._config,
                task=self._task,
                auto_class=self._auto_class,
                num_labels=self._num_labels,
            )
        except transformers_map.UnknownModel as error:
            return names_only.table(self._shapes, why=str(error))

    @property
    def _known(self) -> Table:
        return self._quick or self._full

    @cached_property
    def _resolver(self) -> Resolver:
        return Resolver(self._full)

    def _blame(self, error: MismatchError) -> MismatchError | MissingComponent:
        """Without a model class, a name that was not found may well exist."""
        if self._full.model_class is not None or transformers_map.is_available():
            return error
        return MissingComponent(
            "this name is not in the checkpoint as it is; mapping it needs transformers",
            where=error.where,
            hint=f"Run `{transformers_map.INSTALL}`.",
        )


def _refuse_absurd_depth(config: Mapping[str, object], tensors: int) -> None:
    """A model has at least one tensor a layer; a configuration that lies about it would take for ever to build."""
    parts = [config, *(value for value in config.values() if isinstance(value, dict))]
    for part in parts:
        for key in DEPTHS:
            layers = part.get(key)
            if isinstance(layers, int) and layers > max(tensors, 1000):
                raise BaseError(
                    "config.json asks for more layers than the checkpoint has tensors",
                    where=f"config.json: {key}",
                    expected=f"at most {tensors}",
                    found=layers,
                )
