"""Freed artifacts come back into their registry; the two verbs that make it possible."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ingot.cli import main
from ingot.errors import BaseError, OutputError
from ingot.record import add_evaluation, verify
from ingot.record.artifact import SIGNATURE_NAME
from ingot.registry.entry import Entry, State
from ingot.registry.places import Places
from ingot.registry.resolve import find
from ingot.registry.returning import bring_back
from ingot.registry.store import Registry
from tests.registry.inputs import contents, merge, scatter
from tests.toy import make_adapter, make_base

NAME = "toy-support-v1"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry.open(tmp_path / "registry", create=True)


@pytest.fixture
def made(registry: Registry, tmp_path: Path) -> dict[str, bytes]:
    """The bytes of an artifact that was published, and freed."""
    make_base(tmp_path / "base")
    make_adapter(tmp_path / "lora")
    work = registry.layout.work / NAME
    merge(tmp_path / "base", [(tmp_path / "lora", 1.0)], work)
    add_evaluation(work, {"ok": True})
    places = Places(NAME, inputs={"base": str(tmp_path / "base"), "0": str(tmp_path / "lora")})
    entry = registry.publish(work, places)
    (registry.layout.artifacts / NAME / SIGNATURE_NAME).write_text("signed")
    whole = contents(registry.layout.artifacts / NAME)
    with registry.changing():
        registry.free(entry)
    assert find(registry, NAME).state is State.FREED
    return whole


def freed(registry: Registry) -> Entry:
    return find(registry, NAME)


def test_it_comes_back_whole_with_its_evaluations_and_its_signature(
    registry: Registry, made: dict[str, bytes], tmp_path: Path
) -> None:
    returned = bring_back(registry, freed(registry))
    assert contents(registry.layout.artifacts / NAME) == made
    assert (returned.place, freed(registry).state) == (registry.layout.artifacts / NAME, State.HERE)
    assert verify(returned.place, depth="read").ok
    assert list(registry.layout.work.iterdir()) == []
    with pytest.raises(OutputError, match="is there"):
        bring_back(registry, freed(registry))


def test_where_inputs_were_found_is_noted(registry: Registry, made: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "attic").mkdir()
    (tmp_path / "base").rename(tmp_path / "attic" / "renamed")
    scatter(tmp_path / "lora", tmp_path / "attic")
    with pytest.raises(BaseError, match="base base"):
        bring_back(registry, freed(registry))
    returned = bring_back(registry, freed(registry), search=[tmp_path / "attic"])
    assert returned.entry is not None
    noted = registry.places(returned.entry).inputs
    assert noted == {"base": str(tmp_path / "attic" / "renamed"), "0": str(tmp_path / "lora")}


def test_elsewhere_the_registry_takes_no_note_of_it(registry: Registry, made: dict[str, bytes], tmp_path: Path) -> None:
    bring_back(registry, freed(registry), target=tmp_path / "again")
    assert contents(tmp_path / "again") == made
    assert freed(registry).state is State.FREED


def test_what_was_made_and_not_published_is_published(
    registry: Registry, made: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unplugged(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "publish", unplugged)
        with pytest.raises(KeyboardInterrupt):
            bring_back(registry, freed(registry))
    shutil.rmtree(tmp_path / "base")
    assert bring_back(registry, freed(registry)).rebuilt is None
    assert contents(registry.layout.artifacts / NAME) == made


def test_a_name_that_was_given_away_is_not_taken_back(
    registry: Registry, made: dict[str, bytes], tmp_path: Path
) -> None:
    work = registry.layout.work / "other"
    merge(tmp_path / "base", [(tmp_path / "lora", 0.5)], work)
    registry.publish(work, Places(NAME))
    entry = next(entry for entry in registry.entries() if entry.state is State.FREED)
    with pytest.raises(OutputError, match="another artifact of this name"):
        bring_back(registry, entry)


# -- the verbs


def run(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, object], str]:
    """Exit code, last line of --json, and what was said."""
    code = main(["registry", *map(str, arguments), "--json"])
    out, err = capfd.readouterr()
    return code, json.loads(out.splitlines()[-1]), err


def test_rebuild_by_name_with_moved_inputs(
    registry: Registry, made: dict[str, bytes], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    where = ("--registry", registry.layout.root)
    base, lora = (tmp_path / "base").rename(tmp_path / "b"), (tmp_path / "lora").rename(tmp_path / "l")
    code, last, _ = run(capfd, "rebuild", NAME, *where)
    assert (code, last["error"]) == (10, "BaseError")
    code, last, _ = run(capfd, "rebuild", NAME, *where, "--base", base, "--adapter", lora, "-o", tmp_path / "again")
    assert (code, last["output"]) == (0, str(tmp_path / "again"))
    code, last, _ = run(capfd, "rebuild", last["identity"], *where, "--search", base, "--search", lora)
    assert (code, last["verb"], last["name"], last["differences"]) == (0, "registry rebuild", NAME, [])
    assert contents(registry.layout.artifacts / NAME) == made
    assert run(capfd, "rebuild", NAME, *where)[0] == 15
    assert main(["registry", "rebuild", NAME, *map(str, where), "-o", str(tmp_path / "third")]) == 0
    assert "every byte as recorded" in capfd.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [("--search", "nowhere"), ("-o", ""), ("--adapter", "a", "--adapter", "b")],
)
def test_rebuild_refuses_what_cannot_be_meant(
    arguments: tuple[str, ...], registry: Registry, made: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    code, last, err = run(capfd, "rebuild", NAME, "--registry", registry.layout.root, *arguments)
    assert (code, last["error"]) == (2, "UsageError")
    assert "Traceback" not in err


def test_a_kept_adapter_is_enough_for_a_rebuild(
    registry: Registry, made: dict[str, bytes], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    where = ("--registry", registry.layout.root)
    code, last, _ = run(capfd, "keep", tmp_path / "lora", *where)
    assert (code, last["adapters"]) == (0, 1)
    shutil.rmtree(tmp_path / "lora")
    assert run(capfd, "rebuild", NAME, *where)[0] == 0
    assert contents(registry.layout.artifacts / NAME) == made
    assert run(capfd, "keep", tmp_path / "nothing", *where)[0] == 11
