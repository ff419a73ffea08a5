"""What an adapter's folder tells of its making; what cannot be read tells nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingot.release.training import Origin, origin_of


def folder(root: Path, name: str = "lora", **files: str) -> Path:
    path = root / name
    path.mkdir()
    for file, text in files.items():
        (path / {"readme": "README.md", "state": "trainer_state.json"}[file]).write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("support-v3", "v3"),
        ("support_V1.2", "V1.2"),
        ("support", None),
        ("v3", None),
        ("sv3", None),
        ("lora-v3-final", None),
    ],
)
def test_a_version_stands_at_the_end_of_a_name(tmp_path: Path, name: str, version: str | None) -> None:
    assert origin_of(folder(tmp_path, name)).version == version


def test_a_version_stands_in_the_readmes_head_and_nowhere_else_in_it(tmp_path: Path) -> None:
    assert origin_of(folder(tmp_path, "a", readme='---\nx: 1\nversion: "1.10"\n---\n')).version == "1.10"
    assert origin_of(folder(tmp_path, "b", readme="---\nx: 1\n---\nversion: 2\n")).version is None
    assert origin_of(folder(tmp_path, "c", readme="version: 2\n")).version is None
    assert origin_of(folder(tmp_path, "d", readme="---\nversion: a b\n---\n")).version is None


def test_a_run_is_one_that_the_card_links_or_whose_folder_lies_beside(tmp_path: Path) -> None:
    link = "https://wandb.ai/team/project/runs/abc-1"
    assert origin_of(folder(tmp_path, "a", readme=f"[x]({link}) and {link}")).run == "wandb:team/project/runs/abc-1"
    assert origin_of(folder(tmp_path, "b", readme=f"{link} {link}2")).run is None
    (tmp_path / "wandb" / "run-20260131_120000-q1").mkdir(parents=True)
    assert origin_of(folder(tmp_path, "c")).run == "wandb:q1"
    (tmp_path / "wandb" / "run-20260131_130000-q2").mkdir()
    assert origin_of(folder(tmp_path, "d")).run is None


@pytest.mark.parametrize(
    "state", ["", "[]", "{", '{"global_step": true}', '{"global_step": "9"}', '{"x": NaN}', "[" * 9999]
)
def test_a_trainers_state_that_says_nothing_is_nothing(tmp_path: Path, state: str) -> None:
    assert origin_of(folder(tmp_path, state=state)) == Origin()


def test_steps_are_the_trainers(tmp_path: Path) -> None:
    assert origin_of(folder(tmp_path, state='{"global_step": 1200, "log_history": []}')).steps == 1200


def test_what_is_no_text_or_leads_out_is_passed_over(tmp_path: Path) -> None:
    path = folder(tmp_path)
    (path / "README.md").write_bytes(b"\xff\xfe---\nversion: 1\n---")
    (path / "trainer_state.json").symlink_to("/etc/passwd")
    assert origin_of(path) == Origin()
    assert origin_of(tmp_path / "nowhere") == Origin()
