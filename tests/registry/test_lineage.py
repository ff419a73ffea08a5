"""`trace`: back to the training runs, and forward to all that was made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from ingot.errors import CheckFailed, UsageError
from ingot.registry.lineage import Ancestry, made_weights, trace, trace_at
from tests.registry.conftest import Library
from tests.registry.shelf import release
from tests.toy import make_adapter

SHARD = "model-00001-of-00003.safetensors"


def runs(ancestry: Ancestry) -> list[str | None]:
    """Training runs, the artifact's own first."""
    own = [adapter.training_run for adapter in ancestry.entry.facts.adapters]
    return own + [run for parent in ancestry.parents.values() for run in runs(parent)]


def test_a_merge_upon_a_merge_is_traced_to_both_training_runs(library: Library) -> None:
    lineage = trace(library.registry, str(library.folder("upon-v3") / SHARD))
    assert lineage.match is not None
    assert (lineage.match.entry.name, lineage.match.name) == ("upon-v3", SHARD)
    assert lineage.back is not None
    assert runs(lineage.back) == ["run-3", "run-2"]
    assert lineage.back.parents["base"].entry.name == "support-v2"
    assert lineage.made == ()


def test_also_when_all_of_it_was_freed(library: Library) -> None:
    digest = next(f.sha256 for f in library.entry("upon-v3").facts.outputs if f.name == SHARD)
    for name in ("upon-v3", "support-v2", "support-v1"):
        library.free(name)
    lineage = trace(library.registry, f"sha256:{digest}")
    assert lineage.back is not None
    assert runs(lineage.back) == ["run-3", "run-2"]


def test_forward_from_an_adapter_to_all_that_was_made_of_it_directly_or_not(library: Library) -> None:
    lineage = trace(library.registry, str(library.root / "lora-2"))
    assert (lineage.match, lineage.back) == (None, None)
    assert {entry.name for entry in lineage.made} == {"support-v2", "upon-v3"}
    assert set(lineage.used_as.values()) == {"0"}
    assert len(lineage.used_as) == 1  # upon-v3 through support-v2
    made = trace(library.registry, str(library.root / "lora-1")).made
    assert {entry.name for entry in made} == {"support-v1", "upon-v3"}


def test_forward_from_the_base_and_from_an_artifact(library: Library) -> None:
    made = trace(library.registry, str(library.root / "base")).made
    assert {entry.name for entry in made} == {"support-v1", "support-v2", "upon-v3"}
    assert [entry.name for entry in trace(library.registry, "support-v2").made] == ["upon-v3"]


def test_a_shard_that_no_adapter_changes_makes_nothing_kin(library: Library, tmp_path: Path) -> None:
    """It is the base's, byte for byte, and an input of everything else that was made of that base."""
    adapter = tmp_path / "narrow"
    make_adapter(adapter, seed=7)
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({k: v for k, v in tensors.items() if "block.1.up" in k}, adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["block.1.up"]}))
    entry = release(library.registry, library.root / "base", adapter, "7", title="narrow")
    outputs = {file.sha256 for file in entry.facts.outputs if file.name.endswith(".safetensors")}
    assert len(outputs) == 3
    assert len(made_weights(entry.facts)) == 1
    assert trace(library.registry, entry.name).made == ()


def test_what_nobody_knows(library: Library, tmp_path: Path) -> None:
    make_adapter(tmp_path / "stranger", seed=9)
    for ref in (str(tmp_path / "stranger"), "0123456789", "no-such-name"):
        with pytest.raises(UsageError, match="knows nothing"):
            trace(library.registry, ref)


def test_a_file_of_several_artifacts_is_told(library: Library, tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer.json"
    shutil.copy(library.folder("support-v1") / "tokenizer.json", tokenizer)
    with pytest.raises(UsageError, match="several artifacts have this file"):
        trace(library.registry, str(tokenizer))


def test_an_artifact_tells_of_itself_without_any_registry(library: Library, tmp_path: Path) -> None:
    lineage = trace_at(library.folder("support-v1") / SHARD)
    assert lineage.match is not None
    assert lineage.match.name == SHARD
    assert lineage.back is not None
    assert runs(lineage.back) == ["run-1"]
    with pytest.raises(CheckFailed):
        trace_at(tmp_path)
