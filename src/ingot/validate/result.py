"""The nouns of an evaluation: plain data that the gates judge, the page shows, `--json` prints and the record keeps.

Scores, shares and survivals are fractions of 1; KL divergences and log-likelihoods are in nats.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Subject:
    """A model that takes part. `digest` is sha256 over its files' digests, None for an endpoint."""

    name: str
    kind: str  # "checkpoint", "adapter on base", "endpoint", "GGUF"
    digest: str | None
    dtype: str | None = None


@dataclass(frozen=True)
class SampleSet:
    """One task file. `digest` is the sha256 of its bytes."""

    name: str
    digest: str
    count: int
    metric: str


@dataclass(frozen=True)
class Tokens:
    """Whether candidate and reference make the same tokens of the samples, chat template included.

    `first_difference` says in a sentence what differs, and in which sample; vocabularies may differ where no sample
    shows it.
    """

    samples: int
    same: int
    first_difference: str | None = None


@dataclass(frozen=True)
class ModuleFidelity:
    """One changed tensor W'[rows, columns] of the candidate, against base W and exact update Δ in float64.

    Attributes:
        tensor, module: its name on disk, and the module path that people know.
        layer: the number of its layer, None outside the layers.
        elements: how many.
        equal: share that equals round(W + Δ) to nearest.
        worst_ulp: largest distance to it, in units in the last place of the dtype.
        delta_rms: root mean square of Δ.
        delta_ulps: root mean square of Δ over that of half an ulp of W: well below 1 nearest rounding loses it.
        survival: <W' - W, Δ> / <Δ, Δ>; 1 is all of it, 0 the base, 2 a double merge. None where Δ is zero.
        subspace_error: |(W' - W - Δ) Q| / |Δ Q|, Q an orthonormal basis of A's rows; None where there is no A.
        said: what is wrong, in plain words; empty when nothing is.
        lost: nothing is wrong but that rounding took a part of the update; a limit says how much is too much.
    """

    tensor: str
    module: str
    layer: int | None
    elements: int
    equal: float
    worst_ulp: int
    delta_rms: float
    delta_ulps: float
    survival: float | None
    subspace_error: float | None
    said: str = ""
    lost: bool = False


@dataclass(frozen=True)
class Weights:
    """All changed tensors; `survival` is over all of them together, `equal` over all their elements.

    `untouched_differ` names tensors that no adapter changes and that still differ from the base; `missing` and `extra`
    those that the candidate lacks, or has and should not have.
    """

    dtype: str
    modules: tuple[ModuleFidelity, ...]
    equal: float
    worst_ulp: int
    survival: float | None
    untouched: int
    untouched_differ: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()


@dataclass(frozen=True)
class Logits:
    """On the samples' tokens. Samples are counted from 0 over all task files in order.

    Attributes:
        tokens: positions compared.
        mean_kl, worst_kl: KL(reference ‖ candidate) over positions, the worst position and its sample.
        top1: share of positions with the same most likely token.
        perplexity_reference, perplexity_candidate: on the samples' tokens.
        largest_difference: largest |Δlogit|, and its sample.
        sample_kl: mean KL of each sample that was compared.
        samples: their numbers, in ascending order.
    """

    tokens: int
    mean_kl: float
    worst_kl: float
    worst_kl_sample: int
    top1: float
    perplexity_reference: float
    perplexity_candidate: float
    largest_difference: float
    largest_difference_sample: int
    sample_kl: tuple[float, ...]
    samples: tuple[int, ...] = ()


@dataclass(frozen=True)
class LayerDistance:
    """After decoder layer `layer` (-1: the embedding): |h' - h| / |h| of the hidden states, over all positions."""

    layer: int
    distance: float


@dataclass(frozen=True)
class Comparison:
    """Two scores on the same samples.

    Attributes:
        samples: how many.
        reference, candidate: their mean scores.
        only_reference, only_candidate: samples that one alone got right.
        p_value: McNemar's exact test, two-sided; 1 where no sample differs.
        interval: bootstrap interval of candidate - reference, at `confidence`.
        sees: in a sentence, what so many samples can and cannot show.
    """

    samples: int
    reference: float
    candidate: float
    only_reference: int
    only_candidate: int
    p_value: float
    interval: tuple[float, float]
    confidence: float
    sees: str

    @property
    def difference(self) -> float:
        return self.candidate - self.reference


@dataclass(frozen=True)
class Answer:
    """One sample's answers, and whether each is right."""

    sample: int
    prompt: str
    expected: str
    reference: str
    candidate: str
    reference_right: bool
    candidate_right: bool


@dataclass(frozen=True)
class Task:
    """The answers to one task file, compared. `differing` are the samples whose answers are not the same text."""

    samples: SampleSet
    comparison: Comparison
    differing: tuple[Answer, ...]


@dataclass(frozen=True)
class HarnessScore:
    """One metric of one task of lm-evaluation-harness; `stderr` as it reports it."""

    task: str
    metric: str
    reference: float
    candidate: float
    reference_stderr: float | None
    candidate_stderr: float | None
    samples: int
    comparison: Comparison | None = None  # where the harness gives a score a sample that is 0 or 1


@dataclass(frozen=True)
class Gate:
    """A limit and what was found. `name` is the option, or the check that always holds."""

    name: str
    limit: str
    found: str
    ok: bool
    said: str


@dataclass(frozen=True)
class Candidate:
    """All that was found of one candidate. `left_out`: what could not be measured of it, and why."""

    subject: Subject
    tokens: Tokens | None
    weights: Weights | None
    logits: Logits | None
    depth: tuple[LayerDistance, ...]
    tasks: tuple[Task, ...]
    harness: tuple[HarnessScore, ...]
    gates: tuple[Gate, ...]
    left_out: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return all(gate.ok for gate in self.gates)


@dataclass(frozen=True)
class Evaluation:
    """One reference and every candidate that was held against it. `settings`: what else decides the figures."""

    reference: Subject
    candidates: tuple[Candidate, ...]
    samples: tuple[SampleSet, ...]
    settings: dict[str, object]
    ingot: str

    @property
    def ok(self) -> bool:
        return all(candidate.ok for candidate in self.candidates)
