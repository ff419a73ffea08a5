"""Artifacts in MLflow's model registry: against a real server, read back with MLflow's own client."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ingot.errors import CheckFailed, IngotError, MissingComponent, OutputError, ResourceError, UsageError
from ingot.record import add_evaluation
from ingot.registry.push.mlflow import ModelName, push_to_mlflow
from ingot.registry.push.mlflow_client import opened_client
from tests.record.makers import copy_of, resealed, two_artifacts

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
EVALUATION = {
    "ok": True,
    "evaluated_on": "2026-11-30T12:00:00Z",
    "tasks": [{"name": "support tickets", "candidate": 0.875, "reference": 0.9, "samples": 40}],
    "logits": {"mean_kl": 0.0021, "top1": 0.99},
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        assert isinstance(port, int)
        return port


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server would put files that were sent to it."""
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, uploads: Path) -> Iterator[str]:
    """The URI of a server of its own, with a SQLite database."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    line = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
        "--default-artifact-root", str(uploads), "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            line, cwd=folder, env={**os.environ, **QUIET}, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        while not _answers(f"{uri}/health"):
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            time.sleep(0.1)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


@pytest.fixture
def client(server: str) -> Iterator[Any]:
    with opened_client(server) as client:
        yield client


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an artifact `out`, and one of another adapter, `other`."""
    return two_artifacts(tmp_path_factory.mktemp("made"))


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    return copy_of(made / "out", tmp_path / "out")


def record_of(artifact: Path) -> Any:
    return json.loads((artifact / "ingot.json").read_bytes())


def versions(client: Any, name: str) -> list[str]:
    return sorted(version.version for version in client.search_model_versions(f"name = '{name}'"))


def test_a_version_says_what_its_artifact_is_and_where_and_no_byte_is_uploaded(
    out: Path, server: str, client: Any, uploads: Path
) -> None:
    add_evaluation(out, EVALUATION)
    before = dict(os.environ)
    pushed = push_to_mlflow(out, "mlflow:said@candidate", tracking_uri=server)
    assert dict(os.environ) == before
    record = record_of(out)
    run, build = record["predicate"]["runDetails"], record["predicate"]["buildDefinition"]
    version = client.get_model_version_by_alias("said", "candidate")
    assert (pushed["version"], pushed["created"], pushed["run"]) == (version.version, True, None)
    assert (version.status, version.source) == ("READY", f"ingot:{out}")
    files = [name for name in sorted(path.name for path in out.iterdir()) if name != "ingot.json"]
    sums = subprocess.run(["sha256sum", *files], cwd=out, capture_output=True, check=True).stdout
    adapter = [one for one in build["resolvedDependencies"] if one["annotations"]["of"] == "0"]
    listed = "".join(f"{one['digest']['sha256']}  {one['name']}\n" for one in adapter)
    expected = {
        "ingot.identity": run["metadata"]["ingot_identity"],
        "ingot.plan_digest": build["internalParameters"]["plan_digest"],
        "ingot.files_sha256": hashlib.sha256(sums).hexdigest(),
        "ingot.base": "tiny-base",
        "ingot.adapter.0": "support-lora",
        "ingot.adapter.0.sha256": hashlib.sha256(listed.encode()).hexdigest(),
        "ingot.format": "safetensors",
        "ingot.version": build["internalParameters"]["ingot"],
        "ingot.place": str(out),
        "ingot.gates": "passed",
        "ingot.score.support_tickets": "0.875",
        "ingot.score.support_tickets.reference": "0.9",
        "ingot.mean_kl": "0.0021",
    }
    assert {name: version.tags.get(name) for name in expected} == expected
    assert not [path for path in uploads.rglob("*") if path.is_file()]


def test_the_same_artifact_is_one_version_and_an_alias_moves(made: Path, out: Path, server: str, client: Any) -> None:
    first = push_to_mlflow(out, "mlflow:same@champion", tracking_uri=server)
    other = push_to_mlflow(made / "other", "mlflow:same@champion", tracking_uri=server)
    assert client.get_model_version_by_alias("same", "champion").version == other["version"] != first["version"]
    elsewhere = out.rename(out.with_name("moved"))
    again = push_to_mlflow(elsewhere, "mlflow:same@champion", tracking_uri=server)
    assert (again["version"], again["created"]) == (first["version"], False)
    champion = client.get_model_version_by_alias("same", "champion")
    assert champion.version == first["version"]
    assert champion.tags["ingot.place"] == str(elsewhere)
    push_to_mlflow(elsewhere, "mlflow:same", tracking_uri=server)
    assert versions(client, "same") == ["1", "2"]


def test_a_later_evaluation_brings_the_version_up_to_date(out: Path, server: str, client: Any) -> None:
    push_to_mlflow(out, "mlflow:scored", tracking_uri=server)
    client.set_model_version_tag("scored", "1", "reviewed_by", "Ada")
    add_evaluation(out, EVALUATION)
    push_to_mlflow(out, "mlflow:scored", tracking_uri=server)
    tags = client.get_model_version("scored", "1").tags
    assert (tags["ingot.gates"], tags["ingot.score.support_tickets"]) == ("passed", "0.875")
    add_evaluation(out, {**EVALUATION, "ok": False, "tasks": []})
    push_to_mlflow(out, "mlflow:scored", tracking_uri=server)
    tags = client.get_model_version("scored", "1").tags
    assert tags["ingot.gates"] == "failed"
    assert not [name for name in tags if name.startswith("ingot.score.")]
    assert tags["reviewed_by"] == "Ada"
    assert versions(client, "scored") == ["1"]


def test_a_version_is_linked_to_the_training_run_that_the_release_names(out: Path, server: str, client: Any) -> None:
    run = client.create_run(client.create_experiment("training")).info.run_id

    def release(training_run: str) -> Any:
        def change(value: Any) -> None:
            value["predicate"]["buildDefinition"]["externalParameters"]["release"] = {
                "name": "tiny-support", "version": "3", "adapters": [{"version": "v2", "training_run": training_run}],
            }  # fmt: skip

        return change

    resealed(out, release(f"mlflow:{run}"))
    pushed = push_to_mlflow(out, "mlflow:linked", tracking_uri=server)
    version = client.get_model_version("linked", "1")
    assert (pushed["run"], version.run_id) == (run, run)
    assert version.tags["ingot.adapter.0.training_run"] == version.tags["ingot.training_runs"] == f"mlflow:{run}"
    told = ("ingot.release", "ingot.release_version", "ingot.adapter.0.version")
    assert [version.tags[name] for name in told] == ["tiny-support", "3", "v2"]
    resealed(out, release("mlflow:0123456789abcdef0123456789abcdef"))
    pushed = push_to_mlflow(out, "mlflow:linked", tracking_uri=server)
    assert (pushed["run"], pushed["unknown_runs"]) == (None, ["0123456789abcdef0123456789abcdef"])
    resealed(out, release("wandb:acme/runs/7"))
    assert push_to_mlflow(out, "mlflow:linked", tracking_uri=server)["unknown_runs"] == []


def test_two_that_register_at_once_leave_one_version(out: Path, server: str, client: Any) -> None:
    with ThreadPoolExecutor(4) as pool:
        pushed = list(pool.map(lambda _: push_to_mlflow(out, "mlflow:raced", tracking_uri=server), range(4)))
    assert {one["version"] for one in pushed} == set(versions(client, "raced"))
    assert len(versions(client, "raced")) == 1


def test_a_source_of_the_users_is_taken_or_refused_by_the_server(out: Path, server: str, client: Any) -> None:
    push_to_mlflow(out, "mlflow:sourced", tracking_uri=server, source="hf://acme/tiny@0123abc")
    assert client.get_model_version("sourced", "1").source == "hf://acme/tiny@0123abc"
    with pytest.raises(OutputError, match="https"):
        push_to_mlflow(out, "mlflow:refused", tracking_uri=server, source="https://example.org/x")
    assert versions(client, "refused") == []


def test_a_damaged_artifact_is_not_registered(out: Path, server: str, client: Any) -> None:
    (out / "LICENSE").unlink()
    with pytest.raises(CheckFailed, match="LICENSE"):
        push_to_mlflow(out, "mlflow:damaged", tracking_uri=server)
    assert not client.search_registered_models("name = 'damaged'")


def test_a_server_that_is_not_there_is_told_without_the_password(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ResourceError) as caught:
        push_to_mlflow(out, "mlflow:x", tracking_uri=f"http://me:hunter2@127.0.0.1:{free_port()}")
    assert "cannot be reached" in caught.value.message
    assert "hunter2" not in caught.value.message
    assert caught.value.exit_code == 14


def test_without_a_server_nothing_is_made_where_the_user_stands(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    for uri in (None, " ", "databricks", "databricks://profile"):
        with pytest.raises(UsageError):
            push_to_mlflow(out, "mlflow:x", tracking_uri=uri)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "target", ["", "mlflow:", "mlflow:a/b", "mlflow:a:b", "mlflow:a'b", "mlflow: a", "mlflow:a@", "mlflow:a@v3",
               "mlflow:a@latest", "mlflow:a@b c", "mlflow:a@b@c", "mlflow:..", "mlflow:a\nb"],
)  # fmt: skip
def test_a_target_that_mlflow_would_not_take_is_told_before_anything_is_done(out: Path, target: str) -> None:
    with pytest.raises(UsageError):
        push_to_mlflow(out, target, tracking_uri="http://127.0.0.1:9")


def test_a_target_is_a_name_and_perhaps_an_alias() -> None:
    assert ModelName.parse("mlflow:llama-3-8b.support@champion") == ModelName("llama-3-8b.support", "champion")
    assert str(ModelName.parse("tiny")) == "mlflow:tiny"


def test_without_the_library_the_command_that_installs_it_is_named(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "mlflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingComponent) as caught:
        push_to_mlflow(out, "mlflow:x", tracking_uri="http://127.0.0.1:9")
    assert isinstance(caught.value, IngotError)
    assert caught.value.exit_code == 18
    assert "ingot-merge[mlflow]" in str(caught.value.hint)
