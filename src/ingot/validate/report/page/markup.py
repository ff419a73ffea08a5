"""HTML that cannot be broken by what it shows: text is escaped where it becomes an element's child.

`tag` takes plain strings as text and `Html` as markup; nothing else makes `Html`. Models' answers may hold anything:
control characters and bidirectional overrides are written out, so that what is seen is what is there.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Sequence


class Html(str):
    """Markup that is safe as it stands."""

    __slots__ = ()


#: What an element may hold: text, markup, or nothing.
Child = str | None

_VOID = frozenset({"input", "link", "meta", "wbr"})
_SPELLED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
#: Joiners that scripts and emoji need.
_KEPT = frozenset("\n\t\u200c\u200d")


def tag(name: str, /, *children: Child, **attributes: str | int | bool | None) -> Html:
    """An element. In attributes' names `_` stands for `-`, and one at the end falls away; None and False are left out.

    Example: tag("p", "a < b", class_="note") -> '<p class="note">a &lt; b</p>'
    """
    head = name + "".join(_attribute(key, value) for key, value in attributes.items())
    return Html(f"<{head}>") if name in _VOID else Html(f"<{head}>{join(children)}</{name}>")


def _attribute(key: str, value: str | int | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.removesuffix("_").replace("_", "-")
    if value is True:
        return f" {name}"
    return f' {name}="{html.escape(visible(str(value)))}"'


def join(children: Iterable[Child], between: str = "") -> Html:
    """Children one after the other; text among them is escaped."""
    return Html(between.join(_markup(child) for child in children if child is not None))


def _markup(child: str) -> str:
    return child if isinstance(child, Html) else html.escape(visible(child), quote=False)


def visible(text: str) -> str:
    """`text` with what has no shape, or turns the writing direction, spelled out. Example: "a\\x07" -> "a⟨U+0007⟩" """
    if text.isprintable():
        return text
    return "".join(f"⟨U+{ord(c):04X}⟩" if _hidden(c) else c for c in text)


def _hidden(character: str) -> bool:
    return character not in _KEPT and (unicodedata.category(character) in _SPELLED or ord(character) & 0xFFFE == 0xFFFE)


def name_of(text: str) -> Html:
    """A path or a file: lines break after its separators, not in its words."""
    return join(re.split(r"(?<=[./_-])(?=\w)", text), tag("wbr"))


def module_of(text: str) -> Html:
    """A module or a tensor: lines break after its dots."""
    return tag("code", join(re.split(r"(?<=\.)(?=\w)", text), tag("wbr")))


def prose(text: str) -> Html:
    """A sentence whose figures stay on one line with their percent signs."""
    return Html(join((text,)).replace(" %", "\u00a0%"))


def table(
    caption: str,
    head: Sequence[Child],
    rows: Iterable[Sequence[Child]],
    *,
    classes: str = "",
    numbers: frozenset[int] = frozenset(),
) -> Html:
    """A table whose first column names its rows; on a narrow screen each row becomes a block (see page.css).

    The roles are written out because a browser forgets them where a table is laid out as blocks.

    Args:
        numbers: columns of figures, set at the right.
    """
    right = ["number" if column in numbers else None for column in range(len(head))]
    heads = (
        tag("th", cell, scope="col", role="columnheader", class_=side) for cell, side in zip(head, right, strict=True)
    )
    names = [cell if isinstance(cell, str) and not isinstance(cell, Html) else None for cell in head]
    body = (
        tag(
            "tr",
            tag("th", row[0], scope="row", role="rowheader"),
            *(
                tag("td", cell, role="cell", class_=side, data_label=name)
                for cell, side, name in zip(row[1:], right[1:], names[1:], strict=True)
            ),
            role="row",
        )
        for row in rows
    )
    return tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *heads, role="row"), role="rowgroup"),
        tag("tbody", *body, role="rowgroup"),
        role="table",
        class_=f"stacked {classes}".strip(),
    )
