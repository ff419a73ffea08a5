"""The pages in a real browser: nothing runs, nothing is logged, nothing sticks out, and the nodes are to be seen."""

from __future__ import annotations

import html
import json
import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ingot.pages import frame
from ingot.pages.drawing import draw
from ingot.pages.graph import Graph, Kind, Node
from ingot.pages.routes import answer
from ingot.pages.server import Server
from ingot.registry.store import Registry
from ingot.validate.report.page import render
from tests.pages import example
from tests.pages.test_routes import hostile
from tests.validate import example as evaluations
from tests.validate.report.page import browser

pytestmark = browser.needed

WIDTHS = (320, 400, 1280)
_WIDER = """(document.querySelectorAll('details').forEach(e => e.open = true),
    Math.max(document.documentElement.scrollWidth, document.body.scrollWidth) - innerWidth)"""
#: Nodes whose name is not inside their box, and what they take together.
_NODES = """[[...document.querySelectorAll('.node')].filter(e => {
        const box = e.querySelector('rect').getBoundingClientRect(), name = e.querySelector('.title').getBoundingClientRect();
        return !(box.width > 100 && name.width > 8 && name.left >= box.left && name.top >= box.top && name.bottom <= box.bottom);
    }).length, document.querySelectorAll('.node').length]"""  # noqa: E501


@pytest.fixture(scope="module")
def pages(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rendered")
    style = answer(registry.layout, "/style.css").body.decode()
    by_name = {entry.name: entry for entry in registry.entries()}
    one, other = (by_name[name].identity for name in ("tiny-8b-support-v1", "tiny-8b-support-v2"))
    planted = hostile(folder)
    targets = {
        "list": (registry, "/"), "lineage": (registry, "/lineage"), "artifact": (registry, f"/artifact/{other}"),
        "diff": (registry, f"/diff?a={one}&b={other}"), "missing": (registry, "/missing"),
        "empty": (Registry.open(folder / "empty", create=True), "/"), "hostile": (planted, "/"),
        "hostile artifact": (planted, f"/artifact/{planted.entries()[0].identity}"),
    }  # fmt: skip
    found = {}
    for name, (where, target) in targets.items():
        found[name] = folder / f"{name}.html"
        text = answer(where.layout, target).body.decode()
        found[name].write_text(example.inlined(text, style), encoding="utf-8")
    for count in (1, 40):
        found[str(count)] = folder / f"{count}.html"
        text = frame.page("A graph", draw(graph(count), "A graph"))
        found[str(count)].write_text(example.inlined(text, style), encoding="utf-8")
    return found


def graph(count: int) -> Graph:
    choose = random.Random(count)
    kinds = [Kind.ARTIFACT] if count == 1 else [Kind.RUN] * 4 + [Kind.ADAPTER] * 5 + [Kind.BASE] + [Kind.ARTIFACT] * 30
    nodes = {
        str(number): Node(kind, "ab" * 32, f"a-name-of-usual-length-v{number}", "gguf:Q4_K_M, 4.92 GB", ("champion",))
        for number, kind in enumerate(kinds)
    }
    edges = [(str(number), str(4 + number)) for number in range(4)] if count > 1 else []
    edges += [(str(choose.randrange(4, number)), str(number)) for number in range(10, len(kinds)) for _ in range(2)]
    return Graph(nodes, tuple(dict.fromkeys(edges)))


@pytest.fixture(scope="module")
def server(registry: Registry) -> Iterator[Server]:
    with Server(registry.layout, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_nothing_is_wider_than_the_window(pages: dict[str, Path]) -> None:
    found = ask_all(pages, _WIDER, WIDTHS)
    assert found == {name: [0, 0, 0] for name in pages}


def test_every_node_is_to_be_seen_with_its_name_in_it(pages: dict[str, Path]) -> None:
    drawn = {name: pages[name] for name in ("1", "40", "lineage")}
    found = ask_all(drawn, _NODES, (400, 1280))
    assert found == {name: [[0, count]] * 2 for name, count in (("1", 1), ("40", 40), ("lineage", 20))}


def ask_all(pages: dict[str, Path], script: str, widths: tuple[int, ...]) -> dict[str, list[Any]]:
    """As `browser.ask`, of several pages at once: the value of `script` in each at each width."""
    folder = next(iter(pages.values())).parent
    frames = []
    for name, page in pages.items():
        text, policies = browser._POLICY.subn("", page.read_text(encoding="utf-8"))
        assert policies == 1
        said = f"[{json.dumps(name)}, innerWidth, {script}]"
        asking = f"<script>addEventListener('load', () => parent.postMessage({said}, '*'))</script>"
        copy = folder / f"{name}.asked.html"
        copy.write_text(text.replace("</body>", f"{asking}</body>"), encoding="utf-8")
        frames += [f'<iframe src="{copy.as_uri()}" style="width:{width}px;border:0"></iframe>' for width in widths]
    around = folder / "around.html"
    around.write_text(f'<!DOCTYPE html><meta charset="utf-8">{browser._COLLECT}{"".join(frames)}', encoding="utf-8")
    dom = browser.start(around.as_uri(), "--virtual-time-budget=10000", "--dump-dom").stdout
    [said] = re.findall(r'<pre id="said">(.*?)</pre>', dom, re.DOTALL)
    values = {(name, width): value for name, width, value in json.loads(html.unescape(said))}
    return {name: [values[name, width] for width in widths] for name in pages}


def test_the_server_s_pages_are_accepted_by_their_own_policy(server: Server) -> None:
    for target in ("", "artifact/champion"):
        _accepted(f"{server.url}{target}")


def test_a_report_as_validate_writes_it_is_accepted_by_the_policy_it_is_served_with(
    registry: Registry, server: Server
) -> None:
    identity = registry.entries()[1].identity
    report = registry.layout.records / identity / "report.html"
    report.write_text(render(evaluations.evaluation(4)), encoding="utf-8")
    try:
        _accepted(f"{server.url}artifact/{identity}/report")
    finally:
        report.unlink()


def _accepted(url: str) -> None:
    started = browser.start(url, "--virtual-time-budget=2000", "--dump-dom")
    assert "</nav>" in started.stdout
    assert browser._CONSOLE.findall(started.stderr) == []


def test_a_script_in_a_report_does_not_run(registry: Registry, server: Server) -> None:
    entry = registry.entries()[0]
    report = registry.layout.records / entry.identity / "report.html"
    report.write_text("<!DOCTYPE html><title>still</title><p>x<script>document.title = 'ran'</script>")
    try:
        dom = browser.start(f"{server.url}artifact/{entry.identity}/report", "--dump-dom").stdout
    finally:
        report.unlink()
    assert "<title>still</title>" in dom


def test_without_a_policy_too_nothing_of_the_records_becomes_an_element(pages: dict[str, Path]) -> None:
    probe = "document.querySelectorAll('script, img, b, style').length"
    # The one script is the one that asks, and the one style the page's.
    assert browser.ask(pages["hostile artifact"], probe) == [2]


def test_light_and_dark_are_pictures_of_the_same_page(pages: dict[str, Path]) -> None:
    paper = {}
    for dark in (False, True):
        _, _, rows = browser.picture(pages["list"], 900, 600, dark=dark)
        pixels = b"".join(rows)
        assert len({pixels[at : at + 3] for at in range(0, len(pixels), 3)}) > 50  # text, its edges smoothed
        paper[dark] = rows[0][:3]
    assert paper == {False: bytes.fromhex("fdfdfb"), True: bytes.fromhex("16181b")}


def test_everything_that_acts_is_reached_by_the_keyboard(pages: dict[str, Path]) -> None:
    probe = """[...document.querySelectorAll('a, input:not([type=hidden]), select, button, summary, .scroller')]
        .every(e => { e.focus(); return document.activeElement === e; })"""
    assert browser.ask(pages["artifact"], probe) == [True]
