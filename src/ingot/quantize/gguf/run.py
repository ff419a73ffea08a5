"""GGUF as the sink of a run: `ingot merge --to gguf:Q4_K_M`, `ingot quantize`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ingot.engine.merged import MergedRows
from ingot.engine.outcome import FileDigest, Files, Making, Run, Stretch
from ingot.engine.shards import side_files
from ingot.errors import BaseError, UsageError
from ingot.plan.model import Plan
from ingot.quantize.gguf.assemble import Assembler, RowSource, units
from ingot.quantize.gguf.bridge.checkout import Checkout
from ingot.quantize.gguf.bridge.rows import ConvertedRows
from ingot.quantize.gguf.document import Document, make_document, source_type
from ingot.quantize.gguf.imatrix import read_imatrix
from ingot.quantize.gguf.layout import GgufFile
from ingot.quantize.gguf.sink import Writing, Written, quantized, write


def document_of(
    plan: Plan, base: Files, adapters: Sequence[Files], *, imatrix: Path | None, llama_cpp: Path | None
) -> Document:
    """The files that the plan's `options.gguf` asks for. `imatrix` and `llama_cpp` are what it has the digests of.

    Raises what `make_document` and `Converter` raise, and UsageError for another importance matrix or checkout.
    """
    options = plan.options.gguf
    if options is None:
        raise ValueError("the plan is none for GGUF")
    importance = None
    if options.imatrix_sha256 is not None:
        if imatrix is None or digest_of(imatrix) != options.imatrix_sha256:
            raise UsageError(
                "this needs the importance matrix that the files were made with", expected=options.imatrix_sha256,
                found=imatrix, hint="Name it with --imatrix FILE.",
            )  # fmt: skip
        importance = read_imatrix(imatrix)
    files = side_files(plan, base, adapters)
    if options.llama_cpp_sha256 is None:
        return make_document(plan, files, options, importance)
    converter = None if llama_cpp is None else Checkout.open(llama_cpp)
    if converter is None or converter.digest != options.llama_cpp_sha256:
        raise UsageError(
            "this needs the checkout of llama.cpp that the files were made with", where=llama_cpp,
            expected=f"code with sha256 {options.llama_cpp_sha256}",
            found="none" if converter is None else converter.digest, hint="Name it with --llama-cpp DIR.",
        )  # fmt: skip
    with _converted(converter, plan, base, adapters, "cpu") as rows:
        described = rows.described
    return make_document(plan, files, options, importance, converter=converter, described=described)


def digest_of(path: Path) -> str:
    """sha256 of a file. Raises UsageError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError("cannot read the importance matrix", where=path, found=error.strerror) from error


@dataclass(frozen=True)
class GgufSink:
    """See `engine.outcome.Sink`. `documents` are those of the artifacts, in their order, and `share_rows`."""

    documents: tuple[Document, ...]

    def write(self, makings: Sequence[Making], base: Files, adapters: Sequence[Files], run: Run) -> Mapping[str, str]:
        writings = [Writing(making, document.formats) for making, document in zip(makings, self.documents, strict=True)]
        with _rows(self.documents[0], makings[0].output.plan, base, adapters, run.device) as source:
            write(writings, source, jobs=run.jobs, stop=run.stop, progress=run.progress)
        for writing, document in zip(writings, self.documents, strict=True):
            if writing.making.alive:
                writing.making.outcome.backends = dict(document.backends)
                _note(writing, run)
        return {}


def identity(document: Document) -> dict[str, str]:
    """What a resume must agree in, beyond the plan and its inputs."""
    return {"quantizers": " ".join(f"{of}:{by}" for of, by in document.backends.items())}


def share_rows(documents: Sequence[Document]) -> bool:
    """Whether one source gives the rows of all: the plan's ops, or one converter, whatever keys it has for each."""
    return all(_source(one) == _source(documents[0]) for one in documents)


def _source(document: Document) -> tuple[object, ...]:
    stored = document.described.stored if document.described else None
    return document.converter, stored, document.tensors


def _note(writing: Writing, run: Run) -> None:
    outcome = writing.making.outcome
    for file in writing.files:
        done = writing.done[file.name]
        outcome.files.append(FileDigest(done.name, done.nbytes, done.sha256))
        outcome.stretches[done.name] = stretches(file, done)
        if done.resumed:
            outcome.resumed.append(done.name)
            run.progress(done.nbytes)
        else:
            outcome.written_nbytes += done.nbytes


@contextmanager
def _rows(document: Document, plan: Plan, base: Files, adapters: Sequence[Files], device: str) -> Iterator[RowSource]:
    """The rows of the document's tensors."""
    if document.converter is None:
        yield Assembler({op.name: op for op in plan.ops}, _merged(plan, base, adapters, device))
        return
    with _converted(document.converter, plan, base, adapters, device) as rows:
        if rows.described != document.described:
            hint = "Let nothing change the checkout meanwhile."
            raise BaseError("llama.cpp's converter says something else than a moment ago", hint=hint)
        yield rows


def _converted(converter: Checkout, plan: Plan, base: Files, adapters: Sequence[Files], device: str) -> ConvertedRows:
    assert plan.options.gguf is not None
    return ConvertedRows(
        converter, plan, side_files(plan, base, adapters), base, _merged(plan, base, adapters, device),
        outtype=source_type(plan), pre=plan.options.gguf.pre,
    )  # fmt: skip


def _merged(plan: Plan, base: Files, adapters: Sequence[Files], device: str) -> MergedRows:
    return MergedRows(base, adapters, device, trust_base=plan.options.accept_nonfinite_base)


def stretches(file: GgufFile, written: Written) -> tuple[Stretch, ...]:
    """The file's header and tensors, each up to the next one's first byte."""
    ends = [*(entry.begin for entry in file.entries), file.nbytes]
    found = [Stretch("header", "", "", (), 0, ends[0], written.running[0])]
    for entry, end, running in zip(file.entries, ends[1:], written.running[1:], strict=True):
        found.append(Stretch("quantize", entry.tensor.name, entry.type, entry.tensor.shape, entry.begin, end, running))
    return tuple(found)


def differences(
    document: Document,
    plan: Plan,
    base: Files,
    adapters: Sequence[Files],
    artifact: Files,
    *,
    device: str,
    progress: Callable[[int], None],
) -> Iterator[tuple[str, str]]:
    """Every tensor of the artifact's files that differs from what the plan makes: (file, tensor; "" for the header)."""
    with _rows(document, plan, base, adapters, device) as source:
        yield from _compared(document, source, artifact, progress)


def _compared(
    document: Document, source: RowSource, artifact: Files, progress: Callable[[int], None]
) -> Iterator[tuple[str, str]]:
    told: set[tuple[str, str]] = set()
    for of in document.formats:
        for file in of.files:
            if artifact[file.name].read(0, len(file.header)) != file.header:
                yield file.name, ""
            for entry in file.entries:
                for begin, end in units(entry.tensor):
                    data = quantized(of, entry, source.rows(entry.tensor, begin, end), begin)
                    found = artifact[file.name].read(entry.begin + begin * entry.row_nbytes, data.nbytes)
                    if data != found and (file.name, entry.tensor.name) not in told:
                        told.add((file.name, entry.tensor.name))
                        yield file.name, entry.tensor.name
                    progress(data.nbytes)
