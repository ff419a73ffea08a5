"""Which jobs may run together; what their pass gives is held in quantize/gguf/test_run.py."""

from __future__ import annotations

import shutil
from collections import namedtuple
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ingot.checkpoint.checkpoint import Checkpoint
from ingot.errors import AdapterError, ResourceError
from ingot.merge import Job, Wanted, prepare, prepare_formats, run_together
from ingot.merge.running import SPARE_NBYTES
from ingot.plan.model import GgufOptions, Options
from ingot.quantize.gguf.bridge.checkout import Checkout
from ingot.storage import pace
from tests import toy
from tests.quantize.gguf.models import save_model

FORMATS = (GgufOptions(("Q8_0",)), GgufOptions(("BF16",)))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("llama", tmp_path_factory.mktemp("base") / "base", torch.bfloat16)


@pytest.fixture
def jobs(base: Path, tmp_path: Path) -> Iterator[list[Job]]:
    formats = [Wanted(tmp_path / str(number), gguf) for number, gguf in enumerate(FORMATS)]
    with ExitStack() as stack:
        yield [stack.enter_context(job) for job in prepare_formats(str(base), [], None, formats)]


def test_what_is_opened_once_gives_the_plans_of_each_alone(
    base: Path, jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, really = [], Checkpoint.open
    monkeypatch.setattr(Checkpoint, "open", lambda location: opened.append(location) or really(location))
    for together, gguf, wanted in zip(jobs, FORMATS, (tmp_path / "0", tmp_path / "1"), strict=True):
        with prepare(str(base), [], Options(gguf=gguf), target=wanted) as job:
            assert (job.plan.digest, job.plan.options, job.nbytes) == (
                together.plan.digest, together.plan.options, together.nbytes,
            )  # fmt: skip
            assert (job.target, job.document) == (together.target, together.document)
    assert len(opened) == 2
    with closing(prepare_formats(str(base), [], None, [Wanted(gguf=gguf) for gguf in FORMATS])[0]):
        assert len(opened) == 3


def test_shards_can_be_wanted_beside_gguf_with_an_adapter_only(base: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no adapter was named"):
        prepare_formats(str(base), [], None, [Wanted(gguf=FORMATS[0]), Wanted()])
    with pytest.raises(ValueError, match="no format"):
        prepare_formats(str(base), [], None, [])


def test_nothing_runs_together_at_once() -> None:
    assert run_together([]) == []


def test_one_job_runs_together_as_alone(jobs: list[Job]) -> None:
    (outcome,) = run_together(jobs[:1])
    assert not isinstance(outcome, Exception)
    assert [file.name for file in outcome.files] == ["base-Q8_0.gguf", "ingot.tensors.jsonl", "README.md"]


def test_the_pace_of_quantizing_is_not_taken_for_that_of_a_merge(
    jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "LEAST_NBYTES", 1)
    monkeypatch.setenv("INGOT_CACHE", str(tmp_path / "cache"))
    run_together(jobs)
    assert pace.recall() is None
    toy.make_base(tmp_path / "base")
    toy.make_adapter(tmp_path / "adapter")
    with prepare(str(tmp_path / "base"), [(str(tmp_path / "adapter"), 1.0)], target=tmp_path / "out") as job:
        outcome = job.run()
    assert pace.recall() == round(outcome.written_nbytes / outcome.seconds)


def test_shards_have_a_pass_of_their_own(tmp_path: Path) -> None:
    toy.make_base(tmp_path / "base")
    toy.make_adapter(tmp_path / "adapter")
    with (
        prepare(str(tmp_path / "base"), [(str(tmp_path / "adapter"), 1.0)], target=tmp_path / "out") as job,
        pytest.raises(ValueError, match="a pass of their own"),
    ):
        run_together([job])


def test_jobs_of_two_openings_do_not_run_together(base: Path, jobs: list[Job], tmp_path: Path) -> None:
    with (
        prepare(str(base), [], Options(gguf=FORMATS[1]), target=tmp_path / "2") as other,
        pytest.raises(ValueError, match="one `prepare_formats`"),
    ):
        run_together([jobs[0], other])


def test_two_converters_do_not_run_together(jobs: list[Job], tmp_path: Path) -> None:
    assert jobs[1].document is not None
    jobs[1].document = replace(jobs[1].document, converter=Checkout(tmp_path, "0" * 64))
    with pytest.raises(ValueError, match="one converter"):
        run_together(jobs)


def test_targets_on_one_disk_must_fit_there_together(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: list[Job]
) -> None:
    needed = sum(job.nbytes + SPARE_NBYTES for job in jobs)
    usage = namedtuple("usage", "total used free")
    formats = [Wanted(tmp_path / f"again {number}", gguf) for number, gguf in enumerate(FORMATS)]
    for free in (needed - 1, needed):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage(free, 0, free))
        again = prepare_formats(str(base), [], None, formats)
        with closing(again[0]):
            if free < needed:
                with pytest.raises(ResourceError) as refusal:
                    run_together(again)
                assert refusal.value.expected == f"{needed:,} bytes free"
                assert list(tmp_path.iterdir()) == []
            else:
                assert len(run_together(again)) == 2
