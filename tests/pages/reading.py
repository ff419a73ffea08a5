"""A page, read by the standard library's parser: it must be whole, and tells its elements."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = frozenset({"input", "link", "meta", "wbr"})


@dataclass
class Element:
    name: str
    attributes: dict[str, str]
    text: str = ""
    parents: tuple[str, ...] = ()


@dataclass
class Page:
    elements: list[Element] = field(default_factory=list)

    def all(self, name: str) -> list[Element]:
        return [one for one in self.elements if one.name == name]

    @property
    def text(self) -> str:
        return self.all("html")[0].text

    @property
    def links(self) -> list[str]:
        return [one.attributes["href"] for one in self.all("a")]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.page = Page()
        self.open: list[Element] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute twice in {tag}"
        element = Element(tag, {name: value or "" for name, value in attrs}, "", tuple(one.name for one in self.open))
        self.page.elements.append(element)
        if tag not in _VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().name == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data


def read(html: str | bytes) -> Page:
    """The page. Fails where an element is not closed in order, an id stands twice, or a label names nothing."""
    text = html if isinstance(html, str) else html.decode("utf-8")
    assert text.startswith("<!DOCTYPE html>\n")
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    ids = [one.attributes["id"] for one in reader.page.elements if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    for one in reader.page.elements:
        for name in ("for", "aria-labelledby"):
            assert one.attributes.get(name, ids[0]) in ids
    return reader.page
