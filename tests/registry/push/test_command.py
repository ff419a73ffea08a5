"""`ingot registry push` as it is typed."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ingot.cli import main
from ingot.registry.push import pushes
from tests.cli import toys
from tests.registry.push.hub_server import SIGNATURE, TOKEN, Hub
from tests.registry.push.test_hub import SHARD, damage


def told(capfd: pytest.CaptureFixture[str], line: str) -> tuple[int, dict[str, Any], str]:
    code = main([*shlex.split(line), "--json"])
    out, err = capfd.readouterr()
    return code, json.loads(out.splitlines()[-1]), err


def asked_only(hub: Hub) -> bool:
    return {path for method, path in hub.requests if method != "GET"} <= {"/api/validate-yaml"}


def test_the_result_lists_every_file_and_where_it_went(
    hub: Hub, artifact: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, result, _ = told(capfd, f"registry push {artifact} hf://acme/support --message First")
    assert code == 0
    repository = hub.repositories["acme/support"]
    assert result["commit"] == repository.branches["main"]
    assert repository.head().message == "First"
    assert result["url"] == f"{hub.endpoint}/acme/support/tree/{result['commit']}"
    assert {file["state"] for file in result["files"]} == {"sent"}
    code, result, _ = told(capfd, f"registry push {artifact} hf://acme/support")
    assert (code, result["changed"], result["nbytes_sent"]) == (0, False, 0)
    assert main(["registry", "push", str(artifact), "hf://acme/support"]) == 0
    assert "all of it was already there" in capfd.readouterr().out


def test_a_dry_run_says_what_would_be_done_and_only_asks(
    hub: Hub, artifact: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, result, _ = told(capfd, f"registry push {artifact} hf://acme/support --dry-run")
    assert code == 0
    assert result["dry_run"]
    assert not result["exists"]
    assert sorted(result["send"]) == sorted(path.name for path in artifact.iterdir())
    assert asked_only(hub)
    assert main(["registry", "push", str(artifact), "hf://acme/support", "--dry-run"]) == 0
    assert "to be made, private" in capfd.readouterr().out


def test_a_damaged_artifact_is_found_before_anything_is_made(
    hub: Hub, artifact: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damage(artifact / SHARD)
    code, error, _ = told(capfd, f"registry push {artifact} hf://acme/support")
    assert (code, error["error"]) == (1, "CheckFailed")
    assert SHARD in error["what"]
    assert asked_only(hub)
    code, error, _ = told(capfd, f"registry push {artifact} hf://acme/support --no-verify")
    assert code == 17
    assert not hub.count("POST", "/commit/")


def test_no_secret_is_shown_whatever_goes_wrong(hub: Hub, artifact: Path, capfd: pytest.CaptureFixture[str]) -> None:
    hub.faults.drop_after, hub.faults.drops = 100, 1000
    hub.faults.answers = [("PUT", "/store/", 500, f"see {hub.endpoint}/x?{SIGNATURE} for {TOKEN}")] * 30
    for flags in ("", "--json", "--debug", "--debug --json"):
        code = main(shlex.split(f"registry push {artifact} hf://acme/support {flags}"))
        out, err = capfd.readouterr()
        assert code == 14
        assert err
        for secret in (TOKEN, SIGNATURE, "X-Amz"):
            assert secret not in out + err


def test_an_artifact_of_the_registry_is_pushed_by_its_name_and_that_is_noted(
    hub: Hub, artifact: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["registry", "add", str(artifact), "--registry", str(tmp_path / "registry")]) == 0
    capfd.readouterr()
    code, result, _ = told(capfd, "registry push support hf://acme/support@v3")
    assert code == 0, result
    (noted,) = pushes(tmp_path / "registry" / "records" / result["identity"])
    assert noted["target"] == "hf://acme/support@v3"
    assert noted["commit"] == result["commit"]


def test_an_extracted_adapter_is_pushed_too(
    hub: Hub, made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert toys.run_here(f"extract {made / 'base'} {made / 'out'} -o {tmp_path / 'again'} --rank 4 -q", tmp_path) == 0
    capfd.readouterr()
    code, result, _ = told(capfd, f"registry push {tmp_path / 'again'} hf://acme/support-lora")
    assert code == 0, result
    assert "adapter_model.safetensors" in [file["name"] for file in result["files"]]
    assert set(hub.repositories["acme/support-lora"].head().files) > {"adapter_config.json", "ingot.json"}


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("registry push nothing hf://acme/support", 2),
        ("registry push '' hf://acme/support", 2),
        ("registry push {out} acme/support", 2),
        ("registry push {out} hf://acme/support --message ' '", 2),
        ("registry push {out} hf://acme/support@a --branch b", 2),
        ("registry push {base} hf://acme/support", 2),
        ("registry push {out} hf://acme/support --source s3://bucket", 2),
        ("registry push {out} mlflow:support --read-back", 2),
        ("registry push {out} mlflow:support --branch v2", 2),
    ],
)
def test_wrong_input_is_refused_before_anything_is_asked(
    hub: Hub, made: Path, capfd: pytest.CaptureFixture[str], line: str, code: int
) -> None:
    found, error, err = told(capfd, line.format(out=made / "out", base=made / "base"))
    assert found == code, err
    assert error["type"] == "error"
    assert "Traceback" not in err
    assert hub.requests == []


def test_mlflow_gets_the_directory_and_the_target(
    made: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from ingot.registry.push import mlflow

    asked: list[Any] = []

    def take(path: Path, target: str, **more: Any) -> dict[str, object]:
        asked.extend([path, target, more["tracking_uri"], more["source"]])
        return {"target": target, "version": "3", "source": "s3://bucket/x"}

    monkeypatch.setattr(mlflow, "push_to_mlflow", take)
    line = f"registry push {made / 'out'} mlflow:support@champion --tracking-uri http://x --source s3://bucket/x"
    code, result, _ = told(capfd, line)
    assert (code, result["version"]) == (0, "3")
    assert asked == [made / "out", "mlflow:support@champion", "http://x", "s3://bucket/x"]


@pytest.mark.slow
def test_a_killed_push_leaves_nothing_visible_and_goes_on(
    hub: Hub, artifact: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    environment = toys.environment(
        HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1", HF_ENDPOINT=hub.endpoint, HF_TOKEN=TOKEN, NO_PROXY="127.0.0.1"
    )
    command = [sys.executable, "-m", "ingot", "registry", "push", str(artifact), "hf://acme/support"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    hub.part_nbytes = 1000
    hub.faults.before = lambda method, path: process.kill() if method == "PUT" and path.endswith("/4") else None
    assert process.wait() == -signal.SIGKILL
    assert set(hub.repositories["acme/support"].head().files) == {".gitattributes"}
    hub.faults.before = lambda method, path: None
    code, result, _ = told(capfd, f"registry push {artifact} hf://acme/support")
    assert (code, result["changed"]) == (0, True)
    assert set(hub.repositories["acme/support"].head().files) == {".gitattributes", *os.listdir(artifact)}
