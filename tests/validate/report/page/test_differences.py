"""Two texts: what differs is marked, nothing is lost or invented, and no text takes long."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from ingot.validate.report.page.differences import MOST_SHOWN, Part, differences, excerpt, first_difference


def text_of(parts: list[Part]) -> str:
    return "".join(part.text for part in parts if part.kind != "cut")


def test_the_words_that_differ_are_marked_on_both_sides() -> None:
    ours, theirs = differences("due on 2024-05-17, noon", "due on 2024-06-17, noon")
    assert [part.text for part in ours if part.kind == "differs"] == ["05"]
    assert [part.text for part in theirs if part.kind == "differs"] == ["06"]


@given(st.text(max_size=200), st.text(max_size=200))
def test_short_texts_are_shown_whole_and_alike_parts_are_the_same(ours: str, theirs: str) -> None:
    left, right = differences(ours, theirs)
    assert (text_of(left), text_of(right)) == (ours, theirs)
    same = ["".join(part.text for part in side if part.kind == "same") for side in (left, right)]
    assert same[0] == same[1]
    assert (ours == theirs) == all(part.kind == "same" for part in (*left, *right))


def test_of_long_texts_the_piece_around_the_first_difference_is_shown() -> None:
    ours = "x" * 50_000 + "A" + "y" * 50_000
    theirs = "x" * 50_000 + "B" + "y" * 10
    left, right = differences(ours, theirs)
    assert [part.text for part in left if part.kind == "cut"] == [
        "[49,700 characters before, alike] ", " [48,801 characters more]",
    ]  # fmt: skip
    assert "A" in text_of(left)
    assert "B" in text_of(right)
    assert len(text_of(left)) == MOST_SHOWN


def test_a_text_that_ends_where_the_other_goes_on_is_framed_too() -> None:
    left, right = differences("a" * 5000, "a" * 5000 + "b" * 9)
    assert text_of(left) == "a" * 300
    assert text_of(right) == "a" * 300 + "b" * 9


def test_texts_made_to_be_slow_to_compare_are_not() -> None:
    started = time.perf_counter()
    for _ in range(20):
        differences("a b " * 25_000, "b a " * 25_000)
        differences("! " * 700, "? ! " * 300)
    assert time.perf_counter() - started < 10


def test_first_difference() -> None:
    assert [first_difference(*pair) for pair in (("abc", "abd"), ("ab", "abc"), ("", ""), ("a", "a"))] == [2, 2, 0, 1]


def test_an_excerpt_has_both_ends_and_says_how_much_is_between() -> None:
    assert excerpt("short", 10) == [Part("same", "short")]
    assert excerpt("", 10) == []
    assert excerpt("a" * 50 + "b" * 50, 10) == [
        Part("same", "aaaaa"), Part("cut", " […90 characters…] "), Part("same", "bbbbb"),
    ]  # fmt: skip
