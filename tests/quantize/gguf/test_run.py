"""Several artifacts of one pass against each one's own: the same files, the same identity, each whole or absent."""

from __future__ import annotations

import functools
import importlib.metadata
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ingot.engine.merged import MergedRows
from ingot.engine.outcome import Outcome
from ingot.errors import IngotError, Interrupted, NonFiniteError, OutputError
from ingot.merge import Job, Wanted, prepare, prepare_formats, run_together
from ingot.plan.model import GgufOptions, Op, Options
from ingot.quantize.gguf.run import digest_of
from ingot.record.form import Release
from ingot.storage.disk import PosixDisk
from tests.battery.workshop import Content, content_of
from tests.quantize.gguf.models import save_adapter, save_model
from tests.quantize.gguf.reference.files import write_imatrix
from tests.storage.faulty_disk import DROPPED, KEPT, Crash, Fate, FaultyDisk, When


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with base, adapter and importance matrix."""
    root = tmp_path_factory.mktemp("inputs")
    base = save_model("llama", root / "base", torch.bfloat16)
    adapter = save_adapter("llama", base, root / "adapter")
    with prepare(str(base), [(str(adapter), 1.0)], Options(gguf=GgufOptions(("F32",)))) as job:
        assert job.document is not None
        write_imatrix({tensor.name: tensor.shape for tensor in job.document.tensors}, root / "imatrix.gguf")
    return root


def wanted(inputs: Path, folder: Path, names: Sequence[str]) -> list[Wanted]:
    """One for each name: `Q4_K_M`, `F16+BF16` for two files in one artifact, `Q4_K_M weighted`."""
    formats = []
    for name in names:
        types, _, weighted = name.partition(" ")
        imatrix = inputs / "imatrix.gguf" if weighted else None
        digest = digest_of(imatrix) if imatrix else None
        formats.append(Wanted(folder / name, GgufOptions(tuple(types.split("+")), imatrix_sha256=digest), imatrix))
    return formats


@contextmanager
def prepared(inputs: Path, folder: Path, names: Sequence[str]) -> Iterator[list[Job]]:
    adapters = [(str(inputs / "adapter"), 1.0)]
    jobs = prepare_formats(str(inputs / "base"), adapters, None, wanted(inputs, folder, names), jobs=2)
    try:
        yield jobs
    finally:
        for job in jobs:
            job.close()


def together(inputs: Path, folder: Path, names: Sequence[str], **how: Any) -> list[Outcome | IngotError]:
    with prepared(inputs, folder, names) as jobs:
        return run_together(jobs, **how)


def alone(inputs: Path, folder: Path, name: str, **how: Any) -> Outcome:
    """As one who wants nothing else would do it."""
    (one,) = wanted(inputs, folder, [name])
    adapters = [(str(inputs / "adapter"), 1.0)]
    options = Options(gguf=one.gguf)
    with prepare(str(inputs / "base"), adapters, options, target=one.target, imatrix=one.imatrix) as job:
        return job.run(**how)


def contents(folder: Path, names: Sequence[str]) -> dict[str, Content | None]:
    return {name: content_of(folder / name) for name in names}


def left_behind(folder: Path) -> list[str]:
    return [path.name for path in folder.glob(".*")]


@contextmanager
def rows_counted(patch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How many rows of each op are merged."""
    merged, counts, lock = MergedRows.__call__, Counter[str](), threading.Lock()

    def count(self: MergedRows, op: Op, begin: int, end: int) -> torch.Tensor:
        with lock:
            counts[op.name] += end - begin
        return merged(self, op, begin, end)

    with patch.context() as context:
        context.setattr(MergedRows, "__call__", count)
        yield counts


def test_each_gets_what_its_own_pass_would_have_made_and_no_row_is_read_twice(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["Q4_K_M", "Q8_0", "Q4_K_M weighted", "F16+BF16"]
    releases = {"Q8_0": Release("model", "1.2", "gguf:Q8_0")}
    written: list[int] = []
    with prepared(inputs, tmp_path / "together", names) as jobs:
        with rows_counted(monkeypatch) as counts:
            done = run_together(jobs, releases=[releases.get(name) for name in names], progress=written.append)
        assert sum(written) == sum(job.nbytes for job in jobs)
        heights = {op.name: op.view[0] for op in jobs[0].plan.ops}
    assert counts == heights
    assert all(isinstance(outcome, Outcome) and outcome.written_nbytes > 0 for outcome in done)
    for name in names:
        alone(inputs, tmp_path / "alone", name, release=releases.get(name))
    found = contents(tmp_path / "together", names)
    assert found == contents(tmp_path / "alone", names)
    assert len({content["ingot.json"] for content in found.values() if content}) == len(names)
    assert left_behind(tmp_path / "together") == []


def changed_base(inputs: Path, folder: Path, tensors: Mapping[str, float]) -> Path:
    """The inputs with one element of some tensors changed."""
    shutil.copytree(inputs, folder)
    (file,) = (folder / "base").glob("*.safetensors")
    weights = load_file(file)
    for name, value in tensors.items():
        weights[name].view(-1)[300] = value
    save_file(weights, file, {"format": "pt"})
    return folder


def test_a_value_beyond_one_format_ends_that_one_alone(inputs: Path, tmp_path: Path) -> None:
    changed = changed_base(inputs, tmp_path / "changed", {"model.layers.1.mlp.up_proj.weight": 1e5})
    names = ["F16", "Q8_0", "BF16"]
    failure, *others = together(changed, tmp_path / "together", names)
    with pytest.raises(NonFiniteError) as raised:
        alone(changed, tmp_path / "alone", "F16")
    assert isinstance(failure, NonFiniteError)
    assert (failure.message, failure.hint) == (raised.value.message, raised.value.hint)
    assert "blk.1.ffn_up.weight (F16)" in failure.message
    assert all(isinstance(outcome, Outcome) for outcome in others)
    for name in names[1:]:
        alone(changed, tmp_path / "alone", name)
    found = contents(tmp_path / "together", names)
    assert found == contents(tmp_path / "alone", names)
    assert found["F16"] is None


def test_where_all_fail_alone_there_is_an_error_for_each(inputs: Path, tmp_path: Path) -> None:
    changed = changed_base(inputs, tmp_path / "changed", {"model.layers.0.mlp.up_proj.weight": 1e5})
    done = together(changed, tmp_path / "out", ["F16", "F16+Q8_0"])
    assert [type(error) for error in done] == [NonFiniteError, NonFiniteError]
    assert contents(tmp_path / "out", ["F16", "F16+Q8_0"]) == {"F16": None, "F16+Q8_0": None}


def test_a_merged_value_that_is_not_finite_ends_all(inputs: Path, tmp_path: Path) -> None:
    changed = changed_base(inputs, tmp_path / "changed", {"model.layers.1.mlp.up_proj.weight": float("nan")})
    names = ["BF16", "Q8_0"]
    with pytest.raises(NonFiniteError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        together(changed, tmp_path / "out", names)
    assert contents(tmp_path / "out", names) == {"BF16": None, "Q8_0": None}


def test_a_target_that_comes_into_use_meanwhile_is_the_fault_of_one(inputs: Path, tmp_path: Path) -> None:
    def take_one(_: int) -> None:
        (tmp_path / "together" / "Q8_0").mkdir(exist_ok=True)
        (tmp_path / "together" / "Q8_0" / "somebody's").touch()

    failure, other = together(inputs, tmp_path / "together", ["Q8_0", "Q4_K_M"], progress=take_one)
    assert isinstance(failure, OutputError)
    assert isinstance(other, Outcome)
    alone(inputs, tmp_path / "alone", "Q4_K_M")
    assert content_of(tmp_path / "together" / "Q4_K_M") == content_of(tmp_path / "alone" / "Q4_K_M")
    shutil.rmtree(tmp_path / "together" / "Q8_0")
    assert alone(inputs, tmp_path / "together", "Q8_0").resumed[0] == "base-adapter-Q8_0.gguf"


def test_a_target_in_use_is_refused_before_anything_is_written(inputs: Path, tmp_path: Path) -> None:
    lock = PosixDisk().lock(tmp_path / ".Q4_K_M.ingot-lock")
    told: list[int] = []
    try:
        with pytest.raises(OutputError, match="another run"):
            together(inputs, tmp_path, ["Q8_0", "Q4_K_M"], progress=told.append)
    finally:
        lock.release()
    assert told == []
    assert contents(tmp_path, ["Q8_0", "Q4_K_M"]) == {"Q8_0": None, "Q4_K_M": None}


def test_what_was_stopped_is_finished_together_or_alone(inputs: Path, tmp_path: Path) -> None:
    names = ["BF16+Q8_0", "Q8_0", "Q4_K_M"]
    stop, (out, reference) = threading.Event(), (tmp_path / "together", tmp_path / "alone")
    with prepared(inputs, out, names) as jobs:
        disk = StopsAfter(stop, commits=3)
        with pytest.raises(Interrupted):
            run_together(jobs, stop=stop, disk=disk)
    assert set(contents(out, names).values()) == {None}
    second = alone(inputs, out, names[1])
    first, third = together(inputs, out, [names[0], names[2]])
    assert isinstance(first, Outcome)
    assert isinstance(third, Outcome)
    assert [len(outcome.resumed) for outcome in (first, second, third)] == [2, 1, 0]
    for name in names:
        alone(inputs, reference, name)
    assert contents(out, names) == contents(reference, names)


class StopsAfter(PosixDisk):
    """Asks the run to stop when so many GGUF files are named."""

    def __init__(self, stop: threading.Event, *, commits: int) -> None:
        super().__init__()
        self._stop, self._left = stop, commits

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self._left -= target.suffix == ".gguf"
        if self._left == 0:
            self._stop.set()


CRASHED = ["Q8_0", "BF16"]
_version = functools.cache(importlib.metadata.version)


@pytest.fixture(scope="module")
def expected(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Content | None], list[str]]:
    """What each is alone, and the operations of a pass that makes both."""
    root = tmp_path_factory.mktemp("expected")
    (root / "grave").mkdir()
    disk = FaultyDisk(root / "grave")
    together(inputs, root / "together", CRASHED, disk=disk)
    for name in CRASHED:
        alone(inputs, root / "alone", name)
    return contents(root / "alone", CRASHED), [f"{kind} {name}" for kind, name in disk.operations]


#: Where the machine dies: at the middle one of such operations. A rename to an artifact's name publishes it.
POINTS: list[tuple[str, When, Fate]] = [
    ("write", "during", DROPPED),
    ("sync_file", "before", KEPT),
    ("rename Q8_0", "before", KEPT),
    ("rename Q8_0", "after", DROPPED),
    ("rename Q8_0", "after", KEPT),
    ("rename BF16", "before", KEPT),
    ("rename BF16", "after", DROPPED),
]


@pytest.mark.parametrize(("point", "when", "fate"), POINTS)
def test_a_crash_leaves_each_whole_or_absent_and_the_absent_ones_are_made_again(
    inputs: Path, expected: tuple[dict[str, Content | None], list[str]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, point: str, when: When, fate: Fate,
) -> None:  # fmt: skip
    monkeypatch.setattr("importlib.metadata.version", _version)
    reference, operations = expected
    matching = [number for number, operation in enumerate(operations) if operation.startswith(point)]
    (tmp_path / "grave").mkdir()
    disk = FaultyDisk(tmp_path / "grave", crash_at=matching[len(matching) // 2], when=when, fate=fate)
    out = tmp_path / "out"
    with pytest.raises(Crash):
        together(inputs, out, CRASHED, disk=disk)
    found = contents(out, CRASHED)
    published = {name for name, content in found.items() if content is not None}
    assert all(found[name] == reference[name] for name in published)
    assert published <= {"Q8_0"} or when == "after"
    if point == "rename BF16":
        assert "Q8_0" in published
    together(inputs, out, [name for name in CRASHED if name not in published])
    assert contents(out, CRASHED) == reference
