"""The demo's adapters combined by every method: the tables of scores in docs/combining.md.

python -m benchmarks.combine_methods --work DIR [--only methods | seeds | strangers]

methods     both adapters in one model, asked both tasks
seeds       the adapter of `dates` beside another that was trained from another seed, on either task
strangers   one adapter beside a made-up one that is more or less like it, as large, and reads the same inputs

A merged model answers all held-out samples greedily, in float32; a score is the share of answers that contain what is
expected. What a former run has scored is kept in DIR.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.rounding_effect import ROOT, load
from ingot.demo import assets
from ingot.merge import prepare
from ingot.plan.model import Options
from ingot.storage import DigestMemory

sys.path.insert(0, str(ROOT / "training"))

REPORT = ROOT / "docs" / "combining.md"


@dataclass(frozen=True)
class Setting:
    """One merge: weights of `commands` and `dates`, in this order, and the options of the command line."""

    weights: tuple[float, ...]
    options: Options

    @property
    def key(self) -> str:
        default = asdict(Options())
        asked = {key: value for key, value in asdict(self.options).items() if value != default[key]}
        return json.dumps([self.weights, asked], sort_keys=True)

    @property
    def title(self) -> str:
        options, parts = self.options, []
        if self.weights not in ((1.0, 1.0), ()):
            parts.append("weights " + ", ".join(f"{weight:g}" for weight in self.weights))
        parts += [f"density {options.density:g}"] if options.density is not None else []
        parts += [f"λ {options.lambda_:g}"] if options.lambda_ != 1 else []
        parts += [f"gamma {options.gamma:g}"] if options.gamma is not None else []
        parts += [f"epsilon {options.epsilon:g}"] if options.epsilon is not None else []
        parts += [f"seed {options.seed}"] if options.seed else []
        return ", ".join(parts) or "weights 1, 1"


def settings() -> Iterator[Setting]:
    """Those of the table, in its order."""
    for weights in ((1.0, 1.0), (0.7, 0.7), (0.5, 0.5), (0.7, 0.3), (0.3, 0.7)):
        yield Setting(weights, Options())
    yield Setting((1.0, 1.0), Options(method="sequential"))
    for method in ("magnitude_prune", "ties", "dare_linear", "dare_ties", "della_linear", "della", "breadcrumbs",
                   "breadcrumbs_ties"):  # fmt: skip
        for density in (0.2, 0.5, 0.8):
            yield Setting((1.0, 1.0), Options(method=method, density=density))
    for method in ("ties", "dare_ties", "della"):
        yield Setting((1.0, 1.0), Options(method=method, density=1.0))
    for scale in (0.7, 1.5):
        yield Setting((1.0, 1.0), Options(method="ties", density=0.2, lambda_=scale))
    for weights in ((1.0, 2.0), (2.0, 1.0)):
        yield Setting(weights, Options(method="ties", density=0.5))
    for gamma in (0.05, 0.2):
        yield Setting((1.0, 1.0), Options(method="breadcrumbs", density=0.8, gamma=gamma))
    for seed in (1, 2):
        yield Setting((1.0, 1.0), Options(method="dare_linear", density=0.5, seed=seed))
    for density in (0.1, 0.5, 1.0):
        yield Setting((1.0, 1.0), Options(method="sce", density=density))


def scores(setting: Setting, work: Path, known: dict[str, dict[str, float]]) -> dict[str, float]:
    """The scores of both tasks in percent."""
    if setting.key not in known:
        adapters = [str(task.adapter) for task in assets.tasks()]
        known[setting.key] = ask(_merged(work, list(zip(adapters, setting.weights, strict=True)), setting.options))
        (work / "scores.json").write_text(json.dumps(known, indent=1))
    return known[setting.key]


def ask(folder: Path, adapter: Path | None = None, only: str | None = None) -> dict[str, float]:
    """The scores of a checkpoint by task, with `adapter` on it unmerged."""
    from recipe import Recipe
    from scoring import answers, load_tokenizer

    model, tokenizer = load(folder, adapter), load_tokenizer(assets.base())
    found = {}
    for task in (task for task in assets.tasks() if only in (None, task.name)):
        replies = answers(model, tokenizer, [sample.prompt for sample in task.samples], Recipe())
        right = sum(sample.expected in reply for sample, reply in zip(task.samples, replies, strict=True))
        found[task.name] = 100 * right / len(task.samples)
    return found


def methods_table(work: Path) -> Iterator[str]:
    """A row for each setting."""
    path = work / "scores.json"
    known: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.exists() else {}
    for name, adapter in (("base", None), *((f"base + {task.name}", task.adapter) for task in assets.tasks())):
        if name not in known:
            known[name] = ask(assets.base(), adapter)
            path.write_text(json.dumps(known, indent=1))
    tasks = [task.name for task in assets.tasks()]
    yield f"| method | setting | {' | '.join(tasks)} | the lower |"
    yield "|---|---|" + "---|" * (len(tasks) + 1)
    for name in ("base", *(f"base + {task}" for task in tasks)):
        yield f"| {name} | | {' | '.join(f'{known[name][task]:.1f}' for task in tasks)} | |"
    for setting in settings():
        found = scores(setting, work, known)
        print(setting.options.method, setting.title, found, flush=True)
        cells = " | ".join(f"{found[task]:.1f}" for task in tasks)
        yield f"| {setting.options.method} | {setting.title} | {cells} | {min(found.values()):.1f} |"


#: Weight and options of each column of the tables below.
COLUMNS: dict[str, tuple[float, Options]] = {
    "linear": (1.0, Options()),
    "linear, halves": (0.5, Options()),
    "ties": (1.0, Options(method="ties", density=0.5)),
}
#: The adapter that the others are set beside, and the seed of those that are trained here.
BESIDE, SEED = "dates", 2


def seeds_table(work: Path) -> Iterator[str]:
    """A row for each task that another adapter was trained for, the demo's recipe with another seed throughout."""
    path = work / "seeds.json"
    known: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.exists() else {}
    beside = next(task for task in assets.tasks() if task.name == BESIDE)
    yield f"| the other | cosine | conflicts | shared / by chance | alone | {' | '.join(COLUMNS)} |"
    yield "|---|---|---|---|---|" + "---|" * len(COLUMNS)
    for task in assets.tasks():
        other = work / f"{task.name}-seed{SEED}"
        if not (other / "adapter_model.safetensors").exists():
            _train(task.name, other)
        cells = []
        for title, merge in {"alone": None, **COLUMNS}.items():
            key = f"{task.name} {title}"
            if key not in known:
                both = [(str(other), 1.0)] if merge is None else [(str(p), merge[0]) for p in (beside.adapter, other)]
                known[key] = ask(_merged(work, both, merge[1] if merge else Options()))
                path.write_text(json.dumps(known, indent=1))
                print(key, known[key], flush=True)
            cells.append(" / ".join(f"{name} {score:.0f}" for name, score in known[key].items()))
        yield f"| {task.name}, seed {SEED} | {_measured(beside.adapter, other)} | {' | '.join(cells)} |"


def _train(task: str, target: Path) -> None:
    from adapters import train_adapter
    from recipe import Recipe
    from scoring import load_base, load_tokenizer
    from tasks import split

    recipe, base = Recipe(), assets.base()
    samples, _ = split(task, recipe.lora_samples, recipe.held_out, recipe.seed)
    model = load_base(base, torch.float32)
    train_adapter(model, load_tokenizer(base), samples, replace(recipe, seed=SEED), task, target)


def _merged(work: Path, adapters: Sequence[tuple[str, float]], options: Options) -> Path:
    target = work / "merged"
    shutil.rmtree(target, ignore_errors=True)
    with prepare(str(assets.base()), adapters, options, target=target) as job:
        job.run(memory=DigestMemory(work / "memory"))
    return target


@dataclass(frozen=True)
class Stranger:
    """An adapter that is made up beside a real one, module by module: like · Δ + the rest of it at random.

    Attributes:
        like: the cosine of both updates.
        size: how large it is beside the real one.
        same_inputs: whether what is random of it reads the inputs that the real one reads, or any.
    """

    like: float = 0.0
    size: float = 1.0
    same_inputs: bool = False

    def write(self, adapter: Path, target: Path) -> Path:
        """s·(B₂ @ A₂) with A₂ = [A, R], B₂ = [like · B, S]: twice the rank, and twice the alpha."""
        config = json.loads((adapter / "adapter_config.json").read_text())
        tensors = load_file(adapter / "adapter_model.safetensors")
        generator = torch.Generator().manual_seed(1)
        made = {}
        for name, a in tensors.items():
            if not name.endswith("lora_A.weight"):
                continue
            other = name.replace("lora_A", "lora_B")
            b = tensors[other]
            rows = a if self.same_inputs else torch.randn(a.shape, generator=generator)
            columns = torch.randn(b.shape, generator=generator)
            columns *= (1 - self.like**2) ** 0.5 * float((b @ a).norm() / (columns @ rows).norm())
            made[name] = torch.cat([a, rows])
            made[other] = self.size * torch.cat([self.like * b, columns], dim=1)
        target.mkdir(parents=True, exist_ok=True)
        save_file(made, target / "adapter_model.safetensors")
        config |= {"r": 2 * config["r"], "lora_alpha": 2 * config["lora_alpha"]}
        (target / "adapter_config.json").write_text(json.dumps(config))
        return target


STRANGERS = (
    *(Stranger(like=like) for like in (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0, -0.3, -0.7)),
    *(Stranger(size=size) for size in (0.25, 0.5, 2.0, 4.0)),
    *(Stranger(size=size, same_inputs=True) for size in (0.25, 0.5, 1.0, 2.0)),
)


def strangers_table(work: Path) -> Iterator[str]:
    """A row for each made-up adapter: what the plan measures, and the real adapter's own score, by task."""
    path = work / "strangers.json"
    known: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.exists() else {}
    titles = " | ".join(f"{title}: {' / '.join(task.name for task in assets.tasks())}" for title in COLUMNS)
    yield f"| size | same inputs | cosine | conflicts | shared / by chance | {titles} |"
    yield "|---|---|---|---|---|" + "---|" * len(COLUMNS)
    for stranger in STRANGERS:
        cells: dict[str, list[str]] = {title: [] for title in COLUMNS}
        shown = ""
        for task in assets.tasks():
            made = stranger.write(task.adapter, work / "stranger")
            for title, (weight, options) in COLUMNS.items():
                key = f"{task.name} {stranger} {title}"
                if key not in known:
                    target = _merged(work, [(str(task.adapter), weight), (str(made), weight)], options)
                    known[key] = ask(target, only=task.name)
                    path.write_text(json.dumps(known, indent=1))
                    print(key, known[key], flush=True)
                cells[title].append(f"{known[key][task.name]:.0f}")
            shown = shown or _measured(task.adapter, made)
        scores = " | ".join(" / ".join(cells[title]) for title in COLUMNS)
        same = "yes" if stranger.same_inputs else ""
        yield f"| {stranger.size:g} | {same} | {shown} | {scores} |"


def _measured(one: Path, other: Path) -> str:
    """What `ingot plan` says of the two: the mean over groups."""
    with prepare(str(assets.base()), [(str(one), 1.0), (str(other), 1.0)]) as job:
        pairs = [pair for group in job.interference().groups for pair in group.pairs]
    conflicts = [pair.conflicts for pair in pairs if pair.conflicts is not None]
    shared = [pair.shared / pair.by_chance for pair in pairs if pair.shared is not None and pair.by_chance]
    cosine = sum(pair.cosine for pair in pairs) / len(pairs)
    return f"{cosine:.2f} | {100 * sum(conflicts) / len(conflicts):.0f} % | {sum(shared) / len(shared):.1f}"


SECTIONS = {"methods": methods_table, "seeds": seeds_table, "strangers": strangers_table}


def main() -> None:
    """Merge, ask, and write each table into its place in the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.combine_methods", description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "benchmarks" / "work" / "combining")
    parser.add_argument("--only", choices=list(SECTIONS), nargs="+", default=list(SECTIONS))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for section in arguments.only:
        lines = "\n".join(SECTIONS[section](arguments.work))
        begin, end = f"<!-- {section}: begin -->", f"<!-- {section}: end -->"
        before, _, rest = REPORT.read_text(encoding="utf-8").partition(begin)
        REPORT.write_text(f"{before}{begin}\n\n{lines}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
