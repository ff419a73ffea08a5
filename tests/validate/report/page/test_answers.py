"""Answers that differ: which are shown, in which order, and how a group is filtered."""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ingot.validate.report.page import render
from ingot.validate.report.page.answers import MOST_OPEN, filter_rules, shares
from ingot.validate.result import Answer
from tests.validate import example


@given(st.lists(st.integers(0, 300), max_size=12), st.integers(0, 400))
def test_places_are_shared_evenly_and_all_given_out(sizes: list[int], total: int) -> None:
    given_out = shares(sizes, total)
    assert sum(given_out) == min(total, sum(sizes))
    assert all(0 <= got <= size for got, size in zip(given_out, sizes, strict=True))
    short = [got for got, size in zip(given_out, sizes, strict=True) if got < size]
    assert not short or max(short) - min(short) <= 1
    assert all(got >= max(short, default=0) - 1 for got, size in zip(given_out, sizes, strict=True) if got < size)


def page_of(*differing: Answer) -> str:
    whole = example.evaluation(1)
    one = whole.candidates[0]
    return render(replace(whole, candidates=(replace(one, tasks=(replace(one.tasks[0], differing=differing),)),)))


def answer(sample: int, reference_right: bool, candidate_right: bool) -> Answer:
    return Answer(sample, "prompt", "expected", "one", "two", reference_right, candidate_right)


def test_lost_samples_come_before_won_ones_and_those_before_the_rest() -> None:
    page = page_of(answer(1, True, True), answer(2, False, True), answer(3, True, False), answer(4, False, False))
    assert re.findall(r"<h4>Sample (\d)<span class=\"outcome\">([a-z ]+)<", page) == [
        ("3", "lost"), ("2", "won"), ("1", "both right"), ("4", "both wrong"),
    ]  # fmt: skip
    assert "4 samples: 1 lost, 1 won, 2 with the same score" in page


def test_what_is_beyond_the_first_twenty_is_folded() -> None:
    page = page_of(*(answer(number, True, False) for number in range(50)))
    before, folded = page.split("<details>")
    assert before.count('class="sample"') == MOST_OPEN
    assert folded.count('class="sample"') == 30
    assert "30 more samples of merged-8b, commands" in folded


def test_white_space_that_is_the_difference_is_seen() -> None:
    page = page_of(replace(answer(0, True, False), reference="a b", candidate="a  b"))
    assert "<mark>␣␣</mark>" in page


def test_an_empty_answer_says_so() -> None:
    assert '<span class="cut">empty</span>' in page_of(replace(answer(0, True, False), candidate=""))


def test_one_task_or_one_candidate_needs_no_filter() -> None:
    assert filter_rules(1, 1) == ""
    assert filter_rules(2, 1).count("display:none") == 2
    assert "<fieldset" not in page_of(answer(0, True, False))
