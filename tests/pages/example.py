"""Registries to look at: made once by real merges of a toy, several levels of them, with evaluations and tags."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ingot import merge
from ingot.plan.model import Options
from ingot.record.evaluations import add_evaluation
from ingot.record.form import AdapterLabel, Release
from ingot.registry.entry import Entry
from ingot.registry.places import Places
from ingot.registry.store import Registry
from tests.cli import toys

RUNS = ("https://tracker.example/runs/7f3a91", "https://tracker.example/runs/81c2d0", "wandb:acme/style/k2j4")
RECIPE = {"base": {"name": "acme/tiny-8b"}, "adapters": [{"name": "support-lora", "weight": 1.0}], "dtype": "bfloat16"}


def make(
    registry: Registry, name: str, base: Path, adapters: Mapping[Path, AdapterLabel], *, dtype: str | None = None,
    release: str | None = None, version: str | None = None, evaluation: Mapping[str, Any] | None = None,
) -> Entry:  # fmt: skip
    """Merge, evaluate and publish, as a release does."""
    target = registry.layout.work / name
    told = Release(
        release or name, version, adapters=tuple(adapters.values()), recipe=RECIPE,
        recipe_sha256=hashlib.sha256(b"a recipe").hexdigest(),
    )  # fmt: skip
    with merge.prepare(str(base), [(str(path), 1.0) for path in adapters], Options(dtype=dtype), target=target) as job:
        job.run(release=told)
    if evaluation is not None:
        add_evaluation(target, evaluation)
    return registry.publish(target, Places(name))


def evaluation(score: float, *, ok: bool = True, name: str = "tickets") -> dict[str, Any]:
    """As `validate.report.brief` writes it."""
    comparison = {
        "samples": 400, "reference": 0.845, "candidate": score, "only_reference": 3, "only_candidate": 2,
        "p_value": 0.7, "interval": [score - 0.845 - 0.02, score - 0.845 + 0.02], "confidence": 0.95, "sees": "",
    }  # fmt: skip
    gate = {"name": "--max-score-drop", "limit": "at most 2 points", "found": "1.5 points", "ok": ok, "said": "x"}
    kl = {"name": "--max-kl", "limit": "at most 0.01", "found": "0.0021", "ok": True, "said": "x"}
    return {
        "evaluated_on": "2026-11-20T09:30:00Z", "ingot": "0.6", "ok": ok,
        "reference": {"name": "tiny-8b + support-lora", "kind": "adapter on base", "digest": "ab" * 32},
        "candidate": {"name": "candidate", "kind": "checkpoint", "digest": "cd" * 32},
        "samples": [], "settings": {}, "gates": [gate, kl], "tokens": [400, 400],
        "weights": {"survival": 0.99994, "equal": 0.9999},
        "logits": {"mean_kl": 0.0021, "top1": 0.991},
        "tasks": [{"name": name, **comparison}], "harness": [], "left_out": ["depth: the candidate is an endpoint"],
    }  # fmt: skip


def several(folder: Path) -> Registry:
    """Three adapters, twelve artifacts, three levels of them; one elsewhere, one freed, tags with a history."""
    registry = Registry.open(folder / "registry", create=True)
    bases = {name: folder / name for name in ("tiny-8b", "tiny-8b-instruct")}
    for number, path in enumerate(bases.values()):
        toys.make_base(path, shards=1 + number)
    names = ("support-lora", "style-lora", "facts-lora")
    for seed, name in enumerate(names):
        toys.make_adapter(folder / name, toys.adapter_tensors(seed=seed), base_model_name_or_path="tiny-8b")
    support, style, facts = (folder / name for name in names)
    base, instruct = bases.values()
    runs = [AdapterLabel(f"v{number + 1}", run) for number, run in enumerate(RUNS)]
    first = make(registry, "tiny-8b-support-v1", base, {support: runs[0]}, release="tiny-8b-support", version="v1",
                 evaluation=evaluation(0.84))  # fmt: skip
    for dtype, name in (("F32", "float32"), ("BF16", "bfloat16")):
        make(registry, f"tiny-8b-support-v1-{name}", base, {support: runs[0]}, dtype=dtype,
             release="tiny-8b-support", version="v1", evaluation=evaluation(0.8275, ok=name != "bfloat16"))  # fmt: skip
    second = make(registry, "tiny-8b-support-v2", base, {support: runs[0], style: runs[2]}, release="tiny-8b-support",
                  version="v2", evaluation=evaluation(0.8575))  # fmt: skip
    styled = make(registry, "tiny-8b-styled", Path(first.place or ""), {style: runs[2]}, version="v1")
    deep = make(registry, "tiny-8b-styled-with-facts", Path(styled.place or ""), {facts: AdapterLabel()})
    make(registry, "tiny-8b-styled-with-facts-bfloat16", Path(deep.place or ""), {facts: AdapterLabel()}, dtype="BF16",
         evaluation=evaluation(0.8125))  # fmt: skip
    for number, (adapter, label) in enumerate(((support, runs[1]), (style, runs[2]), (facts, AdapterLabel("v9")))):
        make(registry, f"instruct-{adapter.name}-r{number}", instruct, {adapter: label}, version=f"r{number}",
             evaluation=evaluation(0.7 + number / 20, name="instructions"))  # fmt: skip
    make(registry, "a-very-long-name-of-an-artifact-that-somebody-thought-to-be-telling-v12-float32", instruct,
         {support: runs[1], style: runs[2], facts: AdapterLabel()}, dtype="F32")  # fmt: skip
    with merge.prepare(str(base), [(str(facts), 0.5)], Options(), target=folder / "loose-experiment") as job:
        job.run()
    registry.add(folder / "loose-experiment", Places("loose-experiment"))
    registry.tag([("champion", first.identity), ("prod/eu", first.identity)])
    registry.tag([("champion", second.identity), ("candidate", deep.identity)])
    with registry.changing():
        registry.free(next(entry for entry in registry.entries() if entry.name == "tiny-8b-support-v1-float32"))
    return registry


def inlined(html: str, style: str) -> str:
    """A page that stands alone: its style in it, and a policy where the server sends one."""
    policy = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    link = '<link rel="stylesheet" href="/style.css">'
    icon = '<link rel="icon" href="/icon.svg" type="image/svg+xml">'
    assert html.count(link) == html.count(icon) == 1
    return html.replace(icon, policy).replace(link, f"<style>{style}</style>")
