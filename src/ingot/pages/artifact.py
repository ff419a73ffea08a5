"""One artifact: what it is, what it was made of, what was found of it, what it is called."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from ingot.errors import CheckFailed, IngotError
from ingot.pages import frame
from ingot.pages.drawing import draw
from ingot.pages.graph import around
from ingot.pages.listing import notices, rows_of
from ingot.pages.making import inputs, recipe
from ingot.pages.scores import evaluations
from ingot.pages.site import Site
from ingot.plan.figures import counted, nbytes_text
from ingot.record.card import CARD_NAME
from ingot.registry.entry import Entry, File, State
from ingot.storage.inputs import InputFile
from ingot.validate.report.page.markup import Child, Html, name_of, table, tag

_MOST_CARD_NBYTES = 1 << 20


def render(site: Site, entry: Entry) -> str:
    """The page. Raises CheckFailed, UnsafeInputError: the record cannot be believed."""
    record = site.registry.record(entry)
    made = site.family.descendants([entry])
    graph = around(site.family, entry)
    return frame.page(
        entry.name,
        _banner(site, entry),
        notices(site),
        frame.section("Lineage", draw(graph, f"What {entry.name} was made of", f"artifact {entry.identity}")),
        frame.section("Made of", *inputs(site, entry)),
        frame.section("Made of it", rows_of(made, counted(len(made), "artifact"))) if made else None,
        frame.section("Scores", *evaluations(record)),
        frame.section("Files", files(entry.facts.outputs, "What the artifact consists of, beside its record")),
        frame.section("Tags", _tag_history(site, entry)),
        frame.section("Recipe", *recipe(record)),
        frame.section("Card", *_card(site, entry)),
        site=site,
    )


def _banner(site: Site, entry: Entry) -> Html:
    facts = entry.facts
    rebuild = tag("code", f"ingot registry rebuild {entry.identity[: frame.SHOWN]}")
    freed = tag("span", "freed: its record is left, and ", rebuild, " makes it again")
    version = f" {facts.version}" if facts.version else ""
    title = tag("p", facts.title, version, class_="eyebrow")
    return tag(
        "header",
        title,
        tag("h1", name_of(entry.name)),
        tag("p", frame.state(entry), " ", frame.tags(entry.tags), class_="chips"),
        frame.facts([
            ("Format", f"{facts.format}, {nbytes_text(facts.nbytes)}, {', '.join(facts.dtypes)}"),
            ("Made", tag("span", frame.day(facts.made_on), f" by ingot {facts.ingot}, method {facts.method}")),
            ("Place", freed if entry.state is State.FREED else tag("code", name_of(entry.place or ""))),
            ("Identity", frame.digest(facts.identity, whole=True)),
            ("Plan", frame.digest(facts.plan_digest, whole=True)),
            ("Recipe file", frame.digest(facts.recipe_sha256, whole=True)),
        ]),
        tag("div", *_actions(site, entry), class_="actions"),
        class_="banner",
    )  # fmt: skip


def _actions(site: Site, entry: Entry) -> Iterator[Child]:
    if site.has_report(entry):
        yield tag("a", "Report of the evaluation", href=f"{frame.artifact_address(entry.identity)}/report")
    others = [other for other in site.entries if other.identity != entry.identity]
    if others:
        options = (tag("option", other.name, value=other.identity) for other in others)
        yield tag(
            "form",
            tag("input", type="hidden", name="a", value=entry.identity),
            tag("label", "Compare with", for_="b"),
            tag("select", *options, name="b", id="b"),
            tag("button", "Compare"),
            action="/diff", method="get", class_="find",
        )  # fmt: skip


def files(given: tuple[File, ...], caption: str) -> Html:
    """Files with size and whole digest."""
    rows = [
        (name_of(file.name), nbytes_text(file.nbytes), frame.digest(file.sha256, whole=True))
        for file in sorted(given, key=lambda file: (-file.nbytes, file.name))
    ]
    return table(caption, ("File", "Size", "sha256"), rows, classes="files", numbers=frozenset({1}))


def _tag_history(site: Site, entry: Entry) -> Html:
    """What its tags meant before, and what it was called before."""
    told = [one for one in site.tags.history if one.identity == entry.identity or one.tag in entry.tags]
    if not told:
        return tag("p", "It never had a tag.", class_="muted")
    return table("Every change, the oldest first", ("Tag", "Since", "Artifact"), [
        (tag("span", one.tag, class_="tag"), tag("time", one.time, datetime=one.time), _named(site, one.identity))
        for one in told
    ])  # fmt: skip


def _named(site: Site, identity: str | None) -> Html:
    if identity is None:
        return tag("span", "taken away", class_="muted")
    entry = site.by_identity.get(identity)
    return frame.artifact_link(entry) if entry else tag("code", identity[: frame.SHOWN])


def _card(site: Site, entry: Entry) -> Iterator[Html]:
    """The model card as it is written, and whether it still is the one that was recorded."""
    known = next((file for file in entry.facts.outputs if file.name == CARD_NAME), None)
    if known is None:
        yield tag("p", "The artifact has none.", class_="muted")
        return
    try:
        with InputFile.open(site.registry.folder(entry), CARD_NAME, error=CheckFailed) as file:
            data = file.read(0, min(file.nbytes, _MOST_CARD_NBYTES))
    except IngotError as error:
        yield tag("p", error.message, class_="notice")
        return
    if hashlib.sha256(data).hexdigest() != known.sha256:
        yield tag("p", "The card is not the one that was recorded: it was changed, or is very long.", class_="notice")
    shown = tag("pre", data.decode("utf-8", "replace"), tabindex=0, aria_label="The model card")
    yield tag("details", tag("summary", f"{CARD_NAME}, {nbytes_text(len(data))}"), shown)
