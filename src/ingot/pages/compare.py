"""Two artifacts, and what is not the same in them.

By itself a page compares what is recorded, and the bytes of small artifacts. To read large ones takes minutes, so that
is asked for with a link, and one page at a time does it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence

from msgspec.structs import replace

from ingot.errors import ResourceError
from ingot.pages import frame
from ingot.pages.site import Site
from ingot.plan.figures import counted, nbytes_text
from ingot.registry.difference import Change, Difference, diff
from ingot.registry.entry import Entry, State
from ingot.validate.report.page.markup import Child, Html, module_of, table, tag

#: Artifacts that are together no larger than this are read without being asked.
SMALL_NBYTES = 256 << 20
_MOST_TENSORS = 200
_reading = threading.Lock()


def render(site: Site, query: Mapping[str, str]) -> str | None:
    """`query`: a and b (identities), read ("1": read also large files). None where one of them is not known.

    Raises CheckFailed, InputChangedError, ResourceError.
    """
    known = site.by_identity
    if any(query.get(side) and query[side] not in known for side in "ab"):
        return None
    before, after = known.get(query.get("a", "")), known.get(query.get("b", ""))
    content: list[Child] = [tag("h1", "Compare"), _form(site, before, after)]
    if before is not None and after is not None:
        content += _compared(site, before, after, asked=query.get("read") == "1")
    return frame.page("Compare", *content, site=site, here="/diff")


def _form(site: Site, before: Entry | None, after: Entry | None) -> Html:
    if len(site.entries) < 2:
        return tag("p", "It takes two artifacts to compare.", class_="lede")

    def choice(name: str, label: str, chosen: Entry | None) -> Html:
        options = (
            tag("option", entry.name, value=entry.identity,
                selected=chosen is not None and chosen.identity == entry.identity)
            for entry in site.entries
        )  # fmt: skip
        return tag("span", tag("label", label, for_=name), tag("select", *options, name=name, id=name), class_="choice")

    chosen = (before or site.entries[min(1, len(site.entries) - 1)], after or site.entries[0])
    return tag(
        "form", choice("a", "From", chosen[0]), choice("b", "To", chosen[1]), tag("button", "Compare"),
        action="/diff", method="get", class_="find",
    )  # fmt: skip


def _compared(site: Site, before: Entry, after: Entry, *, asked: bool) -> Iterator[Html]:
    nbytes = before.facts.nbytes + after.facts.nbytes
    if nbytes <= SMALL_NBYTES:
        found = diff(site.registry, before, after)
    elif asked:
        found = _read(site, before, after)
    else:  # as if freed: then only recorded digests are compared
        found = diff(site.registry, *(replace(entry, state=State.FREED) for entry in (before, after)))
    yield tag("p", frame.artifact_link(before), " → ", frame.artifact_link(after), class_="lede")
    if found.nothing:
        yield tag("p", f"Nothing differs: {counted(found.same, 'tensor')} and all that was recorded are the same.")
        return
    for title, changes in (
        ("Inputs", found.inputs), ("Options", found.recipe), ("Tools", found.tools), ("Scores", found.scores),
    ):  # fmt: skip
        if changes:
            yield frame.section(title, _changes(title, changes))
    yield frame.section("Tensors", *_tensors(found), _offer(before, after, found, nbytes))


def _read(site: Site, before: Entry, after: Entry) -> Difference:
    """With all bytes that it takes; raises ResourceError where another page is at that."""
    if not _reading.acquire(blocking=False):
        raise ResourceError("another page is reading two artifacts", hint="Try again when it has come.")
    try:
        return diff(site.registry, before, after)
    finally:
        _reading.release()


def _changes(title: str, changes: Sequence[Change]) -> Html:
    rows = [(change.what, frame.short(change.before), frame.short(change.after)) for change in changes]
    return table(f"{title} that are not the same", ("What", "From", "To"), rows, classes="changes")


def _tensors(found: Difference) -> Iterator[Child]:
    yield tag("p", f"{counted(found.same, 'tensor')} the same, {len(found.tensors):,} not", class_="lead")
    if found.tensors:
        rows = [
            (module_of(one.name), one.how, frame.digest(one.before) or "–", frame.digest(one.after) or "–")
            for one in found.tensors[:_MOST_TENSORS]
        ]
        yield table("In the order of the files", ("Tensor", "What", "From", "To"), rows, classes="tensors")
    if len(found.tensors) > _MOST_TENSORS:
        yield tag("p", f"{len(found.tensors) - _MOST_TENSORS:,} more differ and are not shown.", class_="muted")


def _offer(before: Entry, after: Entry, found: Difference, nbytes: int) -> Html | None:
    """Of the tensors that the records cannot tell of."""
    if not found.unknown:
        return None
    said = f"{counted(len(found.unknown), 'tensor')} cannot be told from the records alone. "
    if State.FREED in (before.state, after.state):
        return tag("p", said, "An artifact was freed: ", tag("code", "ingot registry rebuild"), " makes it again.")
    to = frame.address("/diff", a=before.identity, b=after.identity, read="1")
    return tag("p", said, tag("a", f"Read their files ({nbytes_text(nbytes)})", href=to), ", which takes a while.")
