"""Who was made of what, as nodes and edges: training runs → adapters, with a base → artifacts → more artifacts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ingot.plan.figures import nbytes_text
from ingot.plan.public import public_name
from ingot.registry.entry import Entry, File, State
from ingot.registry.lineage import is_weights

#: Artifacts in one graph. More are a tangle; each has a graph of its own around it.
MOST = 60


class Kind(StrEnum):
    RUN = "training run"
    ADAPTER = "adapter"
    BASE = "base"
    ARTIFACT = "artifact"


@dataclass(frozen=True)
class Node:
    """`value` is what a link needs: a run's name, an input's weights digest (empty: unknown), an identity."""

    kind: Kind
    value: str
    title: str
    note: str = ""
    tags: tuple[str, ...] = ()
    freed: bool = False


@dataclass(frozen=True)
class Graph:
    """`nodes` by key; an edge leads from what went in to what came out of it; `left_out`: artifacts beyond MOST."""

    nodes: dict[str, Node]
    edges: tuple[tuple[str, str], ...]
    left_out: int = 0


class Family:
    """The artifacts of a registry, and which came out of which: by the digests of weights files."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)
        self._by_weights: dict[frozenset[str], list[Entry]] = {}
        for entry in entries:
            self._by_weights.setdefault(_weights(entry.facts.outputs), []).append(entry)
        self._children: dict[str, list[Entry]] = {}
        for entry in entries:
            for parent in {parent.identity: parent for _, parent in self.parents(entry)}.values():
                self._children.setdefault(parent.identity, []).append(entry)

    def parents(self, entry: Entry) -> Iterator[tuple[str, Entry]]:
        """The inputs that are artifacts: ("base" or an adapter's number, artifact)."""
        for role in roles(entry):
            weights = _weights(entry.facts.inputs(role))
            for other in self._by_weights.get(weights, ()) if weights else ():
                if other.identity != entry.identity:
                    yield role, other
                    break

    def ancestors(self, entry: Entry) -> list[Entry]:
        return self._closure([parent for _, parent in self.parents(entry)], up=True)

    def descendants(self, sources: Iterable[Entry]) -> list[Entry]:
        """All that was made of these, directly or through others."""
        return self._closure(
            [child for source in sources for child in self._children.get(source.identity, ())], up=False
        )

    def users(self, sha256: str) -> list[Entry]:
        """Artifacts that were made of the base or adapter with these weights, the newest first."""
        return [entry for entry in self.entries if uses(entry, sha256)]

    def _closure(self, waiting: list[Entry], *, up: bool) -> list[Entry]:
        found: dict[str, Entry] = {}
        while waiting:
            entry = waiting.pop(0)
            if entry.identity not in found:
                found[entry.identity] = entry
                waiting += (
                    [parent for _, parent in self.parents(entry)] if up else self._children.get(entry.identity, [])
                )
        return list(found.values())


def around(family: Family, entry: Entry) -> Graph:
    """An artifact: all that it was made of, and the artifacts made of it."""
    return _graph(family, [entry, *family.ancestors(entry)], family.descendants([entry]))


def forward(family: Family, sha256: str) -> Graph:
    """An input, by the digest of its weights: the artifacts made of it."""
    users = family.users(sha256)
    whole = _graph(family, users, family.descendants(users))
    own = f"input {sha256}"
    runs = {one for one, other in whole.edges if other == own}
    kept = {key: node for key, node in whole.nodes.items() if node.kind is Kind.ARTIFACT or key == own or key in runs}
    return Graph(kept, tuple(edge for edge in whole.edges if edge[0] in kept and edge[1] in kept), whole.left_out)


def everything(family: Family) -> Graph:
    """The newest artifacts with all their inputs."""
    return _graph(family, family.entries, [])


def roles(entry: Entry) -> tuple[str, ...]:
    """ "base", and the numbers of the adapters."""
    return ("base", *(str(number) for number in range(len(entry.facts.adapters))))


def uses(entry: Entry, sha256: str) -> list[str]:
    """The roles of the inputs of an artifact that are known by this digest of their weights."""
    weights = {role: entry.facts.weights(role) for role in roles(entry)}
    return [role for role, file in weights.items() if file is not None and file.sha256 == sha256]


def _graph(family: Family, whole: Sequence[Entry], bare: Sequence[Entry]) -> Graph:
    """Artifacts with all that went into them, and others only with those of their parents that are in the graph.

    Both are cut where they are too many to be drawn, so the nearest or newest come first.
    """
    total = len({entry.identity for entry in (*whole, *bare)})
    whole = whole[:MOST]
    bare = bare[: MOST - len(whole)]
    nodes: dict[str, Node] = {}
    edges: dict[tuple[str, str], None] = {}
    full = {entry.identity for entry in whole}
    shown = {entry.identity: entry for entry in (*whole, *bare)}
    for entry in shown.values():
        nodes[_key(entry)] = _artifact(entry)
    for entry in shown.values():
        parents = dict(family.parents(entry))
        for role in roles(entry):
            parent = parents.get(role)
            if parent is not None and parent.identity in shown:
                edges[_key(parent), _key(entry)] = None
            elif entry.identity in full:
                key, node, run = _input(entry, role)
                nodes.setdefault(key, node)
                edges[key, _key(entry)] = None
                if run:
                    nodes.setdefault(f"run {run}", Node(Kind.RUN, run, run))
                    edges[f"run {run}", key] = None
    return Graph(nodes, tuple(edges), total - len(shown))


def _key(entry: Entry) -> str:
    return f"artifact {entry.identity}"


def _artifact(entry: Entry) -> Node:
    note = f"{entry.facts.format}, {nbytes_text(entry.facts.nbytes)}"
    return Node(Kind.ARTIFACT, entry.identity, entry.name, note, entry.tags, entry.state is State.FREED)


def _input(entry: Entry, role: str) -> tuple[str, Node, str | None]:
    """Key, node and training run of one input."""
    facts = entry.facts
    weights = facts.weights(role)
    digest = weights.sha256 if weights else ""
    if role == "base":
        kind, name, version, run = Kind.BASE, facts.base, facts.base_version, None
    else:
        adapter = facts.adapters[int(role)]
        kind, name, version, run = Kind.ADAPTER, adapter.name, adapter.version, adapter.training_run
    title = public_name(name) + (f" {version}" if version else "")
    return f"input {digest or name}", Node(kind, digest, title, digest[:12]), run


def _weights(files: Iterable[File]) -> frozenset[str]:
    return frozenset(file.sha256 for file in files if is_weights(file.name))
