"""A sample of each item of the battery: what it injects still works, and holds."""

from __future__ import annotations

import pytest

from tests.battery.__main__ import ITEMS, main, run_item
from tests.battery.figure import Count, Figure, scaled, thinned

#: The least that each item can do.
SAMPLE = 0.001


@pytest.mark.parametrize("name", ITEMS)
def test_a_sample_of_each_item_holds(name: str) -> None:
    figure = run_item(name, SAMPLE, quiet=True)
    assert figure.ok, figure.faults


def test_a_figure_with_one_fault_or_no_tries_falls_short() -> None:
    assert Figure([Count("tries", 3)]).ok
    assert not Figure([Count("tries", 3, ["one"])]).ok
    assert not Figure([Count("tries", 3), Count("others")]).ok
    assert not Figure([]).ok
    assert Count("tries held", 1200, ["one"]).text == "1,199 of 1,200 tries held"


def test_a_sample_is_spread_over_all_and_never_empty() -> None:
    assert thinned(range(100), 0.05) == [0, 20, 40, 60, 80]
    assert thinned(range(100), 1.0) == list(range(100))
    assert thinned(range(3), 0.0001, 2) == [0, 1]
    assert scaled(200, 0.001, 2) == 2


def test_the_battery_fails_when_an_item_falls_short(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tests.battery.determinism.run", lambda *_: Figure([Count("runs agree", 2, ["one differs"])]))
    assert main(["--only", "determinism"]) == 1
    assert "1 of 2 runs agree" in capsys.readouterr().out
    monkeypatch.setattr("tests.battery.determinism.run", lambda *_: Figure([Count("runs agree", 2)]))
    assert main(["--only", "determinism", "--json"]) == 0
