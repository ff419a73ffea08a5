"""Markup: what is text stays text, and what cannot be seen is spelled out."""

from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from ingot.validate.report.page.markup import Html, join, module_of, name_of, prose, table, tag, visible


def test_children_are_escaped_unless_they_are_markup() -> None:
    assert tag("p", "a < b & c", tag("b", "<i>")) == "<p>a &lt; b &amp; c<b>&lt;i&gt;</b></p>"
    assert isinstance(tag("p"), Html)


def test_attributes_are_quoted_and_absent_ones_left_out() -> None:
    assert tag("td", class_="n", data_label='a"b', id=None, hidden=True, open=False) == (
        '<td class="n" data-label="a&quot;b" hidden></td>'
    )
    assert tag("input", type="radio") == '<input type="radio">'


def test_what_has_no_shape_is_spelled_out_and_what_scripts_need_is_kept() -> None:
    assert visible("a\x07\u202eb\u200b\u2028\ud800\ufffe") == "a⟨U+0007⟩⟨U+202E⟩b⟨U+200B⟩⟨U+2028⟩⟨U+D800⟩⟨U+FFFE⟩"
    kept = "line\n\ttab 日本\u3000語 می\u200cخواهم 👩\u200d🔬 a\u00a0b"
    assert visible(kept) == kept


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text())
def test_any_text_comes_back_as_it_is_seen_and_makes_no_element(text: str) -> None:
    found = _Text()
    found.feed(tag("p", text, title=text))
    found.close()
    assert found.tags == ["p"]
    assert found.text == visible(text)
    assert found.attributes == [("title", visible(text))]
    assert found.text.encode("utf-8").decode("utf-8") == found.text


def test_names_break_after_their_separators_only() -> None:
    assert name_of("out/base-8b") == "out/<wbr>base-<wbr>8b"
    assert module_of("layers.3.q_proj") == "<code>layers.<wbr>3.<wbr>q_proj</code>"
    assert name_of("<b>") == "&lt;b&gt;"


def test_a_figure_keeps_its_percent_sign() -> None:
    assert prose("up to 97 % of it & more") == "up to 97\u00a0% of it &amp; more"


def test_a_table_names_its_rows_and_labels_its_cells() -> None:
    made = table("All", ("Name", "Count"), [("a", "1")], numbers=frozenset({1}))
    assert "<caption>All</caption>" in made
    assert '<th scope="row" role="rowheader">a</th><td role="cell" class="number" data-label="Count">1</td>' in made


def test_join_leaves_out_what_is_none() -> None:
    assert join(("a", None, "<"), Html("<wbr>")) == "a<wbr>&lt;"
