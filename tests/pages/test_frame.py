"""Links: only to pages of ours, and to training runs on the web."""

from __future__ import annotations

import pytest

from ingot.pages.frame import address, run_address, short
from tests.pages.example import RUNS


@pytest.mark.parametrize("run", [*RUNS[:2], "http://localhost:5000/#/experiments/1/runs/2?x=1&y=2"])
def test_a_run_on_the_web_is_linked_to_as_it_is_named(run: str) -> None:
    assert run_address(run) == run


@pytest.mark.parametrize(
    "run",
    [
        RUNS[2], "run 7", "", "javascript:alert(1)", "javascript://tracker.example/%0aalert(1)", "//tracker.example/x",
        "data:text/html,x", "file:///etc/passwd", "ftp://tracker.example/x", "https://", "https:///x", "http://[",
        "https://tracker.example/a b", "java\nscript:alert(1)", "https://tracker.example/\x00", " https://t.example",
    ],
)  # fmt: skip
def test_whatever_else_is_a_name(run: str) -> None:
    assert run_address(run) is None


def test_what_stands_in_an_address_is_quoted_and_what_is_empty_left_out() -> None:
    assert address("/", q="a&b=c d", sort="") == "/?q=a%26b%3Dc+d"
    assert address("/input/a b?#") == "/input/a%20b%3F%23"


def test_a_digest_is_shortened_and_nothing_else() -> None:
    assert short("ab" * 32) == f'<code title="{"ab" * 32}">{"ab" * 6}</code>'
    assert short("linear") == "linear"
    assert "none" in short(None)
