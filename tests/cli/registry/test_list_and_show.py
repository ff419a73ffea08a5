"""`ingot registry list` and `show`."""

from __future__ import annotations

import pytest

from tests.cli.registry.conftest import Ingot
from tests.registry.conftest import Library
from tests.registry.shelf import evaluated


def test_list_is_a_table_with_sums(ingot: Ingot, library: Library) -> None:
    library.registry.tag([("champion", library.entry("support-v1").identity)])
    library.free("upon-v3")
    said = ingot("list")
    assert said.code == 0
    head, _, *rows, _, sums = said.out.splitlines()
    assert head.split() == ["name", "format", "size", "state", "score", "made", "on", "tags"]
    states = {row.split()[0]: row.split()[4] for row in rows}
    assert states == {"support-v1": "here", "support-v2": "here", "upon-v3": "freed"}
    assert next(row for row in rows if row.startswith("support-v1")).endswith("champion")
    assert sums.startswith("3 artifacts, ")
    assert said.err == ""


@pytest.mark.parametrize(("options", "names"), [
    (["--name", "SUPPORT*"], {"support-v1", "support-v2"}),
    (["--adapter", "lora-1"], {"support-v1", "upon-v3"}),
    (["--base", "support-v2"], {"upon-v3"}),
    (["--tag", "champ*"], {"support-v1"}),
    (["--state", "freed"], {"upon-v3"}),
    (["--format", "gguf:*"], set()),
    (["--state", "here", "--adapter", "lora-2"], {"support-v2"}),
])  # fmt: skip
def test_filters(ingot: Ingot, library: Library, options: list[str], names: set[str]) -> None:
    library.registry.tag([("champion", library.entry("support-v1").identity)])
    library.free("upon-v3")
    said = ingot("list", "--json", *options)
    assert {line["name"] for line in said.json if line["type"] == "artifact"} == names
    assert (said.last["type"], said.last["artifacts"]) == ("result", len(names))
    assert set(ingot("list", "-q", *options).out.split()) == names


def test_sorting(ingot: Ingot, library: Library) -> None:
    for name, score in (("support-v1", 0.5), ("upon-v3", 0.75)):
        task = {"name": "billing", "candidate": score, "reference": 1.0, "samples": 4}
        evaluated(library.folder(name), ok=True, tasks=[task])
    assert ingot("list", "-q", "--sort", "name").out.split() == ["support-v1", "support-v2", "upon-v3"]
    assert ingot("list", "-q", "--sort", "score").out.split() == ["upon-v3", "support-v1", "support-v2"]
    assert "75.0%" in ingot("list").out


def test_wrong_options(ingot: Ingot) -> None:
    assert ingot("list", "--state", "gone").code == 2
    assert ingot("list", "--sort", "luck").code == 2
    assert ingot("list", "extra").code == 2


def test_show_tells_all(ingot: Ingot, library: Library) -> None:
    task = {"name": "billing", "candidate": 0.5, "reference": 1.0, "samples": 4}
    evaluated(library.folder("support-v2"), ok=False, tasks=[task], evaluated_on="2026-11-30T00:00:00Z")
    library.registry.tag([("champion", library.entry("support-v1").identity)])
    library.registry.tag([("champion", library.entry("support-v2").identity)])
    said = ingot("show", "champion")
    entry = library.entry("support-v2")
    for text in (entry.identity, "run-2", "rank 2", "billing: 50.0%", "a gate failed", "champion -> ", "lora-2"):
        assert text in said.out
    assert ingot("show", "champion", "-q").out.strip() == entry.identity
    last = ingot("show", "champion", "--json").last
    assert (last["type"], last["identity"], last["state"]) == ("result", entry.identity, "here")
    assert len(last["tag_history"]) == 2
    assert {file["role"] for file in last["inputs"]} == {"base", "0"}


def test_show_of_what_was_freed_says_how_to_get_it_back(ingot: Ingot, library: Library) -> None:
    library.free("support-v1")
    said = ingot("show", "support-v1")
    assert said.code == 0
    assert "ingot registry rebuild" in said.out
