"""From an address to its page. No part of an address becomes a path: it is looked up among what is known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib.resources import files
from urllib.parse import parse_qsl, unquote, urlsplit

from ingot.errors import IngotError
from ingot.pages import artifact, compare, frame, lineage, listing, origin
from ingot.pages.site import Site
from ingot.registry.layout import Layout
from ingot.validate.report import page as report_page

_NOTHING = "default-src 'none'; base-uri 'none'; frame-ancestors 'none'"
_OWN = f"{_NOTHING}; style-src 'self'; img-src 'self'; form-action 'self'"
#: A report brings its own style, and rules for itself that allow no more than that one; it gets no origin.
_REPORT = f"sandbox; {_NOTHING}; style-src 'unsafe-inline'; form-action 'none'"
_HTML = "text/html; charset=utf-8"
_ARTIFACT = re.compile(r"/artifact/([0-9a-f]{64})(/report)?")
_INPUT = re.compile(r"/input/([0-9a-f]{64})")
_NAMED = re.compile(r"/artifact/(.+)")
_MOST_FIELDS = 20


@dataclass(frozen=True)
class Answer:
    """What goes back; `policy` is its content security policy."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    type: str = _HTML
    policy: str = _OWN
    headers: Mapping[str, str] = field(default_factory=dict)


def answer(layout: Layout, target: str) -> Answer:
    """The answer to a request for `target`, a path and a query."""
    try:
        parts = urlsplit(target)
        pairs = parse_qsl(parts.query, keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        return refused(HTTPStatus.BAD_REQUEST, "The address cannot be read.")
    if parts.path == frame.STYLE:
        return Answer(_style(), type="text/css; charset=utf-8")
    if parts.path == frame.ICON:
        return Answer(files(__package__).joinpath("icon.svg").read_bytes(), type="image/svg+xml")
    try:
        return _page(Site.at(layout), parts.path, dict(reversed(pairs)))
    except IngotError as error:
        hint = [error.hint] if error.hint else []
        return refused(HTTPStatus.INTERNAL_SERVER_ERROR, *error.message.splitlines(), *hint)


def refused(status: HTTPStatus, *sentences: str, headers: Mapping[str, str] | None = None) -> Answer:
    """A small page that says why there is no other."""
    return Answer(_bytes(frame.message(status.phrase, *sentences)), status, headers=headers or {})


def _page(site: Site, path: str, query: Mapping[str, str]) -> Answer:
    text: str | None = None
    if path == "/":
        text = listing.render(site, query)
    elif path == "/lineage":
        text = lineage.render(site)
    elif path == "/diff":
        text = compare.render(site, query)
    elif match := _INPUT.fullmatch(path):
        text = origin.render(site, match[1])
    elif match := _ARTIFACT.fullmatch(path):
        entry = site.by_identity.get(match[1])
        if entry is not None and match[2] and site.has_report(entry):
            return Answer(site.report(entry), policy=_REPORT)
        if entry is not None and not match[2]:
            text = artifact.render(site, entry)
    elif match := _NAMED.fullmatch(path):
        return _named(site, unquote(match[1]))
    if text is None:
        return refused(HTTPStatus.NOT_FOUND, "The registry has nothing at this address.")
    return Answer(_bytes(text))


def _named(site: Site, name: str) -> Answer:
    """To the page of what has this tag or name now: an address that stays while versions go."""
    entry = next((one for one in site.entries if name in one.tags), None)
    entry = entry or next((one for one in site.entries if one.name == name), None)
    if entry is None:
        return refused(HTTPStatus.NOT_FOUND, "No artifact has this name or tag.")
    to = frame.artifact_address(entry.identity)
    return Answer(b"", HTTPStatus.SEE_OTHER, headers={"Location": to})


def _style() -> bytes:
    """The look of the page of an evaluation, and what the registry's pages have beside."""
    shared = files(report_page.__name__).joinpath("page.css").read_bytes()
    return shared + files(__package__).joinpath("ui.css").read_bytes()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")
