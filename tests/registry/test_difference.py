"""`diff`: what changed, and nothing else; the safetensors library says which tensors differ."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from ingot.registry.difference import Change, Difference, diff
from tests.registry.conftest import Library
from tests.registry.shelf import evaluated


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def compared(library: Library, before: str, after: str) -> Difference:
    return diff(library.registry, library.entry(before), library.entry(after))


def test_tensors_that_differ_are_those_that_another_library_finds(library: Library) -> None:
    one, other = tensors(library.folder("support-v1")), tensors(library.folder("support-v2"))
    differing = {name for name in one if not torch.equal(one[name], other[name])}
    found = compared(library, "support-v1", "support-v2")
    assert {change.name for change in found.tensors} == differing
    assert all(change.before != change.after and len(change.before) == 64 for change in found.tensors)
    assert (found.same, found.unknown) == (len(one) - len(differing), ())


def test_inputs_are_named_with_both_digests(library: Library) -> None:
    found = compared(library, "support-v1", "support-v2")
    what = {change.what: (change.before, change.after) for change in found.inputs}
    old, new = (
        next(file.sha256 for file in library.entry(name).facts.inputs("0") if file.name == "adapter_model.safetensors")
        for name in ("support-v1", "support-v2")
    )
    assert what["adapter 1: adapter_model.safetensors"] == (old, new)
    assert "run-1" in str(what["adapter 1"][0])
    assert "run-2" in str(what["adapter 1"][1])
    assert not [name for name in what if name.startswith("base")]
    assert found.recipe == (Change("release version", "1", "2"),)
    assert found.tools == ()


def test_an_artifact_is_like_itself_freed_or_not(library: Library) -> None:
    assert compared(library, "support-v1", "support-v1").nothing
    library.free("support-v1")
    assert compared(library, "support-v1", "support-v1").nothing


def test_of_a_freed_one_it_is_told_what_cannot_be_known(library: Library) -> None:
    whole = compared(library, "support-v1", "support-v2")
    library.free("support-v1")
    found = compared(library, "support-v1", "support-v2")
    assert not found.nothing
    changed, unknown = {change.name for change in found.tensors}, set(found.unknown)
    assert changed <= {change.name for change in whole.tensors} <= changed | unknown
    assert found.same + len(changed) + len(unknown) == whole.same + len(whole.tensors)
    assert unknown


def test_scores_are_compared(library: Library) -> None:
    for folder, score in ((library.folder("support-v1"), 0.5), (library.folder("support-v2"), 0.75)):
        task = {"name": "billing", "candidate": score, "reference": 1.0, "samples": 4}
        evaluated(folder, ok=True, tasks=[task], logits={"mean_kl": 0.1, "top1": score})
    found = compared(library, "support-v1", "support-v2")
    assert set(found.scores) == {Change("billing", "0.5", "0.75"), Change("top1", "0.5", "0.75")}
