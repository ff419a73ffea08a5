"""An adapter or a base, by the digest of its weights: what is known of it, and all that was made of it."""

from __future__ import annotations

from ingot.pages import frame
from ingot.pages.artifact import files
from ingot.pages.drawing import draw
from ingot.pages.graph import forward, uses
from ingot.pages.listing import notices, rows_of
from ingot.pages.site import Site
from ingot.plan.figures import counted, listed
from ingot.registry.entry import Entry
from ingot.validate.report.page.markup import join, name_of, tag


def render(site: Site, sha256: str) -> str | None:
    """The page; None where nothing was made of an input with these weights."""
    users = site.family.users(sha256)
    if not users:
        return None
    newest = users[0]  # entries are in that order
    role = uses(newest, sha256)[0]
    names = list(dict.fromkeys(_name(entry, sha256) for entry in users))
    every = {entry.identity: entry for entry in (*users, *site.family.descendants(users))}
    made = sorted(every.values(), key=lambda entry: (entry.facts.made_on, entry.name), reverse=True)
    what = "Base" if role == "base" else "Adapter"
    adapters = [entry.facts.adapters[int(own)] for entry in users for own in _numbers(entry, sha256)]
    runs = list(dict.fromkeys(adapter.training_run for adapter in adapters if adapter.training_run))
    methods = list(dict.fromkeys(adapter.method for adapter in adapters))
    return frame.page(
        names[0],
        tag(
            "header", tag("p", what, class_="eyebrow"), tag("h1", name_of(names[0])),
            frame.facts([
                ("Also called", listed(names[1:])),
                ("Method", ", ".join(methods)),
                ("Training run" if len(runs) < 2 else "Training runs", join(map(frame.run_link, runs), ", ")),
                ("Weights", frame.digest(sha256, whole=True)),
            ]),
            class_="banner",
        ),
        notices(site),
        frame.section("Lineage", draw(forward(site.family, sha256), f"What was made of {names[0]}", f"input {sha256}")),
        frame.section("Made of it", rows_of(made, counted(len(made), "artifact"))),
        frame.section("Files", files(newest.facts.inputs(role), "As they went into the newest artifact")),
        site=site,
    )  # fmt: skip


def _numbers(entry: Entry, sha256: str) -> list[str]:
    """Which of the artifact's adapters it is."""
    return [role for role in uses(entry, sha256) if role != "base"]


def _name(entry: Entry, sha256: str) -> str:
    numbers = _numbers(entry, sha256)
    if not numbers:
        return frame.public(entry.facts.base, entry.facts.base_version)
    adapter = entry.facts.adapters[int(numbers[0])]
    return frame.public(adapter.name, adapter.version)
