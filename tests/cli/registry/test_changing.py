"""`ingot registry tag`, `add` and `reindex`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.registry.conftest import Ingot
from tests.registry.conftest import Library
from tests.registry.shelf import content_of, variant


def test_a_tag_moves_and_its_history_stays(ingot: Ingot, library: Library) -> None:
    assert ingot("tag", "support-v1", "champion", "prod/eu").code == 0
    said = ingot("tag", "support-v2", "champion")
    assert said.code == 0
    assert said.out.split()[:2] == ["champion", "support-v2"]
    said = ingot("tag", "--list")
    assert said.out.count("champion -> ") == 2
    last = ingot("tag", "--list", "--json").last
    assert last["tags"] == {
        "champion": library.entry("support-v2").identity, "prod/eu": library.entry("support-v1").identity,
    }  # fmt: skip
    assert ingot("tag", "champion", "--remove", "champion").code == 0
    assert set(library.registry.tags().current) == {"prod/eu"}


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "ä", "x" * 65, "a\nb"])
def test_what_is_no_name_for_a_tag(ingot: Ingot, library: Library, name: str) -> None:
    said = ingot("tag", "support-v1", "good", "--", name)
    assert said.code == 2
    assert library.registry.tags().history == ()


def test_a_tag_that_it_does_not_have_is_not_removed(ingot: Ingot, library: Library) -> None:
    assert ingot("tag", "support-v1", "champion").code == 0
    said = ingot("tag", "support-v2", "--remove", "champion")
    assert said.code == 2
    assert "does not have this tag" in said.err
    assert ingot("tag", "support-v1", "--remove", "champio").code == 2
    assert set(library.registry.tags().current) == {"champion"}


@pytest.mark.parametrize("arguments", [[], ["support-v1"], ["--list", "support-v1"], ["--list", "--remove", "x"]])
def test_what_is_missing_or_too_much(ingot: Ingot, arguments: list[str]) -> None:
    assert ingot("tag", *arguments).code == 2


def test_a_damaged_line_is_told_in_every_mode(ingot: Ingot, library: Library) -> None:
    ingot("tag", "support-v1", "one")
    ingot("tag", "support-v1", "two")
    path = library.registry.layout.tags
    path.write_bytes(path.read_bytes().replace(b"one", b"0ne", 1))
    said = ingot("list", "--json")
    assert said.code == 0
    assert "line 1 is damaged" in said.err
    assert said.json[0]["type"] == "warning"


def test_add_takes_note_and_touches_nothing(ingot: Ingot, library: Library, tmp_path: Path) -> None:
    away = [variant(library.folder("support-v1"), tmp_path / name, version=name) for name in ("a", "b")]
    before = [content_of(path) for path in away]
    said = ingot("add", *map(str, away), "--json")
    assert (said.code, said.last["artifacts"]) == (0, 2)
    assert [content_of(path) for path in away] == before
    assert {library.entry(str(path)).state for path in away} == {"elsewhere"}
    assert ingot("add", str(away[0]), "-q").out.strip() == library.entry("a").identity


def test_add_makes_a_registry_and_never_in_a_folder_of_something_else(
    ingot: Ingot, library: Library, tmp_path: Path
) -> None:
    artifact = str(library.folder("support-v1"))
    assert ingot("add", artifact, "--registry", str(tmp_path / "a" / "b")).code == 0
    assert ingot("list", "-q", "--registry", str(tmp_path / "a" / "b")).out.split() == ["support-v1"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    assert ingot("add", artifact, "--registry", str(tmp_path / "other")).code == 2


def test_add_refuses_what_is_no_artifact(ingot: Ingot, library: Library, tmp_path: Path) -> None:
    assert ingot("add", str(library.root / "base")).code == 1
    assert ingot("add", str(tmp_path / "nothing")).code == 2
    assert ingot("add", "").code == 2
    assert ingot("add").code == 2
    assert len(library.registry.entries()) == 3


def test_reindex_says_the_same(ingot: Ingot, library: Library) -> None:
    before = ingot("list").out
    library.registry.layout.index.write_bytes(b"rubbish")
    said = ingot("reindex", "--json")
    assert (said.code, said.last["artifacts"], said.last["faults"]) == (0, 3, {})
    assert ingot("list").out == before
    assert ingot("reindex", "-q").out.strip() == "3"


def test_reindex_forgets_what_is_gone(ingot: Ingot, library: Library) -> None:
    entry = library.entry("support-v1")
    shutil.rmtree(library.folder("support-v1"))
    shutil.rmtree(library.registry.layout.records / entry.identity)
    assert ingot("reindex", "-q").out.strip() == "2"
