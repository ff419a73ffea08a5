"""What the user asked for, taken apart and looked at before anything long begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from ingot.errors import UsageError
from ingot.merge import checked_device
from ingot.validate.answers.metrics import Metric, metric_for
from ingot.validate.answers.samples import SampleFile, read_samples
from ingot.validate.gates import Limits
from ingot.validate.gguf_files import GgufFiles, GgufModel, locate_gguf
from ingot.validate.model import Progress
from ingot.validate.models.llama_process import runtime
from ingot.validate.spec import Kind, Located, Spec, locate_spec, parse_spec

#: What a chat template adds to a prompt, with room to spare; and what tasks of lm-evaluation-harness mostly fit into.
_TEMPLATE_TOKENS, _HARNESS_TOKENS = 256, 4096

#: Opens a bar: what is done, of how many units, which unit; what it yields is told of units done.
Bar = Callable[[str, int, str], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
        reference, candidates: specs, see `spec`.
        samples: `[NAME=]FILE.jsonl[:METRIC]` each.
        metric: of files that name none.
        chat: prompts go through the chat template.
        new_tokens: the most that an answer may have.
        stream_layers: logits layer by layer from the files; then nothing is answered.
        harness: names of lm-evaluation-harness tasks; `harness_dir` holds task files of the user's own;
            `harness_limit`: only the first so many documents of each.
        logit_tokens: tokens on which logits are compared; None: as many as take a minute or two.
        dtype: what the models of transformers compute in; None: as they are stored.
        jobs: threads that compare weights, and those of llama.cpp.
        seed: of the bootstrap.
        work: where answers are kept for a resume, and logits meanwhile.
    """

    reference: str
    candidates: tuple[str, ...]
    samples: tuple[str, ...] = ()
    metric: str | None = None
    chat: bool = False
    new_tokens: int = 64
    stream_layers: bool = False
    harness: tuple[str, ...] = ()
    harness_dir: Path | None = None
    harness_limit: int | None = None
    logit_tokens: int | None = None
    limits: Limits = field(default_factory=Limits)
    dtype: str | None = None
    device: str = "cpu"
    jobs: int = 1
    seed: int = 0
    work: Path = Path()

    def as_settings(self) -> dict[str, object]:
        """What decides the figures, beside the models and the samples; for the record."""
        return {
            "chat": self.chat, "new_tokens": self.new_tokens, "dtype": self.dtype or "as stored",
            "device": self.device, "stream_layers": self.stream_layers, "seed": self.seed,
            "harness": list(self.harness), "harness_limit": self.harness_limit, "limits": dict(vars(self.limits)),
            "logit_tokens": self.logit_tokens,
        }  # fmt: skip


@dataclass(frozen=True)
class Side:
    """Reference or candidate, found. `located` None: it is an endpoint."""

    spec: Spec
    located: Located | GgufModel | None

    @property
    def name(self) -> str:
        return self.spec.base if self.located is None else self.located.name


@dataclass(frozen=True)
class Checked:
    """A request whose files were read and whose models were found."""

    request: Request
    reference: Side
    candidates: tuple[Side, ...]
    tasks: tuple[tuple[SampleFile, Metric], ...]

    @property
    def prompts(self) -> list[str]:
        """Of all files in order."""
        return [sample.prompt for file, _ in self.tasks for sample in file.samples]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(prompt, expected) of all files in order."""
        return [(sample.prompt, sample.expected_text) for file, _ in self.tasks for sample in file.samples]

    @property
    def longest(self) -> int:
        """No sample has more tokens, its template and its answer counted: it has as many bytes, or more."""
        longest = max((len(prompt.encode()) + len(expected.encode()) for prompt, expected in self.pairs), default=0)
        own = longest + self.request.new_tokens + _TEMPLATE_TOKENS
        return max(own, _HARNESS_TOKENS) if self.request.harness else own

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know of the sample files."""
        return tuple(warning for file, _ in self.tasks for warning in file.warnings)


def check(request: Request) -> Checked:
    """Read the sample files and find the models.

    Raises:
        UsageError: a spec, a sample file or a metric is at fault, or there is nothing to compare by.
        BaseError, AdapterError, UnsafeInputError: a model is not there, or a GGUF is none.
        MissingComponent: there is nothing here that runs a GGUF, or not the device.
    """
    checked_device(request.device)
    specs = [parse_spec(text) for text in (request.reference, *request.candidates)]
    kinds = {spec.kind for spec in specs}
    if Kind.GGUF in kinds:
        runtime()
    files = read_samples(request.samples, request.metric)
    tasks = tuple((file, metric_for(file)) for file in files)
    if not tasks and not request.harness:
        _check_weights(specs[0], specs[1:])
    if request.stream_layers and kinds & {Kind.ENDPOINT, Kind.GGUF}:
        raise UsageError("the layers of an endpoint or a GGUF cannot be streamed", hint="Leave --stream-layers out.")
    if request.harness:
        from ingot.validate.answers import harness

        harness.check(request.harness, request.harness_dir)
    if request.stream_layers and not tasks:
        raise UsageError("--stream-layers compares logits, which need samples", hint="Pass --samples FILE.jsonl.")
    reference, *candidates = (Side(spec, _located(spec)) for spec in specs)
    return Checked(request, reference, tuple(candidates), tasks)


def _check_weights(reference: Spec, candidates: Sequence[Spec]) -> None:
    """Without samples weights are all that is compared. Raises UsageError where a model has none to compare."""
    for spec in candidates:
        if reference.kind is not Kind.ADAPTED or spec.kind is not Kind.CHECKPOINT:
            hint = "Pass --samples FILE.jsonl or --tasks NAME."
            raise UsageError("there is nothing to compare by", where=spec.text, hint=hint)


def _located(spec: Spec) -> Located | GgufModel | None:
    if spec.kind is Kind.ENDPOINT:
        return None
    if spec.kind is not Kind.GGUF:
        return locate_spec(spec)
    model = locate_gguf(Path(spec.base).expanduser())
    GgufFiles.open(model).close()  # what is wrong with it is said now, not after the reference has run
    return model
