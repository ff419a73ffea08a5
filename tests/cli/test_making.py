"""What `merge` says when it is done, and what it leaves in a registry that was named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ingot.cli import main
from ingot.registry.store import Registry
from tests.cli.toys import make_adapter, make_base


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_base(tmp_path / "base")
    make_adapter(tmp_path / "support-lora")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INGOT_REGISTRY", raising=False)
    return tmp_path


def test_an_output_whose_name_says_nothing_gets_a_suggestion(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", "base", "support-lora", "-o", "merged-model"]) == 0
    assert "merged-model says nothing of what is in it; base-support-lora would" in capfd.readouterr().err
    assert main(["merge", "base", "support-lora", "-o", "tiny-support-v1"]) == 0
    assert "says nothing" not in capfd.readouterr().err


def test_without_a_named_registry_nothing_is_written_beside_the_output(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(place / "data"))
    assert main(["merge", "base", "support-lora", "-o", "out", "-q"]) == 0
    assert not (place / "data").exists()


@pytest.mark.parametrize("by", ["option", "environment"])
def test_a_named_registry_notes_the_artifact_and_keeps_its_adapters(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], by: str
) -> None:
    option = ["--registry", "registry"] if by == "option" else []
    if by == "environment":
        monkeypatch.setenv("INGOT_REGISTRY", str(place / "registry"))
    assert main(["merge", "base", "support-lora", "-o", "tiny-support", "--json", *option]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert Path(result["registry"]).resolve() == (place / "registry").resolve()
    registry = Registry.open(place / "registry")
    (entry,) = registry.entries()
    assert (entry.identity, entry.name, entry.state) == (result["identity"], "tiny-support", "elsewhere")
    assert registry.places(entry).inputs == {"base": str(place / "base"), "0": str(place / "support-lora")}
    (kept,) = [path for path in registry.layout.adapters.iterdir() if path.is_dir()]
    own = (place / "support-lora/adapter_model.safetensors").read_bytes()
    assert (kept / "adapter_model.safetensors").read_bytes() == own


def test_what_is_made_a_second_time_is_noted_too(place: Path) -> None:
    assert main(["merge", "base", "support-lora", "-o", "tiny-support", "-q"]) == 0
    assert main(["merge", "base", "support-lora", "-o", "tiny-support", "-q", "--registry", "registry"]) == 0
    assert [entry.name for entry in Registry.open(place / "registry").entries()] == ["tiny-support"]
