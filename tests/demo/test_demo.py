"""The demo's files are what README says of them, and the demo reaches the scores that it promises."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import util
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from ingot.demo import assets, run
from ingot.demo.assets import Task
from ingot.demo.recipes import recipe_of
from ingot.demo.run import Row
from ingot.errors import MissingComponent, UsageError
from ingot.record import read_record
from ingot.registry.lineage import trace
from ingot.registry.store import Registry
from ingot.release.recipe import read_recipe

#: Third-party loaders leave descriptors to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")


class Listener:
    """Keeps what the demo says."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    @property
    def width(self) -> int:
        return 100

    def say(self, text: str = "", style: str | None = None) -> None:
        self.shown.append(text)

    def lines(self, lines: Iterable[str], *, headings: bool = True) -> None:
        self.shown.extend(lines)

    def event(self, kind: str, **fields: object) -> None:
        pass


@contextmanager
def no_bar(_what: str, total: int, _unit: str) -> Iterator[Callable[[int], None]]:
    counted = []
    yield counted.append
    assert sum(counted) == total


def test_the_base_is_a_small_llama_with_a_chat_template() -> None:
    base = assets.base()
    config = json.loads((base / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["hidden_size"] % 256 == 0
    assert sum(path.stat().st_size for path in base.glob("*.safetensors")) <= 12_000_000
    tokenizer = AutoTokenizer.from_pretrained(base)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello"}], tokenize=False, add_generation_prompt=True
    )
    assert "hello" in text


def test_each_task_has_enough_samples_and_none_twice() -> None:
    tasks = assets.tasks()
    assert len(tasks) == 2
    for task in tasks:
        assert len({sample.prompt for sample in task.samples}) == len(task.samples) >= 200
        assert all(sample.expected for sample in task.samples)


def test_no_path_of_a_machine_came_along() -> None:
    for path in assets.DATA.rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        for folder in ("home", "root"):
            assert f"/{folder}/" not in text
        assert os.getcwd() not in text


def test_the_demo_reaches_its_scores_and_says_where_everything_is(tmp_path: Path) -> None:
    listener = Listener()
    rows = run(listener, no_bar, tmp_path / "demo")
    shown = "\n".join(listener.shown)
    registry = Registry.open(tmp_path / "demo" / "registry")
    entries = {entry.name: entry for entry in registry.entries()}
    for row in rows:
        assert row.base <= 30
        assert row.adapter >= 90
        assert row.example["merged"] != row.example["base"]
        assert Path(row.report).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
        assert row.report in shown
        assert row.recipe in shown
        assert [made.format for made in row.made] == ["safetensors", "gguf:Q8_0", "gguf:Q4_K_M"]
        merged, *quantized = row.made
        assert abs(merged.score - row.adapter) <= 1
        assert merged.nbytes > quantized[0].nbytes > quantized[1].nbytes
        for made in row.made:
            assert made.score >= merged.score - 5
            assert made.same_answers >= 0.9 * row.samples
            entry = entries[made.name]
            assert (entry.state, entry.tags) == ("here", (f"{row.task}/{made.format.rpartition(':')[2].lower()}",))
            record = read_record((Path(made.place) / "ingot.json").read_bytes())
            (evaluation,) = record.statement.predicate.run.evaluations
            assert evaluation["ok"]
        assert all(next(Path(made.place).glob("*.gguf")).read_bytes()[:4] == b"GGUF" for made in quantized)
    assert json.loads((tmp_path / "demo" / "scores.json").read_text())[0]["task"] == rows[0].task
    _a_second_run_makes_nothing_and_says_the_same(tmp_path / "demo", rows)
    _a_file_is_traced_to_its_training_run_by_its_digest(registry, rows)


def _a_second_run_makes_nothing_and_says_the_same(directory: Path, rows: list[Row]) -> None:
    before = {path: path.stat().st_mtime_ns for path in directory.glob("registry/artifacts/*/*")}
    assert run(Listener(), no_bar, directory) == rows
    assert {path: path.stat().st_mtime_ns for path in directory.glob("registry/artifacts/*/*")} == before


def _a_file_is_traced_to_its_training_run_by_its_digest(registry: Registry, rows: list[Row]) -> None:
    file = next(Path(rows[-1].made[-1].place).glob("*.gguf"))
    lineage = trace(registry, hashlib.sha256(file.read_bytes()).hexdigest()[:12])
    assert lineage.back is not None
    assert lineage.back.entry.facts.adapters[0].training_run == f"training/train_demo.py {rows[-1].task}"


def test_without_llama_cpp_the_demo_says_so_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_models(task: Task, directory: Path, *rest: object, gguf: bool) -> Row:
        recipe = recipe_of(task, assets.base(), gguf=gguf)
        assert b"gguf" not in recipe.replace(b"`gguf", b"")
        return Row(task.name, 1, 0.0, 100.0, "recipe", "report", (), {})

    monkeypatch.setattr(sys.modules["ingot.demo.run"], "_row", no_models)
    find_spec = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == "xllamacpp" else find_spec(name))
    listener = Listener()
    run(listener, no_bar, tmp_path / "demo")
    (said,) = [line for line in listener.shown if line.startswith("Without GGUF:")]
    assert "xllamacpp" in said
    assert "pip install 'ingot-merge[gguf]'" in said


def test_a_demo_directory_that_holds_something_else_is_not_taken_for_the_demos(tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="something else"):
        run(Listener(), no_bar, tmp_path)
    assert (tmp_path / "registry" / "notes.txt").read_text() == "mine"


def test_a_recipe_holds_whatever_a_path_holds(tmp_path: Path) -> None:
    odd = tmp_path / 'quote " colon: and #'
    task = assets.tasks()[0]
    file = tmp_path / "release.yaml"
    file.write_bytes(recipe_of(task, odd, gguf=True))
    recipe = read_recipe(file)
    assert recipe.base.model == str(odd)
    assert [form.format for form in recipe.formats] == ["safetensors", "gguf:Q8_0", "gguf:Q4_K_M"]


def test_without_peft_the_demo_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingComponent, match="peft") as refusal:
        run(Listener(), no_bar, tmp_path)
    assert "pip install" in (refusal.value.hint or "")
