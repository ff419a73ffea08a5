"""What an artifact was made of, and by which recipe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields

import msgspec

from ingot.pages import frame
from ingot.pages.site import Site
from ingot.plan.figures import counted, nbytes_text
from ingot.plan.model import Options
from ingot.record.statement import Record
from ingot.registry.entry import Adapter, Entry, Facts, File
from ingot.validate.report.page.markup import Child, Html, join, name_of, table, tag


def inputs(site: Site, entry: Entry) -> Iterator[Html]:
    """The base and every adapter, each with its files."""
    facts, parents = entry.facts, dict(site.family.parents(entry))
    yield _input(facts, "base", "Base", parents.get("base"), [
        ("Revision", facts.base_revision),
        ("Commit", frame.digest(facts.base_commit, whole=True)),
    ])  # fmt: skip
    for number, adapter in enumerate(facts.adapters):
        role = str(number)
        title = "Adapter" if len(facts.adapters) == 1 else f"Adapter {number + 1}"
        yield _input(facts, role, title, parents.get(role), list(_adapter(adapter)))


def _input(facts: Facts, role: str, title: str, parent: Entry | None, told: list[tuple[str, Child]]) -> Html:
    if role == "base":
        name = frame.public(facts.base, facts.base_version)
    else:
        adapter = facts.adapters[int(role)]
        name = frame.public(adapter.name, adapter.version)
    weights, files = facts.weights(role), facts.inputs(role)
    link = tag("a", name_of(name), href=frame.origin_address(weights.sha256)) if weights else name_of(name)
    which = join(("is ", frame.artifact_link(parent))) if parent else None
    pairs: list[tuple[str, Child]] = [("Name", link), ("Artifact", which), *told]
    if weights:
        pairs.append(("Weights", frame.digest(weights.sha256, whole=True)))
    return tag("div", tag("h3", title), frame.facts(pairs), _files(files), class_="input")


def _adapter(adapter: Adapter) -> Iterator[tuple[str, Child]]:
    ranks, alphas = ", ".join(map(str, adapter.ranks)), ", ".join(f"{alpha:g}" for alpha in adapter.alphas)
    shape = [f"rank {ranks}" if ranks else "", f"alpha {alphas}" if alphas else "", f"weight {adapter.weight:g}"]
    run = adapter.training_run
    fits = {True: "this base", False: "another base", None: "a name that cannot prove to be this base"}
    yield "Method", ", ".join([adapter.method, *(part for part in shape if part)])
    yield "Training run", frame.run_link(run) if run else tag("span", "not told in the recipe", class_="muted")
    yield "Trained on", f"{adapter.claimed_base} ({fits[adapter.matches]})" if adapter.claimed_base else None
    yield "Revision", adapter.revision
    yield "Commit", frame.digest(adapter.commit, whole=True)


def _files(files: tuple[File, ...]) -> Html | None:
    if not files:
        return None
    rows = [
        (name_of(file.name), nbytes_text(file.nbytes), frame.digest(file.sha256, whole=True))
        for file in sorted(files, key=lambda file: (-file.nbytes, file.name))
    ]
    whole = f"{counted(len(files), 'file')}, {nbytes_text(sum(file.nbytes for file in files))}"
    return tag(
        "details", tag("summary", whole),
        table("What went in", ("File", "Size", "sha256"), rows, classes="files", numbers=frozenset({1})),
    )  # fmt: skip


def recipe(record: Record) -> Iterator[Html]:
    """The options that are not the default, the tools, and the recipe file as far as it is recorded."""
    default, options = Options(), record.recipe.options
    asked: list[tuple[str, Child]] = [
        (field.name.strip("_").replace("_", " "), _text(getattr(options, field.name)))
        for field in fields(Options)
        if getattr(options, field.name) != getattr(default, field.name)
    ]
    yield frame.facts(asked) if asked else tag("p", "All options are the defaults.", class_="muted")
    internals = record.internals
    tools = [f"{name} {version}" for name, version in internals.libraries.items()]
    yield tag("h3", "Tools")
    yield frame.facts([("ingot", internals.ingot), ("Device", internals.device), ("Libraries", ", ".join(tools))])
    release = record.recipe.release
    if release is not None and release.recipe is not None:
        yield tag("h3", "Recipe file, with names in the place of paths")
        yield tag("pre", _text(release.recipe), tabindex=0, aria_label="The recipe")


def _text(value: object) -> str:
    """A value of a recipe for people."""
    plain = msgspec.to_builtins(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False, indent=2)
