"""Tasks of lm-evaluation-harness by name, and those of local YAML files, on our models; without the network.

A task's data set must be on the disk: a local file that its YAML names, or the cache of the datasets library. Functions
in YAML files run: the user names the directory, as with any test suite. Tasks that run code which the model wrote are
refused. Source: https://github.com/EleutherAI/lm-evaluation-harness, docs/interface.md and docs/task_guide.md.
"""

from __future__ import annotations

import difflib
import io
import logging
import os
import random
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingot.errors import IngotError, UsageError
from ingot.validate.answers import statistics
from ingot.validate.model import Model, Progress, Unsupported
from ingot.validate.models.libraries import first_line, need
from ingot.validate.result import HarnessScore

#: Resamples for the standard error of metrics that are no mean; lm-eval's own default takes minutes.
RESAMPLES = 1_000
#: The seeds of lm-eval's command line: of Python's random, of numpy and torch, of the choice of examples.
_SEED, _SEEDS, _EXAMPLES_SEED = 0, 1234, 1234

_OFFLINE = ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE", "HF_EVALUATE_OFFLINE")


@dataclass(frozen=True)
class Score:
    """One metric of one task for one model; `each` by document where every document's is 0 or 1, else None."""

    task: str
    metric: str
    value: float
    stderr: float | None
    samples: int
    each: Mapping[int, float] | None


@dataclass(frozen=True)
class Ran:
    """What one model scored. `left_out`: a sentence for each task that it could not be asked."""

    scores: tuple[Score, ...]
    left_out: tuple[str, ...] = ()


def check(tasks: Sequence[str], directory: Path | None = None) -> None:
    """Raises as `ask` does where a task is not there; loads no data set. Seconds, where lm-eval's own are indexed."""
    need("lm_eval", "datasets")
    with _quiet(), _offline():
        _index(tasks, directory)


def ask(
    model: Model,
    tasks: Sequence[str],
    progress: Progress,
    *,
    directory: Path | None = None,
    chat: bool = False,
    limit: int | None = None,
) -> Ran:
    """Every metric of every task, also of those that a group or a tag stands for.

    Args:
        tasks: names, as lm-eval knows them or as the YAML files in `directory` and below call themselves.
        progress: is told of requests to the model.
        chat: the model's chat template is applied, examples and question in one message of the user.
        limit: of each task, only the first so many documents.

    Raises:
        UsageError: no such task or directory; a task cannot be loaded, or fails on what the model said.
        MissingComponent: lm-eval is not installed.
    """
    need("lm_eval", "datasets")
    scores: list[Score] = []
    left_out: list[str] = []
    with _quiet(), _offline():
        manager = _index(tasks, directory)
        for name in dict.fromkeys(tasks):
            try:
                scores += _evaluate(model, name, manager, progress, chat, limit)
            except Unsupported as why:
                left_out.append(f"{name} of lm-evaluation-harness: {why}")
    return Ran(tuple(scores), tuple(left_out))


def compare(reference: Ran, candidate: Ran, *, seed: int = 0) -> tuple[HarnessScore, ...]:
    """The scores that both have, in the reference's order."""
    others = {(score.task, score.metric): score for score in candidate.scores}
    ours = [score for score in reference.scores if (score.task, score.metric) in others]
    return tuple(_held(score, others[score.task, score.metric], seed) for score in ours)


def _held(before: Score, after: Score, seed: int) -> HarnessScore:
    paired = None
    if before.each and after.each and before.each.keys() == after.each.keys():
        others = [after.each[number] for number in before.each]
        paired = statistics.compare(list(before.each.values()), others, seed=seed)
    return HarnessScore(before.task, before.metric, before.value, after.value, before.stderr, after.stderr,
                        before.samples, paired)  # fmt: skip


def _index(names: Sequence[str], folder: Path | None) -> Any:
    """lm-eval's TaskManager. Its own tasks, thousands of files, are read only for a name that `folder` has not."""
    from lm_eval.tasks import TaskManager

    if folder is not None and not folder.is_dir():
        raise UsageError("no such directory of tasks", where=folder, hint="Give the directory of the YAML files.")
    with _failing("the task files cannot be read"):
        manager = TaskManager(include_path=folder, include_defaults=False) if folder else None
        if manager is None or not set(names) <= {*manager.all_subtasks, *manager.all_tags}:
            manager = TaskManager(include_path=folder)
    for name in names:
        if name not in manager.all_tasks:
            near = difflib.get_close_matches(name, manager.all_tasks, n=3)
            hint = f"Did you mean {' or '.join(f'`{one}`' for one in near)}?" if near else _NAMES_HINT
            raise UsageError(f"no such task: {name}", where=folder, hint=hint)
    return manager


def _evaluate(
    model: Model, name: str, manager: Any, progress: Progress, chat: bool, limit: int | None
) -> Iterable[Score]:
    """One task, group or tag, as lm-eval's simple_evaluate does it with its default seeds."""
    from lm_eval.evaluator import evaluate

    from ingot.validate.answers.lm_adapter import Adapted

    _seed()
    with _failing(f"the task {name} cannot be loaded", _DATA_HINT):
        loaded = manager.load([name])
        for task in loaded["tasks"].values():
            if task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
            task.set_fewshot_seed(seed=_EXAMPLES_SEED)
    with _failing(f"the task {name} fails"):
        found = evaluate(
            Adapted(model, progress, chat=chat),
            loaded,
            limit=limit,
            bootstrap_iters=RESAMPLES,
            apply_chat_template=chat,
            fewshot_as_multiturn=False,
        )
    return [score for task in loaded["tasks"] for score in _scores(task, found)]


_NAMES_HINT = "Run `lm_eval ls tasks` for its own; the YAML files of your own are searched in the directory you name."
_DATA_HINT = (
    "No network is used: let `lm_eval` run the task once so that its data set is in the cache, or name a local file "
    "in the task's `data_files`."
)


def _scores(task: str, found: Mapping[str, Any]) -> Iterator[Score]:
    """`found` has "acc,none": 0.5 and "acc_stderr,none": 0.1 for each metric and filter, and every document's."""
    figures, documents = found["results"][task], found["samples"][task]
    for key, value in figures.items():
        metric, comma, chain = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        stderr = figures.get(f"{metric}_stderr,{chain}")
        each = {one["doc_id"]: one[metric] for one in documents if one["filter"] == chain and metric in one}
        whole = all(isinstance(score, int | float) and score in (0, 1) for score in each.values())
        mean = sum(map(float, each.values())) / len(each) if whole and each else None
        yield Score(
            task=task,
            metric=metric if chain == "none" else key,
            value=float(value),
            stderr=float(stderr) if isinstance(stderr, int | float) else None,
            samples=len(each),
            each={number: float(score) for number, score in each.items()}
            if mean is not None and abs(mean - value) < 1e-9
            else None,
        )


def _seed() -> None:
    import numpy as np
    import torch

    random.seed(_SEED)
    np.random.seed(_SEEDS)
    torch.manual_seed(_SEEDS)


@contextmanager
def _failing(what: str, hint: str | None = None) -> Iterator[None]:
    """What tasks, data sets and their functions raise, in one line."""
    try:
        yield
    except (IngotError, Unsupported, MemoryError):
        raise
    except Exception as error:
        hint = hint or "Run the task with `lm_eval` itself to see more."
        raise UsageError(what, found=first_line(error), hint=hint) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars, no logs, no warnings of lm-eval and what it stands on."""
    log = logging.getLogger("lm_eval")
    level, workers = log.level, os.environ.get("DISABLE_MULTIPROC")
    log.setLevel(logging.CRITICAL)
    os.environ["DISABLE_MULTIPROC"] = "1"  # a pool of processes forked from one that runs torch may hang
    try:
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
        _restore("DISABLE_MULTIPROC", workers)


@contextmanager
def _offline() -> Iterator[None]:
    """Both where the libraries look when they are imported, and where they look afterwards."""
    before = {name: os.environ.get(name) for name in _OFFLINE}
    os.environ.update(dict.fromkeys(_OFFLINE, "1"))
    import datasets
    from huggingface_hub import constants

    held = (datasets.config.HF_DATASETS_OFFLINE, datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE)
    datasets.config.HF_DATASETS_OFFLINE = datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_DATASETS_OFFLINE, datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = held
        for name, value in before.items():
            _restore(name, value)


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
