"""An evaluation as `ingot validate` makes one: 28 layers of 7 modules, two tasks, up to four candidates."""

from __future__ import annotations

import math
import random
from dataclasses import replace

from ingot.validate.result import (
    Answer,
    Candidate,
    Comparison,
    Evaluation,
    Gate,
    HarnessScore,
    LayerDistance,
    Logits,
    ModuleFidelity,
    SampleSet,
    Subject,
    Task,
    Tokens,
    Weights,
)

LAYERS = 28
MODULES = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip
SETS = (
    SampleSet("commands", "3f" * 32, 120, "contains"),
    SampleSet("dates", "a7" * 32, 80, "exact"),
)
REFERENCE = Subject("acme/base-8b + adapters/commands + adapters/dates", "adapter on base", "5c" * 32, "BF16")
SETTINGS: dict[str, object] = {
    "seed": 0, "bootstrap resamples": 10_000, "confidence": 0.95, "chat template": False, "new tokens": 64,
    "batch": 16, "device": "cpu",
}  # fmt: skip
_TEMPLATE = "sample 5 of dates has 41 tokens instead of 40: the chat template ends without a newline"
NAMES = ("merged-8b", "merged-8b-fp16", "merged-8b-Q4_K_M.gguf", "merged-8b-int4")


def evaluation(candidates: int = 4, *, failing: bool = True) -> Evaluation:
    """The first of four candidates: clean, clean, a little off in its answers, and broken where `failing`."""
    noise = (0.0, 0.0003, 0.03, 0.12 if failing else 0.03)
    return Evaluation(
        reference=REFERENCE,
        candidates=tuple(candidate(number, noise[number], failing) for number in range(candidates)),
        samples=SETS,
        settings=SETTINGS,
        ingot="0.1.0",
    )


def candidate(number: int, noise: float, failing: bool) -> Candidate:
    rng = random.Random(number)
    gguf = number == 2
    broken = failing and number == 3
    weights = None if gguf else _weights(rng, noise, broken)
    logits = _logits(rng, noise)
    tasks = tuple(_task(rng, samples, noise) for samples in SETS)
    return Candidate(
        subject=Subject(
            NAMES[number], "GGUF" if gguf else "checkpoint", f"{number}e" * 32, ("BF16", "F16", None, "I4")[number]
        ),
        tokens=Tokens(200, 197, _TEMPLATE) if broken else Tokens(200, 200),
        weights=weights,
        logits=logits,
        depth=() if gguf else _depth(rng, noise, broken),
        tasks=tasks,
        harness=_harness(noise) if number < 2 else (),
        gates=_gates(weights, logits, tasks, broken),
        left_out=("Weights: tensors of a GGUF are not compared element by element.",) if gguf else (),
    )


def _weights(rng: random.Random, noise: float, broken: bool) -> Weights:
    modules = []
    for layer in range(LAYERS):
        for name in MODULES:
            survival = 1 + rng.gauss(0, noise or 2e-4)
            said = ""
            if broken and (layer, name) == (13, "mlp.down_proj"):
                survival, said = 0.0, "The adapter's update is not in it: the tensor equals the base."
            elif broken and (layer, name) == (21, "self_attn.q_proj"):
                survival, said = 2.004, "The adapter's update is in it twice."
            elif broken and survival < 0.8:
                said = f"{survival:.1%} of the adapter's update survived, below the limit of 80 %."
            modules.append(
                ModuleFidelity(
                    tensor=f"model.layers.{layer}.{name}.weight",
                    module=f"model.layers.{layer}.{name}",
                    layer=layer,
                    elements=4096 * 4096,
                    equal=1.0 if noise == 0 else max(0.0, 0.97 - 5 * noise),
                    worst_ulp=0 if noise == 0 else round(1 + noise * 300),
                    delta_rms=2.1e-4 * rng.uniform(0.5, 1.5),
                    delta_ulps=rng.uniform(1.5, 6) / (1 + 20 * noise),
                    survival=survival,
                    subspace_error=abs(survival - 1) + rng.uniform(0.001, 0.004),
                    said=said,
                )
            )
    return Weights(
        dtype="BF16",
        modules=tuple(modules),
        equal=sum(module.equal for module in modules) / len(modules),
        worst_ulp=max(module.worst_ulp for module in modules),
        survival=sum(module.survival or 0.0 for module in modules) / len(modules),
        untouched=95,
        untouched_differ=("model.layers.3.input_layernorm.weight",) if broken else (),
    )


def _logits(rng: random.Random, noise: float) -> Logits:
    scale = 2e-5 + noise * noise * 4
    sample_kl = tuple(scale * math.exp(rng.gauss(0, 1.1)) for _ in range(200))
    worst = max(range(200), key=sample_kl.__getitem__)
    return Logits(
        tokens=9_412,
        mean_kl=sum(sample_kl) / 200,
        worst_kl=sample_kl[worst] * 14,
        worst_kl_sample=worst,
        top1=1 - 0.0008 - noise * 0.5,
        perplexity_reference=7.412,
        perplexity_candidate=7.412 * (1 + noise * noise * 3),
        largest_difference=0.06 + noise * 30,
        largest_difference_sample=(worst + 7) % 200,
        sample_kl=sample_kl,
    )


def _depth(rng: random.Random, noise: float, broken: bool) -> tuple[LayerDistance, ...]:
    distances = [LayerDistance(-1, 0.0)]
    for layer in range(LAYERS):
        distance = (2e-4 + noise / 8) * math.sqrt(layer + 1) * rng.uniform(0.9, 1.1)
        distances.append(LayerDistance(layer, distance * (9 if broken and layer >= 13 else 1)))
    return tuple(distances)


_PROMPTS = {
    "commands": ("Write the shell command: list the files in {}, newest first.", "ls -lt {}"),
    "dates": ("Write the date in ISO form: the 17th of May {}", "{}-05-17"),
}


def _task(rng: random.Random, samples: SampleSet, noise: float) -> Task:
    prompt, expected = _PROMPTS[samples.name]
    differing, right = [], [0, 0, 0, 0]  # both, reference alone, candidate alone, neither
    reference = random.Random(samples.name)  # the same answers whatever the candidate
    for sample in range(samples.count):
        ours, theirs = reference.random() < 0.94, rng.random() < 0.5
        differs = rng.random() < noise * 3
        candidate_right = theirs if differs else ours
        right[(0 if candidate_right else 1) if ours else (2 if candidate_right else 3)] += 1
        if not differs:
            continue
        subject = f"~/notes/{sample}" if samples.name == "commands" else str(1960 + sample)
        good = expected.format(subject)
        differing.append(
            Answer(
                sample=sample,
                prompt=prompt.format(subject),
                expected=good,
                reference=good if ours else f"{good[:-1]}x",
                candidate=f"{good} # as asked" if candidate_right else f"{good[:-2]}{sample}\nThat is all.",
                reference_right=ours,
                candidate_right=candidate_right,
            )
        )
    return Task(samples, comparison(samples.count, right[0], right[1], right[2]), tuple(differing))


def comparison(samples: int, both: int, only_reference: int, only_candidate: int) -> Comparison:
    """With a normal interval, which is near enough to the bootstrap's for a picture."""
    discordant = only_reference + only_candidate
    difference = (only_candidate - only_reference) / samples
    spread = 1.96 * math.sqrt(max(discordant / samples - difference**2, 0.0) / samples)
    tail = sum(math.comb(discordant, k) for k in range(min(only_reference, only_candidate) + 1)) / 2**discordant
    return Comparison(
        samples=samples,
        reference=(both + only_reference) / samples,
        candidate=(both + only_candidate) / samples,
        only_reference=only_reference,
        only_candidate=only_candidate,
        p_value=min(1.0, 2 * tail),
        interval=(difference - spread, difference + spread),
        confidence=0.95,
        sees=(
            f"On {discordant or 'none'} of {samples} samples one model alone is right. A true drop of "
            f"{5 + discordant / 10:.1f} points or more would be found 4 times in 5; a smaller one may well go unseen."
        ),
    )


def _harness(noise: float) -> tuple[HarnessScore, ...]:
    return (
        HarnessScore("arc_easy", "acc", 0.812, 0.812 - noise, 0.008, 0.008, 2376),
        HarnessScore("gsm8k", "exact_match", 0.547, 0.551, 0.0137, 0.0137, 1319, comparison(1319, 690, 31, 36)),
    )


def _gates(weights: Weights | None, logits: Logits, tasks: tuple[Task, ...], broken: bool) -> tuple[Gate, ...]:
    gates = [
        Gate("tokens", "the same in every sample", "197 of 200" if broken else "200 of 200", not broken,
             _TEMPLATE if broken else "both make the same tokens of every sample"),
        Gate("--max-kl", "at most 0.05", f"{logits.mean_kl:.3g}", logits.mean_kl <= 0.05,
             f"mean KL {logits.mean_kl:.3g} over 9,412 positions, worst {logits.worst_kl:.3g}"),
        Gate("--min-top1", "at least 95.00 %", f"{100 * logits.top1:.2f} %", logits.top1 >= 0.95,
             f"the most likely token is the same in {100 * logits.top1:.2f} % of the positions"),
    ]  # fmt: skip
    for task in tasks:
        held, name = task.comparison, task.samples.name
        gates.append(
            Gate("--max-score-drop", f"{name}: at most 5.00 points lost", f"{0 - 100 * held.difference:.2f} points",
                 held.difference >= -0.0501,
                 f"{name}: {100 * held.reference:.2f} % became {100 * held.candidate:.2f} % "
                 f"({held.only_reference} samples lost, {held.only_candidate} gained)")
        )  # fmt: skip
    if weights is not None:
        low = [module for module in weights.modules if module.said]
        worst = min(weights.modules, key=lambda module: module.survival or 0.0)
        said = f"the least of the update is left in {worst.module}: {100 * (worst.survival or 0):.2f} %"
        gates.append(
            Gate("--min-survival", "at least 80.00 % of every update", f"{100 * (worst.survival or 0):.2f} %", not low,
                 f"{said}; {len(low)} tensors of {len(weights.modules)} below the limit" if low else said)
        )  # fmt: skip
    return tuple(gates)


def bare(name: str = "served") -> Evaluation:
    """An endpoint of which nothing but its answers to one task could be had."""
    whole = candidate(0, 0.03, False)
    only = replace(
        whole,
        subject=Subject(name, "endpoint", None),
        tokens=None, weights=None, logits=None, depth=(), tasks=whole.tasks[:1], harness=(), gates=(),
        left_out=("Weights: an endpoint has none to read.", "Logits: the endpoint gives no prompt log-probabilities."),
    )  # fmt: skip
    return Evaluation(REFERENCE, (only,), SETS[:1], SETTINGS, "0.1.0")


def empty() -> Evaluation:
    """A candidate of which nothing at all was found."""
    nothing = Candidate(Subject("nothing", "checkpoint", None), None, None, None, (), (), (), ())
    return Evaluation(REFERENCE, (nothing,), (), {}, "0.1.0")
