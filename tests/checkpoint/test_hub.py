"""Hub ids, from end to end: huggingface_hub's own code against a stand-in on the loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests import toy
from tests.checkpoint.hub import COMMIT, serving


def ingot(*arguments: str, endpoint: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "INGOT_CACHE": str(home / "ingot")}
    command = [sys.executable, "-m", "ingot", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_base_and_adapter_come_from_the_hub_with_their_commits(tmp_path: Path) -> None:
    toy.make_base(tmp_path / "base")
    toy.make_adapter(tmp_path / "adapter")
    (tmp_path / "base" / "pytorch_model.bin").write_bytes(b"never fetched")
    out = tmp_path / "out"
    with serving({"org/base": tmp_path / "base", "org/adapter": tmp_path / "adapter"}) as (endpoint, asked):
        done = ingot("merge", "org/base@main", "org/adapter", "-o", str(out), endpoint=endpoint, home=tmp_path / "home")
        assert done.returncode == 0, done.stderr
        assert not [path for path in asked if "pytorch_model" in path]
        again = ingot("verify", str(out), "--against-inputs", endpoint=endpoint, home=tmp_path / "home")
        assert again.returncode == 0, again.stdout + again.stderr
    record = (out / "ingot.json").read_text()
    assert COMMIT in record
    assert str(tmp_path) not in record
    names = {
        d.get("uri") or d.get("name")
        for d in json.loads(record)["predicate"]["buildDefinition"]["resolvedDependencies"]
    }
    assert any("org/base" in str(name) for name in names)


def test_a_repository_that_is_not_there_is_an_error_of_the_input(tmp_path: Path) -> None:
    toy.make_adapter(tmp_path / "adapter")
    with serving({}) as (endpoint, _):
        done = ingot("plan", "org/absent", str(tmp_path / "adapter"), endpoint=endpoint, home=tmp_path / "home")
    assert done.returncode == 10
    assert "Traceback" not in done.stderr
    assert "hint:" in done.stderr
