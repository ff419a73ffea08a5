"""Names for adapter_config.json that PEFT matches with exactly the modules that are meant, and no other."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence


def last(path: str) -> str:
    """The last name of a path."""
    return path.rpartition(".")[2]


def ancestry(path: str) -> list[str]:
    """The path and those of the modules that it stands in, outermost first; none of the model's own."""
    parts = path.split(".") if path else []
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]


def inside(path: str, tops: Collection[str]) -> bool:
    """Whether a module is one of `tops` or stands in one."""
    return any(one in tops for one in ancestry(path))


def targets(chosen: Collection[str], everything: Iterable[str]) -> list[str] | str:
    """`target_modules` or `target_parameters`: the end of a path, from a dot on.

    Last names where all that bear one are chosen, else whole paths; a regular expression where no list is exact.

    Example: targets({"a.q", "b.q", "a.v"}, ["a", "a.q", "a.v", "b", "b.q", "b.v"]) -> ["a.v", "q"]
    """
    everything = list(everything)
    names = _shortest(chosen, everything, ".")
    if {path for path in everything if _ends(path, names, ".")} == set(chosen):
        return names
    return "|".join(re.escape(path) for path in sorted(chosen))


def saved(chosen: Collection[str], everything: Iterable[str]) -> tuple[list[str], frozenset[str]]:
    """`modules_to_save`, and all modules that PEFT then saves: those that are chosen, and what it saves with them.

    PEFT saves a module together with everything inside it, and compares the end of a path without asking for a dot.
    """
    everything = list(everything)
    whole = set(chosen)
    while True:
        tops = {path for path in whole if not inside(path.rpartition(".")[0], whole)}
        names = _shortest(tops, everything, "")
        matched = {path for path in everything if _ends(path, names, "")}
        more = {path for path in everything if inside(path, matched)} - whole
        if not more:
            return names, frozenset(whole)
        whole |= more


def _shortest(chosen: Collection[str], everything: Sequence[str], dot: str) -> list[str]:
    """Last names that match nothing but what is chosen, and whole paths for the rest."""
    names: set[str] = set()
    for name in {last(path) for path in chosen}:
        matched = {path for path in everything if _ends(path, [name], dot)}
        names |= {name} if matched <= set(chosen) else {path for path in chosen if last(path) == name}
    return sorted(names)


def _ends(path: str, names: Collection[str], dot: str) -> bool:
    return f"{dot}{path}".endswith(tuple(f"{dot}{name}" for name in names))
