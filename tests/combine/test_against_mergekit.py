"""Whole checkpoints merged by mergekit and by us, where the definitions agree; docs/combining.md has where they do not.

mergekit is no dependency. To run this, in an environment that has ingot's test dependencies as well:

    pip install mergekit==0.1.5 && pytest -m slow tests/combine/test_against_mergekit.py

mergekit merges full models, so that each adapter is merged alone first. All values are multiples of 2^-20 and small:
no sum is rounded in float32, and both see the very same deltas.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ingot.kernels.rounding import counter_key, uniform
from ingot.merge import prepare
from ingot.plan.model import Options
from tests import toy
from tests.oracle.reference import on_disk, unheard
from tests.tiny_models import MODELS

os.environ.setdefault("HF_HUB_OFFLINE", "1")
with unheard():
    mergekit = pytest.importorskip("mergekit")
pytestmark = pytest.mark.slow

UNIT = 2.0**-20
SEED = 11
DENSITY = 0.3
MODULES = ("self_attn.q_proj", "mlp.down_proj")


def exact(shape: tuple[int, ...], largest: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(-largest, largest + 1, shape, generator=generator).float()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, three adapters, and the full models that they make, all float32."""
    directory = tmp_path_factory.mktemp("mergekit")
    generator = torch.Generator().manual_seed(1)
    with unheard():
        MODELS["llama"]().float().save_pretrained(directory / "base")
    file = directory / "base" / "model.safetensors"
    base = {name: exact(tuple(tensor.shape), 1 << 18, generator) * UNIT for name, tensor in load_file(file).items()}
    save_file(base, file, {"format": "pt"})
    for number in range(3):
        make_adapter(directory / f"adapter{number}", base, generator, lone=number == 0)
        with prepare(
            str(directory / "base"), [(str(directory / f"adapter{number}"), 1.0)], target=directory / f"full{number}"
        ) as job:
            job.run()
    return directory


def make_adapter(target: Path, base: dict[str, torch.Tensor], generator: torch.Generator, *, lone: bool) -> None:
    """Two modules of each layer; the lone one has another module that the others leave alone."""
    modules = (*MODULES, "mlp.up_proj") if lone else MODULES
    tensors = {}
    for name, weight in base.items():
        if name.endswith(tuple(f"{module}.weight" for module in modules)):
            path = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{path}.lora_A.weight"] = exact((2, weight.shape[1]), 300, generator)
            tensors[f"{path}.lora_B.weight"] = exact((weight.shape[0], 2), 300, generator) * UNIT
    names = sorted({module.rpartition(".")[2] for module in modules})
    toy.write_adapter(target, tensors, {"r": 2, "lora_alpha": 2, "target_modules": names})


def by_mergekit(root: Path, method: str, weights: list[float], **parameters: Any) -> dict[str, torch.Tensor]:
    own = {key: parameters.pop(key) for key in ("density", "gamma", "epsilon") if key in parameters}
    models = [
        {"model": str(root / f"full{number}"), "parameters": {**own, **({"weight": w} if method != "sce" else {})}}
        for number, w in enumerate(weights)
    ]
    config = {"merge_method": method, "base_model": str(root / "base"), "models": models, "dtype": "float32",
              "parameters": parameters}  # fmt: skip
    out = root / f"mergekit-{len(list(root.iterdir()))}"
    with unheard():
        from mergekit.config import MergeConfiguration
        from mergekit.merge import MergeOptions, run_merge

        run_merge(MergeConfiguration.model_validate(config), str(out), MergeOptions(copy_tokenizer=False, quiet=True))
    return on_disk(out)


def by_us(root: Path, method: str, weights: list[float], **how: Any) -> dict[str, torch.Tensor]:
    out = root / f"ours-{len(list(root.iterdir()))}"
    adapters = [(str(root / f"adapter{number}"), weight) for number, weight in enumerate(weights)]
    with prepare(str(root / "base"), adapters, Options(method=method, seed=SEED, **how), target=out) as job:
        job.run()
    return on_disk(out)


def assert_same(root: Path, ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    base = on_disk(root / "base")
    assert ours.keys() == theirs.keys()
    changed = {name for name in ours if not torch.equal(ours[name], base[name])}
    assert {name for name in theirs if not torch.equal(theirs[name], base[name])} == changed
    assert len(changed) == 2 * 3
    for name in changed:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=2e-6 * float(base[name].abs().max()))


WEIGHTS = {"one": [1.0], "two": [0.75, 0.25], "three": [0.5, 1.25, 0.75]}
#: Our method and options, theirs, and what they call them.
AGREE: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "linear": ("linear", {}, "task_arithmetic", {}),
    "ties": ("ties", {"density": DENSITY}, "ties", {"density": DENSITY}),
    "ties, scaled": ("ties", {"density": DENSITY, "lambda_": 0.5}, "ties", {"density": DENSITY, "lambda": 0.5}),
    "breadcrumbs": (
        "breadcrumbs", {"density": DENSITY, "gamma": 0.05}, "breadcrumbs", {"density": DENSITY, "gamma": 0.05}
    ),
    "breadcrumbs_ties": (
        "breadcrumbs_ties", {"density": DENSITY, "gamma": 0.05},
        "breadcrumbs_ties", {"density": DENSITY, "gamma": 0.05, "normalize": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize("count", WEIGHTS)
@pytest.mark.parametrize("name", AGREE)
def test_what_nothing_is_left_to_chance_in_is_mergekits(root: Path, name: str, count: str) -> None:
    ours, how, theirs, parameters = AGREE[name]
    weights = WEIGHTS[count]
    assert_same(root, by_us(root, ours, weights, **how), by_mergekit(root, theirs, weights, **parameters))


@pytest.mark.parametrize("weights", [[1.0], [0.75, -0.25]], ids=str)
def test_magnitude_prune_is_mergekits_trim_without_a_vote(root: Path, weights: list[float]) -> None:
    """mergekit has no such method by name: breadcrumbs that drops none of the largest is it."""
    ours = by_us(root, "magnitude_prune", weights, density=DENSITY)
    assert_same(root, ours, by_mergekit(root, "breadcrumbs", weights, density=DENSITY, gamma=0.0))


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("count", [2, 3])
def test_sce_is_mergekits(root: Path, count: int, density: float) -> None:
    ours = by_us(root, "sce", [1.0] * count, density=density)
    assert_same(root, ours, by_mergekit(root, "sce", [1.0] * count, select_topk=density))


@pytest.fixture
def chances(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mergekit draws the numbers that we draw: it is told which tensor of which adapter it has before it."""
    with unheard():
        from mergekit import sparsify
        from mergekit.merge_methods import generalized_task_arithmetic as methods

    base = on_disk(root / "base")
    known = {
        (full[name] - base[name]).numpy().tobytes(): (name, number)
        for number in range(3)
        for full in [on_disk(root / f"full{number}")]
        for name in base
    }
    current: list[tuple[str, int]] = []
    original = methods.sparsify

    def told(delta: torch.Tensor, **how: Any) -> torch.Tensor:
        current[:] = [known.get(delta.numpy().tobytes(), ("", 0))]
        result: torch.Tensor = original(delta, **how)
        return result

    def drawn(probabilities: torch.Tensor) -> torch.Tensor:
        name, number = current[0]
        shape = probabilities.shape if probabilities.ndim == 2 else (1, probabilities.numel())
        chance = uniform(counter_key(f"{SEED}\0{name}\0{number}"), 0, shape, torch.device("cpu"))
        return (chance.view(probabilities.shape) < probabilities).to(probabilities.dtype)

    monkeypatch.setattr(methods, "sparsify", told)
    monkeypatch.setattr(sparsify.torch, "bernoulli", drawn)


@pytest.mark.parametrize("count", WEIGHTS)
@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
@pytest.mark.usefixtures("chances")
def test_dare_is_mergekits_but_for_the_way_that_it_rescales(root: Path, method: str, count: str) -> None:
    """The paper divides by the density, and so do we; mergekit restores the sum of magnitudes. Without: the same."""
    weights = WEIGHTS[count]
    ours = by_us(root, method, weights, density=0.25)
    parameters = {"rescale": False, "normalize": method == "dare_ties", "density": 0.25, "lambda": 4.0}
    assert_same(root, ours, by_mergekit(root, method, weights, **parameters))


@pytest.mark.usefixtures("chances")
def test_della_keeps_what_mergekit_keeps(root: Path) -> None:
    """The paper divides each by its own probability, mergekit restores the sum of magnitudes; both keep the same."""
    base = on_disk(root / "base")
    ours = by_us(root, "della_linear", [1.0], density=0.4, epsilon=0.2)
    theirs = by_mergekit(root, "della_linear", [1.0], density=0.4, epsilon=0.2, rescale=False)
    kept = 0
    for name in base:
        found, expected = ours[name] != base[name], theirs[name] != base[name]
        assert (found != expected).sum() <= 1, name  # a probability that is rounded otherwise
        kept += int(found.sum())
    assert kept > 500


def test_where_definitions_differ_so_do_results(root: Path) -> None:
    """So that docs/combining.md stays true."""

    def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
        return all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)

    weights = [0.75, 0.25]
    ours = by_us(root, "breadcrumbs_ties", weights, density=DENSITY, gamma=0.05)
    assert not same(ours, by_mergekit(root, "breadcrumbs_ties", weights, density=DENSITY, gamma=0.05))
    negative = by_us(root, "ties", [1.0, -1.0], density=DENSITY)
    assert not same(negative, by_mergekit(root, "ties", [1.0, -1.0], density=DENSITY))
