"""Which tensors an adapter's config speaks of and its file lacks.

PEFT fills such a gap with a layer that does nothing, and warns. A module that is missing from the file is either damage
or the sign of another base, so the plan asks: for every module of this base, would PEFT have trained it?
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ingot.adapters.adapter import Adapter
from ingot.adapters.keys import Role
from ingot.adapters.module import Module
from ingot.adapters.tokens import TokensUpdate
from ingot.errors import MismatchError
from ingot.naming import Names
from ingot.plan.replicate import Replication


def missing_tensors(adapter: Adapter, names: Names, replication: Replication) -> list[str]:
    """Names of tensors, without PEFT's prefix, that would have been saved for this base's modules.

    The adapter's patterns are held against paths in its own spelling: those of the model in memory, or, for an adapter
    of another era, those on disk.
    """
    missing: list[str] = []
    for path, module in _modules(adapter, names, replication):
        missing.extend(adapter.lacks(module, path=path))
    return [*missing, *_missing_tokens(adapter, names)]


def targeted(adapter: Adapter, names: Names, replication: Replication) -> tuple[str, ...]:
    """The paths, as the adapter spells them, of this base's modules that PEFT would put a layer on by its config."""
    return tuple(path for path, module in _modules(adapter, names, replication) if adapter.wraps(module, path))


def _modules(adapter: Adapter, names: Names, replication: Replication) -> Iterator[tuple[str, Module]]:
    """Every module of this base, by its path as the adapter spells it."""
    spelled = {update.path for update in adapter.updates}
    resolved = {_resolved(path, names, replication): path for path in spelled}
    for path, module in _candidates(spelled, names, replication):
        yield resolved.get((module.path, replication.base_path(path)[1]), path), module


def _missing_tokens(adapter: Adapter, names: Names) -> Iterator[str]:
    """A list of tokens means rows of the input embedding, which a tied head shares: never rows of the head alone."""
    if isinstance(adapter.config.trainable_token_indices, Mapping):
        return
    sites = [names.site(update.path) for update in adapter.updates if isinstance(update, TokensUpdate)]
    trained = {site.module.path for site in sites}
    for site in sites:
        source = names.tied.get(f"{site.module.path}.weight", "").removesuffix(".weight")
        if source and source not in trained:
            yield f"{source}.{Role.TOKENS}"


def _resolved(path: str, names: Names, replication: Replication) -> tuple[str, int | None]:
    base, layer = replication.base_path(path)
    return names.site(base).module.path, layer


def _candidates(spelled: set[str], names: Names, replication: Replication) -> Iterator[tuple[str, Module]]:
    bases = {replication.base_path(path)[0] for path in spelled}
    if bases <= names.modules.keys():
        for path, module in names.modules.items():
            for copy in replication.copies(path):
                yield copy, module
        return
    for path in dict.fromkeys(name.rpartition(".")[0] for name in names.on_disk):
        try:
            module = names.site(path).module
        except MismatchError:
            continue  # a tensor that is no module of the model class
        for copy in replication.copies(path):
            yield copy, module
