"""A sample of each item of the battery: what it injects still works, and holds."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from tests.battery import evil
from tests.battery.__main__ import ITEMS, main, run_item
from tests.battery.figure import Count, Figure, scaled, thinned
from tests.battery.workshop import difference, flip, workshop

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


def test_the_ear_of_the_evil_item_hears_what_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evil._listen()
    heard: list[str] = []
    monkeypatch.setattr(evil, "_events", heard)
    exec("1")
    pickle.loads(b"cos\nlistdir\n.")
    (tmp_path / "canary").write_text("sings")
    (tmp_path / "canary").unlink()
    monkeypatch.setattr(evil, "_events", None)
    assert {event.split()[0] for event in heard} >= {"exec", "pickle.find_class", "os.remove"}


def test_an_artifact_that_differs_in_one_bit_is_told_apart() -> None:
    with workshop() as shop:
        expected = shop.reference()
        out = shop.root / "reference"
        assert difference(out, expected) is None
        flip(out / "config.json", 3)
        assert "config.json" in (difference(out, expected) or "")
        flip(out / "config.json", 3)
        (out / "tokenizer.json").unlink()
        assert "tokenizer.json" in (difference(out, expected) or "")
        assert difference(shop.root / "nothing", expected) is not None
        assert difference(shop.root / "nothing", expected, absent_is_well=True) is None
