"""What no verb of `ingot registry` takes, and how it says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.registry.conftest import Ingot
from tests.registry.conftest import Library
from tests.registry.shelf import variant

WITH_REF = (["show"], ["trace"], ["tag"], ["diff", "support-v1"])


@pytest.mark.parametrize("verb", WITH_REF)
@pytest.mark.parametrize("ref", ["", " ", "\0"])
def test_an_empty_ref(ingot: Ingot, verb: list[str], ref: str) -> None:
    said = ingot(*verb, ref, *(["x"] if verb == ["tag"] else []))
    assert said.code == 2
    assert "REF is empty" in said.err


@pytest.mark.parametrize("verb", WITH_REF)
def test_an_unknown_ref_gets_a_near_match(ingot: Ingot, verb: list[str]) -> None:
    said = ingot(*verb, "suport-v1", *(["x"] if verb == ["tag"] else []), "--json")
    assert (said.code, said.last["type"], said.last["error"]) == (2, "error", "UsageError")
    if verb != ["trace"]:
        assert "Did you mean support-v1" in said.last["hint"]


def test_an_ambiguous_ref(ingot: Ingot, library: Library) -> None:
    made = variant(library.folder("support-v1"), library.registry.layout.work / "x", version="9")
    ingot("add", str(made))
    digest = next(f.sha256 for f in library.entry("support-v1").facts.outputs if f.name.endswith("3.safetensors"))
    said = ingot("show", digest)
    assert said.code == 2
    assert "several artifacts" in said.err


@pytest.mark.parametrize("verb", [
    ["list"], ["show", "x"], ["tag", "x", "y"], ["reindex"], ["gc", "--keep-newest", "1", "-n"], ["diff", "x", "y"],
    ["trace", "x"],
])  # fmt: skip
def test_a_registry_that_is_none(ingot: Ingot, tmp_path: Path, verb: list[str]) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "registry.json").write_text('{"format": "ingot registry 2"}')
    (tmp_path / "file").touch()
    for place, words in (
        ("missing", "no registry here yet"), ("other", "is no registry"), ("newer", "another version"),
        ("file", "no registry"),
    ):  # fmt: skip
        said = ingot(*verb, "--registry", str(tmp_path / place))
        assert said.code == 2
        assert words in said.err
    assert not (tmp_path / "missing").exists()
    for empty in ("", "  "):
        assert "DIR is empty" in ingot(*verb, "--registry", empty).err


def test_a_record_that_is_damaged_by_one_byte_is_left_out_with_a_warning(ingot: Ingot, library: Library) -> None:
    path = library.folder("support-v1") / "ingot.json"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    said = ingot("list", "--json")
    assert said.code == 0
    assert {line["name"] for line in said.json if line["type"] == "artifact"} == {"support-v2", "upon-v3"}
    assert str(path.parent) in said.json[0]["message"]
    assert "left out" in said.err
    said = ingot("show", "support-v1")
    assert said.code == 2
    assert "left out" in said.err


def test_no_control_character_of_a_name_reaches_the_terminal(ingot: Ingot, library: Library, tmp_path: Path) -> None:
    made = variant(library.folder("support-v1"), tmp_path / "evil", name="a\x1b[31mb")
    ingot("add", str(made))
    for arguments in (["list"], ["show", "evil"], ["trace", "evil"], ["list", "--json"]):
        said = ingot(*arguments)
        assert said.code == 0
        assert "\x1b" not in said.out + said.err


def test_the_verbs_are_listed_and_a_typo_gets_a_near_match(ingot: Ingot) -> None:
    said = ingot()
    assert said.code == 0
    for verb in ("list", "show", "trace", "diff", "tag", "gc", "rebuild", "keep", "add", "reindex"):
        assert f"\n  {verb} " in said.out
    said = ingot("tarce", "x", "--json")
    assert (said.code, json.loads(said.out)["type"]) == (2, "error")
    assert "`trace`" in said.err
