"""`ingot doctor`: measured here, and in step with pyproject.toml."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import tomllib
from pathlib import Path

import pytest

from ingot import doctor
from ingot.cli import main
from ingot.errors import UsageError

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def test_the_oldest_core_components_are_those_of_the_project() -> None:
    stated = tomllib.loads(PROJECT.read_text())["project"]["dependencies"]
    oldest = {re.split(r"[>=<]", line)[0]: re.search(r">=([\d.]+)", line)[1] for line in stated}  # type: ignore[index]
    assert {name: versions[0] for name, versions in doctor.CORE.items()} == oldest


def test_versions_are_those_of_the_installation() -> None:
    diagnosis = doctor.examine(Path())
    for component in diagnosis.components:
        if component.version is not None:
            assert component.version == importlib.metadata.version(component.name)
    assert diagnosis.ok
    assert diagnosis.facts["cores"] == len(os.sched_getaffinity(0))


def test_the_disk_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    disk = doctor.examine(tmp_path).facts["disk"]
    assert isinstance(disk, dict)
    assert disk["error"] is None
    assert disk["copy"] in ("reflink", "copy_file_range", "read_write")
    assert abs(disk["free_nbytes"] - shutil.disk_usage(tmp_path).free) < 1 << 30
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)
    diagnosis = doctor.examine(tmp_path)
    assert any("nothing can be written here" in line for line in diagnosis.as_lines(200))
    assert diagnosis.ok


@pytest.mark.parametrize(("found", "standing"), [("2.9.1", "too old"), (None, "missing")])
def test_a_missing_or_old_core_component_is_exit_18(
    found: str | None, standing: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name != "torch":
            return real(name)
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert main(["doctor"]) == 18
    out, err = capfd.readouterr()
    assert standing in out
    assert "torch" in err
    assert "pip install" in err


def test_an_extra_component_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "peft":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert doctor.examine(Path()).ok


@pytest.mark.parametrize(
    ("found", "oldest", "too_old"),
    [("2.13.0+cpu", "2.10", False), ("2.9.1", "2.10", True), ("2.10.0rc1", "2.10", False), ("0.20", "0.20.0", True)],
)
def test_versions_are_compared_as_numbers(
    found: str, oldest: str, too_old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: found)
    component = doctor._component("torch", oldest, "9", core=True)
    assert (component.standing == "too old") == too_old


def test_memory_is_no_more_than_the_machine_has() -> None:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < (doctor.memory_nbytes() or 0) <= machine


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        doctor.examine(tmp_path / "nowhere")
