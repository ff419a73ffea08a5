"""A release makes what `merge` would, publishes what passes, keeps out what does not, and goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from ingot.demo import assets
from ingot.errors import CheckFailed, Interrupted, NonFiniteError, OutputError, ResourceError, UsageError
from ingot.merge import prepare
from ingot.plan.model import GgufOptions, Options
from ingot.record import read_record, verify
from ingot.registry.entry import Entry
from ingot.registry.store import Registry
from ingot.release.planning import planned
from ingot.release.recipe import read_recipe
from ingot.release.run import Result, run
from ingot.storage.disk import PosixDisk
from ingot.storage.removing import remove_tree
from tests.cli.toys import make_adapter, make_base
from tests.storage.faulty_disk import FaultyDisk

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")


class Listener:
    """Keeps what a release says."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def made(self, artifact: Any, record: Any, *, before: bool) -> None:
        self.said.append(("made before" if before else "made", artifact.name))

    def evaluated(self, evaluation: Any) -> None:
        self.said += [("evaluated", candidate.subject.name) for candidate in evaluation.candidates]

    def published(self, entry: Entry, *, before: bool) -> None:
        self.said.append(("published before" if before else "published", entry.name))

    def kept_out(self, artifact: Any, error: Any) -> None:
        self.said.append(("kept out", artifact.name))

    def kept(self, adapter: Any, name: str) -> None:
        self.said.append(("kept", name))

    def say(self, text: str) -> None:
        pass

    def pushed(self, entry: Entry, target: str, done: dict[str, object]) -> None:
        self.said.append(("pushed", target))


@contextmanager
def no_bar(_what: str, _total: int, _unit: str) -> Iterator[Callable[[int], None]]:
    yield lambda _: None


class Shop:
    """A base, an adapter, and a recipe for them in one directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe: dict[str, Any] = {
            "ingot": 1, "name": "toy", "version": "1.0", "base": "base",
            "adapters": [{"adapter": "lora", "version": "v3", "training_run": "wandb:acme/toy/runs/7f3a"}],
            "formats": ["safetensors"], "publish": {"registry": "registry"},
        }  # fmt: skip
        self.listener = Listener()

    @property
    def registry(self) -> Registry:
        return Registry.open(self.path / "registry", create=True)

    def release(self, *, stop: threading.Event | None = None, restart: bool = False) -> Result:
        file = self.path / "release.yaml"
        file.write_text(yaml.safe_dump(self.recipe))
        self.listener = Listener()
        with planned(read_recipe(file), self.registry, jobs=1) as plan:
            return run(plan, self.listener, no_bar, stop=stop, restart=restart)

    def published(self) -> list[str]:
        return sorted(path.name for path in (self.path / "registry/artifacts").iterdir())

    def waiting(self) -> list[str]:
        return sorted(path.name for path in (self.path / "registry/work").iterdir() if path.name != "evaluations")


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    make_base(tmp_path / "base")
    make_adapter(tmp_path / "lora")
    return Shop(tmp_path)


@pytest.fixture
def demo(tmp_path: Path) -> Shop:
    """The demo's base: llama.cpp's tokenizer is made of its own, so it can become a GGUF."""
    shop = Shop(tmp_path)
    shop.recipe |= {"base": str(assets.base()), "adapters": [str(assets.tasks()[0].adapter)]}
    return shop


def bytes_of(folder: Path) -> dict[str, str]:
    """Digests of an artifact's files, all but the record and the card, which names the release."""
    names = [path for path in folder.iterdir() if path.name not in ("ingot.json", "README.md")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in names}


def test_an_artifact_is_what_merge_alone_makes_and_its_record_tells_of_the_release(shop: Shop) -> None:
    result = shop.release()
    (entry,) = result.published
    assert (entry.name, entry.state, result.kept_out) == ("toy-v1.0", "here", {})
    with prepare(str(shop.path / "base"), [(str(shop.path / "lora"), 1.0)], target=shop.path / "alone") as job:
        job.run()
    assert entry.place is not None
    assert bytes_of(Path(entry.place)) == bytes_of(shop.path / "alone")
    assert verify(Path(entry.place), depth="read").ok
    release = read_record((Path(entry.place) / "ingot.json").read_bytes()).recipe.release
    assert release is not None
    assert (release.version, release.adapters[0].version) == ("1.0", "v3")
    assert release.adapters[0].training_run == "wandb:acme/toy/runs/7f3a"
    assert str(shop.path) not in json.dumps(release.recipe)
    assert "wandb:acme/toy/runs/7f3a" in (Path(entry.place) / "README.md").read_text()


def test_formats_of_one_release_are_artifacts_of_their_own_with_the_bytes_that_each_alone_has(demo: Shop) -> None:
    demo.recipe["formats"] = ["safetensors", "gguf:Q8_0", "gguf:F16"]
    result = demo.release()
    assert [entry.name for entry in result.published] == ["toy-v1.0", "toy-v1.0-q8_0", "toy-v1.0-f16"]
    assert [entry.facts.format for entry in result.published] == ["safetensors", "gguf:Q8_0", "gguf:F16"]
    for entry, gguf in zip(result.published, (None, GgufOptions(("Q8_0",)), GgufOptions(("F16",))), strict=True):
        target = demo.path / f"alone-{entry.name}"
        adapters = [(demo.recipe["adapters"][0], 1.0)]
        with prepare(demo.recipe["base"], adapters, Options(gguf=gguf), target=target) as job:
            job.run()
        assert entry.place is not None
        assert bytes_of(Path(entry.place)) == bytes_of(target)


def test_every_file_of_a_release_is_made_by_the_registrys_disk(shop: Shop, tmp_path: Path) -> None:
    file = tmp_path / "release.yaml"
    file.write_text(yaml.safe_dump(shop.recipe))
    (tmp_path / "grave").mkdir()
    disk = FaultyDisk(tmp_path / "grave")
    registry = Registry.open(tmp_path / "registry", create=True, disk=disk)
    with planned(read_recipe(file), registry, jobs=1) as plan:
        run(plan, shop.listener, no_bar)
    assert disk.operations.count(("rename", "toy-v1.0")) == 2  # made in work/, and published
    made = {name for kind, name in disk.operations if kind in ("rename", "clone")}
    assert made >= {"ingot.json", "adapter_model.safetensors"} | {
        path.name for path in (tmp_path / "registry/artifacts/toy-v1.0").iterdir()
    }


def test_what_is_published_is_not_made_again(shop: Shop) -> None:
    (first,) = shop.release().published
    before = {path: path.stat().st_mtime_ns for path in Path(str(first.place)).iterdir()}
    shop.recipe["publish"]["tags"] = ["champion"]  # another recipe, of the same artifact
    (again,) = shop.release().published
    assert ("published before", "toy-v1.0") in shop.listener.said
    assert again.identity == first.identity
    assert again.tags == ("champion",)
    assert {path: path.stat().st_mtime_ns for path in Path(str(again.place)).iterdir()} == before


def test_what_another_process_published_after_the_plan_is_not_made_again(shop: Shop) -> None:
    file = shop.path / "release.yaml"
    file.write_text(yaml.safe_dump(shop.recipe))
    late = Listener()
    with planned(read_recipe(file), shop.registry, jobs=1) as plan:
        (first,) = shop.release().published
        (again,) = run(plan, late, no_bar).published
    assert again.identity == first.identity
    assert late.said == [("kept", "lora"), ("published before", "toy-v1.0")]


def test_a_registry_is_made_by_the_run_and_not_by_the_plan(shop: Shop) -> None:
    file = shop.path / "release.yaml"
    file.write_text(yaml.safe_dump(shop.recipe))
    with planned(read_recipe(file), Registry.to_be(shop.path / "registry"), jobs=1) as plan:
        assert not (shop.path / "registry").exists()
        run(plan, Listener(), no_bar)
    assert shop.published() == ["toy-v1.0"]


def test_a_name_that_means_other_bytes_is_refused_before_anything_is_written(shop: Shop) -> None:
    shop.release()
    shop.recipe["adapters"][0]["weight"] = 0.5
    with pytest.raises(OutputError, match="another artifact of this name"):
        shop.release()
    assert shop.waiting() == []
    shop.recipe["version"] = "1.1"
    assert [entry.name for entry in shop.release().published] == ["toy-v1.1"]


def test_a_published_artifact_that_is_damaged_is_told_from_one_of_another_recipe(shop: Shop) -> None:
    (entry,) = shop.release().published
    with (Path(str(entry.place)) / "config.json").open("a") as file:
        file.write(" ")
    with pytest.raises(OutputError, match=r"is damaged: .*config\.json"):
        shop.release()
    remove_tree(PosixDisk(), Path(str(entry.place)))  # as the hint says
    (again,) = shop.release().published
    assert again.identity == entry.identity


def test_a_folder_without_a_record_under_the_name_is_found_before_anything_is_made(shop: Shop) -> None:
    (entry,) = shop.release().published
    (Path(str(entry.place)) / "ingot.json").unlink()
    with pytest.raises(OutputError, match="no artifact that can be read"):
        shop.release()
    assert shop.waiting() == []


def test_a_plan_in_an_empty_directory_writes_nothing_and_a_release_makes_a_registry_of_it(shop: Shop) -> None:
    file = shop.path / "release.yaml"
    file.write_text(yaml.safe_dump(shop.recipe))
    (shop.path / "registry").mkdir()
    with planned(read_recipe(file), Registry.to_be(shop.path / "registry"), jobs=1) as plan:
        assert list((shop.path / "registry").iterdir()) == []
        run(plan, Listener(), no_bar)
    assert shop.published() == ["toy-v1.0"]


def test_a_format_that_fails_its_gate_is_kept_out_and_the_others_go_on(shop: Shop) -> None:
    shop.recipe["formats"] = ["safetensors"]
    shop.recipe["validate"] = {"gates": {"min_survival": 1.5}}  # nothing survives to more than all of it
    result = shop.release()
    assert result.published == ()
    assert isinstance(result.kept_out["toy-v1.0"], CheckFailed)
    assert "min_survival" in str(result.kept_out["toy-v1.0"])
    assert (shop.published(), shop.waiting()) == ([], ["toy-v1.0", "toy-v1.0.html"])


def test_after_its_gate_was_changed_an_artifact_is_published_without_being_made_again(shop: Shop) -> None:
    shop.recipe["validate"] = {"gates": {"min_survival": 1.5}}
    shop.release()
    weights = {path: path.stat().st_mtime_ns for path in (shop.registry.layout.work / "toy-v1.0").glob("*.safetensors")}
    shop.recipe["validate"] = {}
    (entry,) = shop.release().published
    assert ("made before", "toy-v1.0") in shop.listener.said
    assert {path.stat().st_mtime_ns for path in Path(str(entry.place)).glob("*.safetensors")} == set(weights.values())
    record = read_record((Path(str(entry.place)) / "ingot.json").read_bytes())
    assert record.recipe.release is not None
    assert record.recipe.release.recipe is not None
    assert record.recipe.release.recipe["validate"] == {}
    assert [one["ok"] for one in record.statement.predicate.run.evaluations] == [False, True]
    assert entry.facts.scores is not None
    assert entry.facts.scores.ok
    assert verify(Path(str(entry.place)), depth="read").ok
    assert (shop.path / "registry/records" / entry.identity / "report.html").is_file()
    assert shop.waiting() == []


def test_what_waits_under_another_training_run_is_made_anew(shop: Shop) -> None:
    shop.recipe["validate"] = {"gates": {"min_survival": 1.5}}
    shop.release()
    shop.recipe["adapters"][0]["training_run"] = "wandb:acme/toy/runs/other"
    shop.recipe["validate"] = {}
    (entry,) = shop.release().published
    assert ("made", "toy-v1.0") in shop.listener.said
    assert "runs/other" in (Path(str(entry.place)) / "README.md").read_text()


def test_a_value_that_one_type_cannot_hold_keeps_that_one_out(tmp_path: Path) -> None:
    shop, base = Shop(tmp_path), tmp_path / "base"
    base.mkdir()
    for path in assets.base().iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    file = base / "model-00001-of-00002.safetensors"
    import torch
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    tensors = load_torch(file)
    name = next(name for name in tensors if name.endswith("mlp.up_proj.weight"))
    tensors[name][0, 0] = torch.tensor(1e6, dtype=tensors[name].dtype)  # beyond float16, within bfloat16
    save_torch(tensors, file, {"format": "pt"})
    shop.recipe |= {"adapters": [str(assets.tasks()[0].adapter)], "formats": ["gguf:BF16", "gguf:F16", "safetensors"]}
    result = shop.release()
    assert sorted(entry.name for entry in result.published) == ["toy-v1.0", "toy-v1.0-bf16"]
    assert isinstance(result.kept_out["toy-v1.0-f16"], NonFiniteError)
    assert shop.published() == ["toy-v1.0", "toy-v1.0-bf16"]


def test_an_interrupted_release_goes_on_and_publishes_the_same(shop: Shop, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        shop.release(stop=stop)
    assert shop.published() == []
    (entry,) = shop.release().published
    with prepare(str(shop.path / "base"), [(str(shop.path / "lora"), 1.0)], target=tmp_path / "alone") as job:
        job.run()
    assert bytes_of(Path(str(entry.place))) == bytes_of(tmp_path / "alone")
    assert shop.waiting() == []


def test_restart_drops_what_waits_and_makes_it_anew(shop: Shop) -> None:
    shop.recipe["validate"] = {"gates": {"min_survival": 1.5}}
    shop.release()
    shop.release(restart=True)
    assert ("made", "toy-v1.0") in shop.listener.said


def test_small_adapters_are_kept_unless_the_recipe_says_no(shop: Shop) -> None:
    shop.release()
    (kept,) = [path for path in (shop.path / "registry/adapters").iterdir() if path.is_dir()]
    own = shop.path / "lora/adapter_model.safetensors"
    assert (kept / "adapter_model.safetensors").read_bytes() == own.read_bytes()
    other = Shop(shop.path)
    other.recipe["publish"] = {"registry": "other", "keep_adapters": False}
    other.release()
    assert not any((shop.path / "other/adapters").glob("*")) or not (shop.path / "other/adapters").exists()


def test_one_tag_for_two_artifacts_is_refused_before_anything_is_written(demo: Shop) -> None:
    demo.recipe["formats"] = ["safetensors", "gguf:Q8_0"]
    demo.recipe["publish"]["tags"] = ["champion"]
    with pytest.raises(UsageError, match="one tag"):
        demo.release()
    assert demo.published() == []
    demo.recipe["publish"]["tags"] = ["champion-{format}"]
    result = demo.release()
    assert [entry.tags for entry in result.published] == [("champion-safetensors",), ("champion-q8_0",)]


def test_a_gguf_without_samples_is_published_with_a_warning_that_says_so(demo: Shop) -> None:
    demo.recipe |= {"formats": ["gguf:Q8_0"], "validate": {}}
    file = demo.path / "release.yaml"
    file.write_text(yaml.safe_dump(demo.recipe))
    with planned(read_recipe(file), demo.registry, jobs=1) as plan:
        assert any("published without validation" in warning for warning in plan.warnings)


def test_a_method_that_is_no_sum_needs_the_merged_model_as_its_reference(shop: Shop) -> None:
    make_adapter(shop.path / "other", modules=("k_proj",))
    shop.recipe |= {
        "adapters": ["lora", "other"], "merge": {"method": "ties", "density": 0.5}, "validate": {},
        "formats": ["gguf:Q8_0"],
    }  # fmt: skip
    with pytest.raises(UsageError, match="no reference to validate by"):
        shop.release()


def test_samples_that_are_not_there_end_a_release_before_it_begins(shop: Shop) -> None:
    shop.recipe["validate"] = {"samples": ["missing.jsonl"]}
    with pytest.raises(UsageError, match=r"missing\.jsonl"):
        shop.release()
    assert shop.published() == []


def test_all_artifacts_together_must_fit_on_the_disk(demo: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    demo.recipe["formats"] = ["safetensors", "gguf:Q8_0"]
    one = 7_000_000 + (16 << 20) + 100_000  # enough for the first alone
    monkeypatch.setattr("ingot.plan.budget.free_nbytes", lambda path: one, raising=False)
    monkeypatch.setattr(PosixDisk, "free_nbytes", lambda self, path: one)
    monkeypatch.setattr("os.statvfs", lambda path: type("Room", (), {"f_bavail": one, "f_frsize": 1})())
    with pytest.raises(ResourceError, match="too little room"):
        demo.release()
    assert demo.published() == []


def test_the_registry_finds_a_released_file_by_its_digest_and_names_the_training_run(shop: Shop) -> None:
    from ingot.registry.lineage import trace

    (entry,) = shop.release().published
    digest = hashlib.sha256((Path(str(entry.place)) / "model-00001-of-00002.safetensors").read_bytes()).hexdigest()
    lineage = trace(shop.registry, f"sha256:{digest[:16]}")
    assert lineage.back is not None
    assert lineage.back.entry.facts.adapters[0].training_run == "wandb:acme/toy/runs/7f3a"


def test_the_merged_values_are_those_of_float64(shop: Shop) -> None:
    (entry,) = shop.release().published
    merged: dict[str, np.ndarray] = {}
    for path in Path(str(entry.place)).glob("*.safetensors"):
        merged |= load_file(path)
    base: dict[str, np.ndarray] = {}
    for path in (shop.path / "base").glob("*.safetensors"):
        base |= load_file(path)
    lora = load_file(shop.path / "lora/adapter_model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    factors = [lora[f"base_model.model.{name}.lora_{side}.weight"].astype(np.float64) for side in "BA"]
    expected = base[f"{name}.weight"].astype(np.float64) + 2.0 * factors[0] @ factors[1]
    np.testing.assert_allclose(merged[f"{name}.weight"], expected, rtol=1e-3, atol=1e-3)
