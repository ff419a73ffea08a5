"""`ingot registry gc`: it shows first, asks, and never frees without a policy."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.cli.registry.conftest import Ingot
from tests.registry.conftest import Library
from tests.registry.shelf import content_of, variant


def whole(library: Library) -> dict[str, tuple[int, bytes]]:
    return content_of(library.registry.layout.artifacts)


def test_a_dry_run_tells_what_and_why_and_changes_nothing(ingot: Ingot, library: Library) -> None:
    library.registry.tag([("champion", library.entry("support-v1").identity)])
    before = whole(library)
    said = ingot("gc", "--keep-newest", "0", "--dry-run")
    assert said.code == 0
    lines = [line.split() for line in said.out.splitlines() if line]
    assert [line[:2] for line in lines[:3]] == [["free", "upon-v3"], ["keep", "support-v2"], ["keep", "support-v1"]]
    assert "tagged champion" in said.out
    assert "upon-v3 was made of it" in said.out
    assert "1 artifact to be freed" in said.out
    assert whole(library) == before
    last = ingot("gc", "--keep-newest", "0", "-n", "--json").last
    assert (last["dry_run"], last["to_be_freed"], last["freed"], last["kept"]) == (True, ["upon-v3"], [], 2)
    assert ingot("gc", "--keep-newest", "0", "-n", "-q").out.strip() == str(library.entry("upon-v3").facts.nbytes)


def test_with_yes_it_frees_and_the_artifact_is_rebuilt_to_the_same_bytes(ingot: Ingot, library: Library) -> None:
    before = whole(library)
    said = ingot("gc", "--keep-newest", "0", "--yes", "--json")
    assert said.code == 0
    assert {line["name"] for line in said.json if line["type"] == "freed"} == {"support-v1", "upon-v3"}
    assert set(said.last["freed"]) == {"support-v1", "upon-v3"}
    assert {name.split("/")[0] for name in whole(library)} == {"support-v2"}
    for name in ("support-v1", "upon-v3"):
        assert ingot("rebuild", name).code == 0
    assert whole(library) == before


@pytest.mark.parametrize("arguments", [["--yes"], ["--dry-run"], ["--name", "*", "--yes"], ["--hub", "--yes"]])
def test_without_a_policy_it_names_the_options_and_frees_nothing(
    ingot: Ingot, library: Library, arguments: list[str]
) -> None:
    before = whole(library)
    said = ingot("gc", *arguments)
    assert said.code == 2
    assert "--keep-newest N" in said.err
    assert "--keep-younger-than" in said.err
    assert whole(library) == before


@pytest.mark.parametrize("arguments", [
    ["--keep-newest", "-1"], ["--keep-newest", "x"], ["--keep-younger-than", "30"],
    ["--keep-newest", "1", "--name", " "],
    ["--keep-newest", "1", "--search", "/no/such/folder"], ["--keep-newest", "1", "--search", ""],
    ["--keep-newest", "1", "extra"],
])  # fmt: skip
def test_wrong_options(ingot: Ingot, library: Library, arguments: list[str]) -> None:
    before = whole(library)
    assert ingot("gc", "--yes", *arguments).code == 2
    assert whole(library) == before


def test_where_nobody_can_be_asked_it_refuses(ingot: Ingot, library: Library) -> None:
    before = whole(library)
    said = ingot("gc", "--keep-newest", "0")
    assert said.code == 2
    assert "--dry-run" in said.err
    assert "--yes" in said.err
    assert whole(library) == before


@pytest.mark.parametrize(("answer", "freed"), [(True, 2), (False, 0)])
def test_on_a_terminal_it_asks(
    ingot: Ingot, library: Library, monkeypatch: pytest.MonkeyPatch, answer: bool, freed: int
) -> None:
    asked = []

    def confirm(text: str, **_: object) -> bool:
        asked.append(text)
        return answer

    monkeypatch.setattr("click.confirm", confirm)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    said = ingot("gc", "--keep-newest", "0")
    assert said.code == 0
    assert len(asked) == 1
    assert asked[0].startswith("Free 2 artifacts, ")
    assert sum(entry.state == "freed" for entry in library.registry.entries()) == freed


def test_what_could_not_be_made_again_is_refused_and_told_and_no_failure(
    ingot: Ingot, library: Library, tmp_path: Path
) -> None:
    for name in ("base", "lora-1"):
        shutil.copytree(library.root / name, tmp_path / name)
    entry = library.entry("support-v1")
    places = library.registry.layout.records / entry.identity / "places.json"
    places.write_text(places.read_text().replace(str(library.root / "lora-1"), str(tmp_path / "gone")))
    said = ingot("gc", "--keep-newest", "0", "--name", "support-v1", "--yes")
    assert said.code == 0
    assert "refuse  support-v1" in said.out
    assert "adapter lora-1: adapter_config.json" in said.out
    assert library.folder("support-v1").is_dir()
    found = ingot("gc", "--keep-newest", "0", "--name", "support-v1", "--yes", "--search", str(tmp_path), "--json")
    assert found.last["freed"] == ["support-v1"]


def test_a_hub_that_cannot_be_reached_has_nothing(ingot: Ingot, library: Library) -> None:
    lost = variant(library.folder("support-v1"), library.folder("lost"), version="lost")
    assert lost.is_dir()
    said = ingot("gc", "--keep-newest", "0", "--name", "lost", "--yes", "--hub", "--json")
    assert (said.code, said.last["freed"], said.last["refused"]) == (0, [], 1)
    assert lost.is_dir()


@pytest.mark.parametrize("damage", ["tags", "record"])
def test_where_the_truth_is_damaged_it_refuses_altogether(ingot: Ingot, library: Library, damage: str) -> None:
    ingot("tag", "support-v1", "one")
    ingot("tag", "support-v1", "two")
    path = library.registry.layout.tags if damage == "tags" else library.folder("upon-v3") / "ingot.json"
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    before = whole(library)
    said = ingot("gc", "--keep-newest", "0", "--yes", "--json")
    assert said.code == 1
    assert (said.last["type"], said.last["error"]) == ("error", "CheckFailed")
    assert said.last["hint"].startswith("Nothing is freed until this is whole")
    assert whole(library) == before


def test_nothing_to_do_is_no_failure(ingot: Ingot) -> None:
    said = ingot("gc", "--keep-newest", "9", "--yes")
    assert said.code == 0
    assert "3 artifacts kept" in said.out
    assert ingot("gc", "--keep-newest", "9", "--yes", "--name", "no-such").code == 0
