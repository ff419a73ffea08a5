"""`ingot registry trace` and `diff`: from a digest to the training run in one command."""

from __future__ import annotations

import hashlib

import pytest

from tests.cli.registry.conftest import Ingot
from tests.registry.conftest import Library

SHARD = "model-00001-of-00003.safetensors"


def test_from_a_digest_to_both_training_runs(ingot: Ingot, library: Library) -> None:
    digest = hashlib.sha256((library.folder("upon-v3") / SHARD).read_bytes()).hexdigest()
    library.free("upon-v3")
    said = ingot("trace", f"sha256:{digest[:16]}")
    assert said.code == 0
    for text in (SHARD, digest, "training run run-3", "training run run-2", "which is", "support-v2"):
        assert text in said.out
    last = ingot("trace", digest, "--json").last
    assert last["training_runs"] == ["run-3", "run-2"]
    assert last["artifact"]["made_from"]["base"]["name"] == "support-v2"
    assert ingot("trace", digest, "-q").out.strip() == "run-3"


def test_forward_from_an_adapter(ingot: Ingot, library: Library) -> None:
    said = ingot("trace", str(library.root / "lora-2"))
    assert said.code == 0
    assert "support-v2 (safetensors" in said.out
    assert "as adapter 1" in said.out
    assert "upon-v3" in said.out
    made = ingot("trace", str(library.root / "lora-2"), "--json").last["made"]
    assert {entry["name"]: entry["used_as"] for entry in made} == {"support-v2": "0", "upon-v3": None}


def test_an_artifact_is_traced_without_any_registry(
    ingot: Ingot, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGOT_REGISTRY", str(library.registry.layout.root / "nowhere"))
    said = ingot("trace", str(library.folder("support-v1") / SHARD))
    assert said.code == 0
    assert "training run run-1" in said.out
    assert ingot("trace", "support-v1").code == 2


def test_diff_tells_what_changed(ingot: Ingot, library: Library) -> None:
    said = ingot("diff", "support-v1", "support-v2")
    assert said.code == 0
    for text in ("run-1", "run-2", "release version", "block.0.up.weight: values"):
        assert text in said.out
    last = ingot("diff", "support-v1", "support-v2", "--json").last
    assert (last["type"], len(last["tensors"])) == ("result", 4)
    assert ingot("diff", "support-v1", "support-v2", "-q").out.strip() == "different"
    assert ingot("diff", "support-v1", "support-v1", "-q").out.strip() == "same"
    library.free("support-v1")
    assert "cannot be told" in ingot("diff", "support-v1", "support-v2").out
