"""The page in a real browser: nothing runs, nothing is logged, nothing sticks out, light and dark."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingot.validate.report.page import render
from tests.validate import example
from tests.validate.report.page import browser, hostile

pytestmark = browser.needed

WIDTHS = (320, 768, 1440)
EVALUATIONS = {
    "failing": example.evaluation(4),
    "one": example.evaluation(1, failing=False),
    "endpoint": example.bare(),
    "empty": example.empty(),
    "hostile": hostile.evaluation(),
}
#: Pixels by which the page is wider than its window, with everything opened that can be.
_WIDER = """(document.querySelectorAll('details').forEach(e => e.open = true),
    Math.max(document.documentElement.scrollWidth, document.body.scrollWidth) - innerWidth)"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    for name, evaluation in EVALUATIONS.items():
        (folder / f"{name}.html").write_text(render(evaluation), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in EVALUATIONS}


@pytest.mark.parametrize("name", EVALUATIONS)
def test_nothing_is_wider_than_the_window(pages: dict[str, Path], name: str) -> None:
    assert browser.ask(pages[name], _WIDER, WIDTHS) == [0, 0, 0]


@pytest.mark.parametrize("name", ["failing", "hostile"])
def test_nothing_is_written_to_the_console(pages: dict[str, Path], name: str) -> None:
    assert browser.console(pages[name]) == []


def test_a_script_in_the_page_would_be_refused_and_the_refusal_seen(pages: dict[str, Path], tmp_path: Path) -> None:
    planted = tmp_path / "planted.html"
    text = pages["one"].read_text(encoding="utf-8")
    planted.write_text(text.replace("</body>", "<script>document.title = 'ran'</script></body>"), encoding="utf-8")
    [line] = browser.console(planted)
    assert "Content Security Policy" in line


def test_without_its_policy_too_nothing_of_the_answers_becomes_an_element(pages: dict[str, Path]) -> None:
    probe = "[document.title.startsWith('Failed'), document.querySelectorAll('script, img, b b').length]"
    # The one script is the one that asks.
    assert browser.ask(pages["hostile"], probe) == [[True, 1]]


def test_the_style_is_accepted_by_the_policy(pages: dict[str, Path]) -> None:
    _, _, rows = browser.picture(pages["one"], 600, 100)
    assert rows[0][:3] == bytes.fromhex("fdfdfb")


def test_light_and_dark_are_pictures_of_the_same_page(pages: dict[str, Path]) -> None:
    found = {}
    for dark in (False, True):
        width, height, rows = browser.picture(pages["failing"], 900, 600, dark=dark)
        assert (width, height) == (900, 600)
        pixels = b"".join(rows)
        colours = {pixels[at : at + 3] for at in range(0, len(pixels), 3)}
        # Text in several colours, its edges smoothed.
        assert len(colours) > 50
        paper = rows[0][:3]
        inked = sum(pixels[at : at + 3] != paper for at in range(0, len(pixels), 3 * 7)) / (width * height / 7)
        assert 0.01 < inked < 0.5
        found[dark] = (sum(paper), inked)
    assert found[False][0] > 3 * 240
    assert found[True][0] < 3 * 40
    assert found[True][1] == pytest.approx(found[False][1], rel=0.2)


def test_a_filter_hides_the_groups_that_were_not_chosen(pages: dict[str, Path]) -> None:
    shown = "[...document.querySelectorAll('.answers')].filter(e => e.offsetParent).map(e => e.className)"
    before, chosen = (
        browser.ask(pages["failing"], script)[0]
        for script in (shown, f"(document.getElementById('task-1').click(), {shown})")
    )
    assert isinstance(before, list)
    assert isinstance(chosen, list)
    assert len(before) == 2 * len(chosen) == 4
    assert all("task-1-only" in name for name in chosen)


def test_the_filters_and_the_wide_table_are_reached_by_the_keyboard(pages: dict[str, Path]) -> None:
    probe = """[...document.querySelectorAll('a, input, summary, .scroller')].every(e => {
        if (!e.offsetParent && getComputedStyle(e).position !== 'fixed') return true;
        e.focus(); return document.activeElement === e; })"""
    assert browser.ask(pages["failing"], probe) == [True]


def test_labels_of_plots_stay_inside_the_page(pages: dict[str, Path]) -> None:
    probe = """[...document.querySelectorAll('svg text')].filter(e => e.getClientRects().length)
        .map(e => e.getBoundingClientRect()).filter(box => box.left < 0 || box.right > innerWidth).length"""
    assert browser.ask(pages["failing"], probe, WIDTHS) == [0, 0, 0]
