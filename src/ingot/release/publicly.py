"""A recipe as a record may show it: public names in the place of paths, no user, no token."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from ingot.plan.public import public_name

if TYPE_CHECKING:
    from ingot.release.recipe import Recipe

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)")
#: At the beginning, or behind a colon, an equals sign or a space: "file:/home/zoe".
_PATH = re.compile(r"(?:^|[\s:=])(?:/(?!/)|~|\\|\.\.?[/\\])|^[A-Za-z]:[/\\]")
_TOKEN = re.compile(r"\b(hf|api_org)_[A-Za-z0-9]{16,}")


def public(recipe: Recipe) -> dict[str, Any]:
    """The recipe as it was written, as JSON values, in public words."""
    tree: dict[str, Any] = _copied(recipe.written)
    base = _named(recipe.base.model)
    apart = isinstance(tree["base"], dict) and "revision" in tree["base"]
    _set(tree, "base", "model", base.partition("@")[0] if apart else base)
    for number, entry in enumerate(recipe.adapters):
        _set(tree["adapters"], number, "adapter", _named(entry.adapter))
    for number, form in enumerate(recipe.formats):
        for key in ("imatrix", "llama_cpp"):
            path = getattr(form, key)
            if path is not None:
                tree["formats"][number][key] = PurePath(path).name
    if recipe.merge.take:
        tree["merge"]["take"] = list(recipe.merge.take)
    if recipe.validate is not None:
        _validated(tree["validate"])
    if recipe.publish.registry is not None:
        tree["publish"]["registry"] = PurePath(recipe.publish.registry).name
    if recipe.publish.push:
        tree["publish"]["push"] = [_place(target) for target in recipe.publish.push]
    for entry in tree["adapters"]:
        if isinstance(entry, dict) and "training_run" in entry:
            entry["training_run"] = public_run(entry["training_run"])
    return {key: _scrubbed(value) for key, value in tree.items()}


def public_run(text: str) -> str:
    """The name of a training run without a login, a query or a path of this machine.

    Example: public_run("https://me:pw@wandb.ai/team/p/runs/x?tab=1") -> "https://wandb.ai/team/p/runs/x"
    """
    url = _URL.match(text)
    if url is None:
        return public_name(text) if _PATH.search(text) else _TOKEN.sub(r"\1_…", text)
    if url[1].lower() == "file":
        return public_name(text)
    return _TOKEN.sub(r"\1_…", f"{url[1]}://{url[2].rpartition('@')[2]}{url[3]}")


def _validated(part: dict[str, Any]) -> None:
    if "samples" in part:
        part["samples"] = [_samples(spec) for spec in part["samples"]]
    if "metric" in part:
        part["metric"] = _metric(part["metric"])
    if "tasks_dir" in part:
        part["tasks_dir"] = public_name(part["tasks_dir"])
    if "tasks" in part:
        part["tasks"] = [PurePath(task).name for task in part["tasks"]]


def _samples(spec: str) -> str:
    """[NAME=]FILE.jsonl[:METRIC] with the file's own name."""
    stem, found, metric = spec.partition(".jsonl:")
    file = f"{stem}.jsonl" if found else spec
    before, equals, after = file.partition("=")
    shown = f"{before}={_file(after)}" if equals and "/" not in before else _file(file)
    return f"{shown}:{_metric(metric)}" if found else shown


def _metric(metric: str) -> str:
    file, found, function = metric.rpartition(".py:")
    return f"{_file(file)}.py:{function}" if found else metric


def _file(path: str) -> str:
    return PurePath(path.replace("\\", "/")).name


def _named(spec: str) -> str:
    """A resolved base or adapter: a Hub id with its revision, or a directory's own name."""
    if os.path.isabs(spec):
        return _file(spec)
    name, at, revision = spec.partition("@")
    return public_name(spec) if "://" in spec else f"{name}{at}{revision}"


def _place(target: str) -> str:
    """Where an artifact is pushed: a repository of the Hub as it is; of another place its kind and last part."""
    scheme, _, rest = target.partition(":")
    return public_run(target) if scheme.lower() == "hf" else f"{scheme}:{public_name(rest.rstrip('/'))}"


def _set(tree: Any, key: str | int, inner: str, value: str) -> None:
    """Into the object at `key`, or in the place of the string that stands for it."""
    if isinstance(tree[key], dict):
        tree[key][inner] = value
    else:
        tree[key] = value


def _copied(value: Any) -> Any:
    return _each(value, lambda text: text)


def _scrubbed(value: Any) -> Any:
    """Whatever stands where no path belongs, and is one all the same."""
    return _each(value, lambda text: public_name(text) if _PATH.search(text) else _TOKEN.sub(r"\1_…", text))


def _each(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _each(inner, change) for key, inner in value.items()}
    if isinstance(value, list):
        return [_each(inner, change) for inner in value]
    return change(value) if isinstance(value, str) else value
