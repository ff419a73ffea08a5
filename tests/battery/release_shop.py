"""A recipe, what its release must be, and how a registry is held against that: after a crash, and at the end."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import benchmarks.synthetic as synthetic
from ingot.demo import assets
from ingot.record import verify
from ingot.record.artifact import record_in
from ingot.record.statement import read_record
from ingot.registry.entry import State
from ingot.registry.layout import Layout
from ingot.registry.store import Registry
from ingot.release.planning import planned
from ingot.release.recipe import read_recipe
from ingot.release.run import run as run_release
from ingot.storage import Disk
from tests.battery.workshop import Content, _version, content_of, difference
from tests.registry import shelf
from tests.release.test_run import Listener, no_bar

FORMATS = ("safetensors", "gguf:Q8_0", "gguf:F16")
TAGS = ("candidate/{format}", "v{version}/{format}")
#: The one folder that a release leaves in work/: what validation computed.
LEFT_IN_WORK = {"evaluations"}
#: Mode and bytes of every file, by its path below adapters/.
Kept = Mapping[str, tuple[int, bytes]]


@dataclass(frozen=True)
class Expected:
    """A release that nothing disturbed: artifacts and their identities by name, identities by tag, kept adapters."""

    artifacts: Mapping[str, Content]
    identities: Mapping[str, str]
    tags: Mapping[str, str]
    adapters: Kept


@dataclass(frozen=True)
class ReleaseShop:
    """Everything is below `root`; `recipe` names no registry, so that each try has one of its own."""

    root: Path
    recipe: Path

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def command(self, registry: Path) -> list[str]:
        return ["release", str(self.recipe), "--registry", str(registry), "--quiet"]

    def release(self, registry: Path, disk: Disk | None = None) -> None:
        """In this process. Its memory of digests is its own: one of thousands of tries would be slow to read."""
        with (
            mock.patch.dict(os.environ, {"INGOT_CACHE": str(registry.with_name("cache"))}),
            mock.patch("importlib.metadata.version", _version),
        ):
            opened = Registry.open(registry, create=True, disk=disk)
            with planned(read_recipe(self.recipe), opened, jobs=1) as plan:
                result = run_release(plan, Listener(), no_bar)
        assert not result.kept_out, result.kept_out

    def expected(self) -> Expected:
        """Of a release that nothing disturbs."""
        root = self.root / "undisturbed"
        self.release(root)
        layout = Layout(root)
        artifacts = {path.name: _content(path) for path in sorted(layout.artifacts.iterdir())}
        identities = {name: record_in(layout.artifacts / name).identity for name in artifacts}
        found = Expected(
            artifacts, identities, Registry.open(root).tags().current, shelf.content_of(layout.adapters)
        )  # fmt: skip
        assert len(artifacts) == len(FORMATS), sorted(artifacts)
        assert len(found.tags) == len(TAGS) * len(FORMATS), sorted(found.tags)
        assert found.adapters, "no adapter was kept"
        fault = unfinished(root, found)
        assert fault is None, fault
        return found


@contextmanager
def folder_of_releases() -> Iterator[Path]:
    """A directory that is gone afterwards, with the adapters that were kept in it."""
    root = Path(tempfile.mkdtemp(prefix="ingot-battery-"))
    try:
        yield root
    finally:
        for folder in root.rglob("adapters/*"):  # kept, so they are read-only
            if folder.is_dir() and not folder.is_symlink():
                folder.chmod(0o755)
        shutil.rmtree(root, ignore_errors=True)


def demo_shop(root: Path) -> ReleaseShop:
    """The demo's base and one of its adapters."""
    return _shop(root, assets.base(), assets.tasks()[0].adapter)


def small_shop(root: Path) -> ReleaseShop:
    """A Llama of one layer, about 150 KB, with the demo's tokenizer."""
    shape = synthetic.Shape(32, 64, 1, 4, 2, 8, 2048, tie_word_embeddings=True)
    with mock.patch.object(synthetic, "SHARD_NBYTES", 135_000):
        synthetic.make_base(shape, root / "base")
    synthetic.make_adapter(shape, root / "adapter", 4)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(assets.base() / name, root / "base" / name)
    return _shop(root, root / "base", root / "adapter")


def _shop(root: Path, base: Path, adapter: Path) -> ReleaseShop:
    value: dict[str, Any] = {
        "ingot": 1, "name": "toy", "version": "1.0", "base": str(base),
        "adapters": [{"adapter": str(adapter), "version": "v3"}], "formats": list(FORMATS), "validate": {},
        "publish": {"tags": list(TAGS), "keep_adapters": True},
    }  # fmt: skip
    recipe = root / "release.yaml"
    recipe.write_text(json.dumps(value, indent=2))  # JSON is YAML
    return ReleaseShop(root, recipe)


def fault_of(root: Path, expected: Expected) -> str | None:
    """What a reader of the registry sees that is not whole, or not true; None where the release has yet to go on."""
    layout = Layout(root)
    if not layout.marker.exists():
        return f"artifacts before the registry: {_names(layout.artifacts)}" if _names(layout.artifacts) else None
    for name in _names(layout.artifacts):
        if name not in expected.artifacts:
            return f"artifacts/{name} is no artifact of the recipe"
        fault = difference(layout.artifacts / name, expected.artifacts[name])
        fault = fault or _unverified(layout.artifacts / name)
        if fault:
            return fault
    return _untrue(Registry.open(root), expected) or _half_kept(layout.adapters, expected.adapters)


def unfinished(root: Path, expected: Expected) -> str | None:
    """What a release that came to its end has not done, or has left lying."""
    fault = fault_of(root, expected)
    if fault:
        return fault
    layout, registry = Layout(root), Registry.open(root)
    entries = {entry.name: entry for entry in registry.entries()}
    if entries.keys() != expected.artifacts.keys() or any(entry.state is not State.HERE for entry in entries.values()):
        return f"listed: {', '.join(f'{entry.name} ({entry.state})' for entry in entries.values())}"
    if registry.tags().current != expected.tags:
        return f"tags: {registry.tags().current}"
    if shelf.content_of(layout.adapters) != expected.adapters:
        return f"adapters: {sorted(shelf.content_of(layout.adapters))}"
    left = [f"work/{name}" for name in sorted(set(os.listdir(layout.work)) - LEFT_IN_WORK)]
    left += [str(path.relative_to(root)) for path in root.rglob(".*")]
    return f"left: {', '.join(left)}" if left else _unevaluated(layout, expected)


def _content(path: Path) -> Content:
    content = content_of(path)
    assert content is not None
    return content


def _names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def _unverified(artifact: Path) -> str | None:
    found = verify(artifact, depth="read")
    return None if found.ok else f"{artifact}: {found.verdict}"


def _untrue(registry: Registry, expected: Expected) -> str | None:
    """Of what the registry tells: entries, tags, records that cannot be read."""
    entries = {entry.identity: entry for entry in registry.entries()}
    if registry.faults:
        return f"records that cannot be read: {registry.faults}"
    if registry.tags().damaged:
        return f"lines of the tags that cannot be read: {registry.tags().damaged}"
    for entry in entries.values():
        if expected.identities.get(entry.name) != entry.identity:
            return f"{entry.name} is listed as {entry.identity}"
        if registry.record(entry).identity != entry.identity:
            return f"the record of {entry.name} is another's"
    for tag, identity in registry.tags().current.items():
        if expected.tags.get(tag) != identity or entries[identity].state is not State.HERE:
            return f"the tag {tag} is on {identity}"
    return None


def _half_kept(folder: Path, expected: Kept) -> str | None:
    """Of adapters under their names; what stands beside them with a dot is being made."""
    found = {name: one for name, one in shelf.content_of(folder).items() if not name.startswith(".")}
    if found.items() - expected.items():
        return f"kept adapters differ in {min(found.items() - expected.items())[0]}"
    whole = {name for name in found if "/" in name}
    if whole and whole != {name for name in expected if "/" in name}:
        return f"an adapter is kept with {sorted(whole)} alone"
    return None


def _unevaluated(layout: Layout, expected: Expected) -> str | None:
    """Weights of safetensors were compared, once; the record that is kept tells of it, too, and the page is there."""
    for name, identity in expected.identities.items():
        data = [(folder / "ingot.json").read_bytes() for folder in (layout.artifacts / name, layout.records / identity)]
        if data[0] != data[1]:
            return f"{name}: the record that is kept is not the artifact's"
        evaluations = len(read_record(data[0]).statement.predicate.run.evaluations)
        checked = "config.json" in expected.artifacts[name]
        if evaluations != checked or (layout.records / identity / "report.html").is_file() != checked:
            return f"{name}: {evaluations} evaluations, and {sorted(os.listdir(layout.records / identity))}"
    return None
