"""Tied embeddings: one tensor on disk is two parameters in the model (`embed_tokens` and `lm_head`).

An adapter that changes one of them, or both differently, unties them: the output then has an explicit head, and
`tie_word_embeddings` becomes false. They stay tied where both changes are one and the same:
- rows of trained tokens, which PEFT trains for both at once;
- the copies that PEFT saves of a resized embedding and its head, which were one tensor in training;
- an update of both whose factors are each other's transposes (`ensure_weight_tying`);
- an update that acted on both in training (MLX).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ingot.adapters.factor import Factor
from ingot.adapters.terms import LowRank, Replace, ReplaceRows, Term
from ingot.errors import MismatchError
from ingot.naming import Names
from ingot.plan.resolve import ResolvedEdit

#: Untying these changes the forward pass itself: T5's decoder scales its output only while the head is tied.
_SCALED_WHEN_TIED = frozenset({"t5", "mt5", "umt5", "longt5", "pop2piano", "switch_transformers", "udop"})

#: Are two factors the same numbers? Reads the two adapter tensors; asked only where a tie depends on it.
SameValues = Callable[[Factor, Factor], bool]


@dataclass(frozen=True)
class Ties:
    """What becomes of the tied parameters.

    Attributes:
        untied: alias parameters that get a tensor of their own, with the parameter whose tensor they start from.
        parted: aliases that have a tensor of their own already, and now other values than what they were tied to.
        absorbed: edits of an alias that are the same change as that of its source, and so are applied once.
        inherited: edits of the source that an untied alias without edits of its own shares.
        mirrored: the same for an alias that has a tensor of its own on disk.
    """

    untied: Mapping[str, str]
    parted: tuple[str, ...]
    absorbed: tuple[ResolvedEdit, ...]
    inherited: Mapping[str, Sequence[ResolvedEdit]]
    mirrored: tuple[ResolvedEdit, ...]


#: Is this whole tensor only a copy of what the model had, and not trained by itself (`modules_to_save`)?
IsCopy = Callable[[ResolvedEdit], bool]


def decide(
    edits: Sequence[ResolvedEdit], names: Names, config: Mapping[str, object], same: SameValues, is_copy: IsCopy
) -> Ties:
    """What becomes of the parameters that the model ties.

    Raises:
        MismatchError: untying would change what the model computes.
    """
    found = _Found({}, [], [], {}, [])
    for alias, source in {**names.tied, **names.stored_twice}.items():
        on_alias = [e for e in edits if e.parameter == alias]
        on_source = [e for e in edits if e.parameter == source]
        shared = [e for e in on_source if isinstance(e.edit.term, ReplaceRows) or is_copy(e) or _acts_on_ties(e)]
        twice = alias in names.stored_twice
        if not on_alias and twice:
            found.mirrored.extend(_mirrored(e, alias, names) for e in shared)
        if not on_alias and len(shared) == len(on_source):
            continue
        if _same_change(on_alias, on_source, same, is_copy):
            found.absorbed.extend(() if twice else on_alias)
            continue
        if config.get("model_type") in _SCALED_WHEN_TIED:
            raise MismatchError(
                "this adapter would untie embedding and head, which changes how this model scales its output",
                where=alias,
                hint="Train again without a LoRA on shared embeddings or lm_head, or serve this adapter unmerged.",
            )
        if twice:
            found.parted.append(alias)
            continue
        found.untied[alias] = source
        if not on_alias:
            found.inherited[alias] = shared
    if found.untied or found.parted:
        _part_the_rest(found, edits, names.tied)
    return Ties(found.untied, tuple(found.parted), tuple(found.absorbed), found.inherited, tuple(found.mirrored))


def _acts_on_ties(item: ResolvedEdit) -> bool:
    return getattr(item.update, "acts_on_ties", False) is True


@dataclass
class _Found:
    untied: dict[str, str]
    parted: list[str]
    absorbed: list[ResolvedEdit]
    inherited: dict[str, list[ResolvedEdit]]
    mirrored: list[ResolvedEdit]


def _part_the_rest(found: _Found, edits: Sequence[ResolvedEdit], tied: Mapping[str, str]) -> None:
    """One flag in config.json ties them all: where it is off, every alias that stayed tied is stored on its own."""
    for alias, source in tied.items():
        if alias not in found.untied:
            found.untied[alias] = source
            if not any(item.parameter == alias for item in edits):
                found.inherited[alias] = [item for item in edits if item.parameter == source]
    found.absorbed.clear()


def _mirrored(item: ResolvedEdit, alias: str, names: Names) -> ResolvedEdit:
    site, own = names.parameter(alias)
    return replace(item, site=site, edit=replace(item.edit, parameter=own))


def _same_change(one: Sequence[ResolvedEdit], other: Sequence[ResolvedEdit], same: SameValues, is_copy: IsCopy) -> bool:
    return len(one) == len(other) and all(
        (is_copy(a) and is_copy(b)) or (a.adapter == b.adapter and _same_term(a.edit.term, b.edit.term, same))
        for a, b in zip(one, other, strict=True)
    )


def _same_term(one: Term, other: Term, same: SameValues) -> bool:
    if isinstance(one, LowRank) and isinstance(other, LowRank):
        return one.scaling == other.scaling and same(one.left, other.left) and same(one.right, other.right)
    if isinstance(one, Replace) and isinstance(other, Replace):
        return same(one.values, other.values)
    if isinstance(one, ReplaceRows) and isinstance(other, ReplaceRows):
        return one.indices == other.indices and same(one.values, other.values)
    return False
