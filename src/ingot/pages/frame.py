"""The frame around every page, the links between pages, and what all pages write alike."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote, urlencode, urlsplit

from ingot.pages.site import Site
from ingot.plan.public import public_name
from ingot.registry.entry import Entry, State
from ingot.validate.report.page.markup import Child, Html, join, name_of, tag

STYLE, ICON = "/style.css", "/icon.svg"
#: Digits of a digest that people are shown.
SHOWN = 12
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PLACES = (("/", "Artifacts"), ("/lineage", "Lineage"), ("/diff", "Compare"))


def page(title: str, *content: Child, site: Site | None = None, here: str = "") -> str:
    """A whole page. `here` is the address of the place in the navigation that it belongs to."""
    links = (
        tag("li", tag("a", name, href=address, aria_current="page" if address == here else None))
        for address, name in _PLACES
    )
    root = str(site.registry.layout.root) if site else None
    body = tag(
        "body",
        tag("a", "Skip to the content", href="#content", class_="skip"),
        tag("nav", tag("ul", *links), aria_label="Registry"),
        tag("main", *content, id="content"),
        tag("footer", tag("p", "Registry ", tag("code", name_of(root)), ", read-only")) if root else None,
        class_="registry",
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{title} – ingot registry"),
        tag("link", rel="icon", href=ICON, type="image/svg+xml"),
        tag("link", rel="stylesheet", href=STYLE),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def message(title: str, *sentences: str) -> str:
    """A small page that says what is wrong, and the way home."""
    return page(
        title,
        tag("h1", title),
        *(tag("p", sentence, class_="lede") for sentence in sentences),
        tag("p", tag("a", "All artifacts", href="/")),
    )


def section(title: str, *content: Child, note: str = "") -> Html:
    """A part of a page under its heading."""
    name = re.sub(r"[^a-z]+", "-", title.lower())
    lead = tag("p", note, class_="lead") if note else None
    return tag("section", tag("h2", title, id=name), lead, *content, aria_labelledby=name)


def facts(pairs: Sequence[tuple[str, Child]]) -> Html:
    """Names and what they are; those without are left out."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", text)) for name, text in pairs if text), class_="facts")


def address(path: str, **query: str) -> str:
    """An address on this site. Example: address("/", q="a b") -> "/?q=a+b" """
    given = {key: value for key, value in query.items() if value}
    return quote(path) + (f"?{urlencode(given, errors='surrogatepass')}" if given else "")


def artifact_address(identity: str) -> str:
    return address(f"/artifact/{identity}")


def artifact_link(entry: Entry) -> Html:
    return tag("a", name_of(entry.name), href=artifact_address(entry.identity))


def origin_address(sha256: str) -> str:
    """The page of an adapter or a base, by the digest of its weights."""
    return address(f"/input/{sha256}")


def run_address(run: str) -> str | None:
    """A training run's own page on the web, None where its name is no address of one."""
    try:
        parts = urlsplit(run)
    except ValueError:
        return None
    whole = parts.scheme in ("http", "https") and parts.hostname and not re.search(r"[\s\x00-\x1f\x7f]", run)
    return run if whole else None


def run_link(run: str) -> Html:
    """A training run: a link where it has a page, else its name."""
    to = run_address(run)
    return tag("a", name_of(run), href=to, rel="noreferrer") if to else tag("span", name_of(run))


def digest(sha256: str | None, *, whole: bool = False) -> Html | None:
    """A digest, its beginning where the place is small; a pointer that rests on it is told all of it."""
    if not sha256:
        return None
    text = sha256 if whole else sha256[:SHOWN]
    return tag("code", text, title=None if whole else sha256, class_="digest" if whole else None)


def short(value: str | None) -> Html:
    """One side of a change."""
    if value is None:
        return tag("span", "none", class_="muted")
    found = digest(value) if _DIGEST.fullmatch(value) else None
    return found or name_of(value)


def state(entry: Entry) -> Html:
    told = {
        State.HERE: "whole, in the registry",
        State.ELSEWHERE: "whole, where it was made",
        State.FREED: "its record is left, from which it can be made again",
    }
    return tag("span", str(entry.state), class_=f"state {entry.state}", title=told[entry.state])


def tags(names: Sequence[str]) -> Html | None:
    return join((tag("span", name, class_="tag") for name in names), " ") if names else None


def public(name: str, version: str | None) -> str:
    """An input's name and version."""
    return public_name(name) + (f" {version}" if version else "")


def day(time: str) -> Html:
    """The day of an RFC 3339 time."""
    return tag("time", time[:10], datetime=time, title=time)
