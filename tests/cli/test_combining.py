"""Several adapters on the command line: options, their contradictions, and what a plan shows."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from ingot.cli import main
from ingot.cli.arguments import combine_options, make_options
from ingot.errors import UsageError
from ingot.plan.model import Options
from tests import toy


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    toy.make_base(tmp_path / "base")
    toy.make_adapter(tmp_path / "one", seed=1)
    toy.make_adapter(tmp_path / "two", seed=2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(capfd: pytest.CaptureFixture[str], line: str) -> tuple[int, dict[str, Any], str]:
    code = main([*shlex.split(line), "--json"])
    out, err = capfd.readouterr()
    return code, json.loads(out.splitlines()[-1]), err


def test_a_merge_by_a_method_says_so_and_verifies(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split("merge base one=0.7 two=0.3 -o out --method ties --density 0.3 --lambda 0.9 -v")) == 0
    err = capfd.readouterr().err
    for word in ("method: ties", "density: 0.3", "lambda: 0.9", "ties(Δ1, Δ2)"):
        assert word in err, err
    line = "verify out --against-inputs --base base --adapter one --adapter two"
    assert main(shlex.split(line)) == 0


def test_a_plan_of_several_adapters_shows_interference(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split("plan base one two")) == 0
    out = capfd.readouterr().out
    assert "Interference: 4 tensors changed by several adapters" in out
    assert "advice" in out
    code, result, _ = told(capfd, "plan base one two --method dare_ties")
    assert code == 0
    (pair,) = result["interference"]["groups"][0]["pairs"]
    assert pair["adapters"] == [0, 1]
    assert result["options"]["method"] == "dare_ties"
    assert told(capfd, "plan base one")[1]["interference"] is None


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("plan base one two --density 0.5", "--density"),
        ("plan base one two --lambda 2", "--lambda"),
        ("plan base one two --method ties --density 1.5", "--density"),
        ("plan base one two --method ties --density nan", "--density"),
        ("plan base one two --method tie", "ties"),
        ("plan base one two --method ties --majority-sign most", "--majority-sign"),
        ("plan base one=0.5 two --method sce", "weights"),
        ("plan base one --method sce", "only one"),
        ("plan base one two --method ties --gamma 0.1", "--gamma"),
        ("plan base one two --take three", "--take"),
        ("plan base one two --take 3", "--take"),
        ("merge base one two -o out --method della --density 0.5 --epsilon 0.9", "--epsilon"),
    ],
)
def test_what_contradicts_itself_is_refused_with_a_hint(
    here: Path, capfd: pytest.CaptureFixture[str], line: str, word: str
) -> None:
    before = sorted(path.name for path in here.iterdir())
    assert main(shlex.split(line)) == 2
    err = capfd.readouterr().err
    assert word in err
    assert "hint: " in err
    assert "Traceback" not in err
    assert sorted(path.name for path in here.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "expected"), [("1", 1), ("2", 2), ("runs/b", 2), ("b", 2), ("a", 1), ("runs/a/", 1), ("7", 3)]
)
def test_an_adapter_is_taken_by_number_by_name_or_by_the_end_of_its_path(name: str, expected: int) -> None:
    found = asked(take=[name], adapters=["runs/a/", "runs/b", "7"])
    assert found.take == (expected,)


@pytest.mark.parametrize("name", ["c", "0", "4", "same", ""])
def test_a_name_that_means_none_or_several_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="--take names none of the adapters, or several"):
        asked(take=[name], adapters=["x/same", "y/same", "z"])


def asked(**how: Any) -> Options:
    return make_options(None, "nearest", None, False, False, **how)


def test_every_option_has_its_place_in_the_plans_options() -> None:
    @combine_options
    def nothing() -> None: ...

    names = {parameter.name for parameter in nothing.__click_params__}  # type: ignore[attr-defined]
    assert names == {"method", "density", "lambda_", "majority_sign", "gamma", "epsilon", "take"}
    assert all(hasattr(Options(), str(name)) for name in names)
