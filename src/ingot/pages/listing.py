"""All artifacts in a table. Sorting and filtering are links and a form: they need no script."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ingot.pages import frame
from ingot.pages.site import Site
from ingot.plan.figures import counted, nbytes_text
from ingot.registry.entry import Entry, Scores, State
from ingot.validate.report.page.head import badge
from ingot.validate.report.page.markup import Child, Html, table, tag
from ingot.validate.report.words import share_text

#: Column -> its key, and whether it begins with the largest.
_SORTS: dict[str, tuple[Callable[[Entry], tuple[object, ...]], bool]] = {
    "name": (lambda entry: (entry.name.casefold(),), False),
    "format": (lambda entry: (entry.facts.format, entry.name), False),
    "size": (lambda entry: (entry.facts.nbytes, entry.name), True),
    "state": (lambda entry: (str(entry.state), entry.name), False),
    "score": (lambda entry: (score if (score := _mean(entry)) is not None else -1.0, entry.name), True),
    "made": (lambda entry: (entry.facts.made_on, entry.name), True),
    "tags": (lambda entry: (not entry.tags, entry.tags, entry.name), False),
}
_FIGURES = frozenset({2, 4})


def render(site: Site, query: Mapping[str, str]) -> str:
    """`query`: q (words that all must be found), sort (a column), order ("up" or "down")."""
    words, sort = query.get("q", "").strip(), query.get("sort", "made")
    sort = sort if sort in _SORTS else "made"
    key, falling = _SORTS[sort]
    falling = {"up": False, "down": True}.get(query.get("order", ""), falling)
    found = sorted((one for one in site.entries if _matches(one, words)), key=key, reverse=falling)
    here = sum(entry.facts.nbytes for entry in found if entry.state is State.HERE)
    of = f" of {len(site.entries)}" if len(found) < len(site.entries) else ""
    caption = f"{counted(len(found), 'artifact')}{of}, {nbytes_text(here)} in the registry"
    head = [_head(name, words, sort, falling) for name in _SORTS]
    return frame.page(
        "Artifacts",
        tag("h1", "Artifacts"),
        notices(site),
        _form(words, sort, query.get("order", "")) if site.entries else None,
        table(caption, head, [row(entry) for entry in found], classes="artifacts", numbers=_FIGURES) if found else None,
        _nothing(site, words) if not found else None,
        site=site,
        here="/",
    )


def rows_of(entries: Sequence[Entry], caption: str) -> Html:
    """The same table, in the order given."""
    head = [name.capitalize() for name in _SORTS]
    return table(caption, head, [row(entry) for entry in entries], classes="artifacts", numbers=_FIGURES)


def row(entry: Entry) -> tuple[Child, ...]:
    facts = entry.facts
    return (
        frame.artifact_link(entry), _narrow("format", facts.format), _narrow("size", nbytes_text(facts.nbytes)),
        _narrow("state", frame.state(entry)), _narrow("score", _score(facts.scores)),
        _narrow("made", frame.day(facts.made_on)), _narrow("tags", frame.tags(entry.tags) or "–"),
    )  # fmt: skip


def notices(site: Site) -> Html | None:
    """What was left out of the registry, so that nothing is missing without a word."""
    faults = site.faults
    if not faults:
        return None
    items = (tag("li", fault) for fault in faults[:20])
    more = tag("li", f"and {len(faults) - 20:,} more") if len(faults) > 20 else None
    return tag("div", tag("strong", "Not all could be read"), tag("ul", *items, more), class_="notice", role="status")


def _narrow(label: str, cell: Child) -> Html:
    """A cell, with its column's name where there is no room for the head."""
    return tag("span", tag("span", label, class_="label", aria_hidden="true"), tag("span", cell), class_="cell")


def _mean(entry: Entry) -> float | None:
    return entry.facts.scores.mean if entry.facts.scores else None


def _score(scores: Scores | None) -> Html:
    if scores is None:
        return tag("span", "–", class_="muted", title="not evaluated")
    text = share_text(scores.mean) or "–"
    kind = "pass" if scores.ok else "fail"
    told = "every gate passed" if scores.ok else "a gate failed"
    return tag("span", badge(kind), " ", text, tag("span", f", {told}", class_="spoken"), class_=kind, title=told)


def _head(name: str, words: str, sort: str, falling: bool) -> Html:
    if name == sort:
        order = "up" if falling else "down"
        arrow = tag("span", "↓" if falling else "↑", class_="arrow", aria_hidden="true")
        spoken = tag("span", f", sorted {'falling' if falling else 'rising'}", class_="spoken")
    else:
        order, arrow, spoken = "", None, None
    to = frame.address("/", q=words, sort=name, order=order)
    return tag("a", name.capitalize(), arrow, spoken, href=to, class_="chosen" if name == sort else None)


def _form(words: str, sort: str, order: str) -> Html:
    return tag(
        "form",
        tag("label", "Find", for_="q"),
        tag("input", type="search", id="q", name="q", value=words, autocomplete="off", spellcheck="false",
            placeholder="name, format, adapter, run, tag, digest"),
        tag("input", type="hidden", name="sort", value=sort) if sort != "made" else None,
        tag("input", type="hidden", name="order", value=order) if order in ("up", "down") else None,
        tag("button", "Filter"),
        tag("a", "Show all", href=frame.address("/", sort=sort, order=order)) if words else None,
        action="/", method="get", role="search", class_="find",
    )  # fmt: skip


def _matches(entry: Entry, words: str) -> bool:
    if not words:
        return True
    facts = entry.facts
    texts = [entry.name, facts.title, facts.version, facts.format, facts.base, facts.base_version, str(entry.state)]
    texts += entry.tags
    for adapter in facts.adapters:
        texts += [adapter.name, adapter.version, adapter.training_run]
    whole = "\n".join(text for text in texts if text).casefold()
    digests = [facts.identity, *(file.sha256 for file in facts.files)]
    return all(
        word in whole or (len(word) >= 6 and any(one.startswith(word) for one in digests))
        for word in words.casefold().replace("sha256:", "").split()
    )


def _nothing(site: Site, words: str) -> Html:
    if site.entries:
        return tag("p", "No artifact has all of “", words, "” in its name, format, base, adapters, tags or digests.")
    return tag(
        "p", "There is no artifact yet: ", tag("code", "ingot release RECIPE.yaml"), " makes some, and ",
        tag("code", "ingot registry add ARTIFACT"), " takes note of one that is there.", class_="lede",
    )  # fmt: skip
