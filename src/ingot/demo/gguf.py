"""The demo's merged models as GGUF, both types from one pass over base and adapter, run by llama.cpp."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from ingot.demo.assets import Task
from ingot.errors import CheckFailed, MissingComponent
from ingot.merge import cores, prepare
from ingot.plan.figures import nbytes_text
from ingot.plan.model import GgufOptions, Options
from ingot.quantize.gguf.types import library
from ingot.record.verify import verify
from ingot.validate.answers.metrics import Metric
from ingot.validate.answers.samples import SampleFile
from ingot.validate.answers.tasks import answer
from ingot.validate.gguf_files import locate_gguf
from ingot.validate.models.llama_cpp import LlamaCpp
from ingot.validate.models.llama_process import runtime
from ingot.validate.request import Bar

FILE_TYPES = ("Q8_0", "Q4_K_M")
#: Held-out samples that the files are scored on; all of them would be most of the demo's time.
SAMPLES = 100
#: What a file may lose against the merged model on them, in points, before the demo calls it broken.
_MOST_LOST = {"Q8_0": 4.0, "Q4_K_M": 10.0}
_CONTEXT = 512


@dataclass(frozen=True)
class Quantized:
    """A merged model in one type ("merged": as it is, run by transformers), on the first `samples` held-out samples.

    `score` is in percent; `same_answers` counts the answers that are the merged model's to the letter.
    """

    task: str
    type: str
    file: str
    nbytes: int
    samples: int
    score: float
    same_answers: int


def missing() -> str | None:
    """Why there is no GGUF here and what helps; None where there is one."""
    try:
        library()
        runtime()
    except MissingComponent as error:
        return f"{error.message}. {error.hint}"
    return None


def make(task: Task, base: Path, directory: Path, stop: threading.Event | None) -> list[Path]:
    """The files, in the order of `FILE_TYPES`; those of a former demo are as good, if they verify.

    Raises CheckFailed: they do not.
    """
    target, adapters = directory / f"{task.name}-gguf", [(str(task.adapter), 1.0)]
    with prepare(str(base), adapters, Options(gguf=GgufOptions(FILE_TYPES)), target=target) as job:
        if not target.exists():
            job.run(stop=stop)
        assert job.document is not None
        files = [target / of.files[0].name for of in job.document.formats]
    checked = verify(target, depth="against-inputs", base=str(base), adapters=[str(task.adapter)], stop=stop)
    if not checked.ok:
        raise CheckFailed("what lies here is not the demo's GGUF", where=target,
                          hint="Give another directory: ingot demo DIRECTORY")  # fmt: skip
    return files


def score(
    task: Task, files: Sequence[Path], samples: SampleFile, metric: Metric, merged: Path, answers: Sequence[str],
    bar: Bar, *, new_tokens: int, work: Path,
) -> tuple[Quantized, ...]:  # fmt: skip
    """The merged model, whose `answers` are known, and each file beside it.

    Raises CheckFailed: a file answers much worse than the merged model.
    """
    few = replace(samples, samples=samples.samples[:SAMPLES])
    count = len(few.samples)

    def row(kind: str, name: str, nbytes: int, texts: Sequence[str]) -> Quantized:
        right = sum(metric.score(text, sample) == 1 for text, sample in zip(texts, few.samples, strict=True))
        same = sum(text == other for text, other in zip(texts, answers[:count], strict=True))
        return Quantized(task.name, kind, name, nbytes, count, 100 * right / count, same)

    weights = sum(path.stat().st_size for path in merged.glob("*.safetensors"))
    rows = [row("merged", str(merged), weights, answers[:count])]
    for kind, file in zip(FILE_TYPES, files, strict=True):
        with (
            closing(LlamaCpp.open(locate_gguf(file), context=_CONTEXT, threads=cores())) as model,
            bar(f"{file.name} answers {few.name}", count, "answers") as progress,
        ):
            texts = answer(model, few, metric, progress, chat=True, new_tokens=new_tokens, work=work)
        rows.append(row(kind, str(file), file.stat().st_size, texts))
        if rows[0].score - rows[-1].score > _MOST_LOST[kind]:
            raise CheckFailed("a GGUF answers much worse than the model it was made of", where=file,
                              expected=f"about {rows[0].score:.1f} %", found=f"{rows[-1].score:.1f} %")  # fmt: skip
    return tuple(rows)


def table(rows: Iterable[Quantized]) -> list[str]:
    """Sizes and scores as a table of text."""
    head = f"{'task':<12}{'model':<10}{'size':>10}{'samples':>10}{'score':>9}{'same answers':>15}"
    body = [
        f"{row.task:<12}{row.type:<10}{nbytes_text(row.nbytes):>10}{row.samples:>10}{row.score:>8.1f}%"
        + ("" if row.type == "merged" else f"{f'{row.same_answers} of {row.samples}':>15}")
        for row in rows
    ]
    title = f"As GGUF, both types from one pass, run by {runtime()} on the first {SAMPLES} samples of each task"
    return ["", title, "", head, "-" * len(head), *body]
