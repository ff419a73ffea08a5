"""A whole evaluation on the demo's model: what is measured of which kind of candidate, what is left out, and why."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingot.demo import assets
from ingot.errors import AdapterError, Interrupted, UsageError
from ingot.merge import prepare
from ingot.storage import DigestMemory
from ingot.validate.report.brief import as_json, brief
from ingot.validate.request import Request, check
from ingot.validate.result import Evaluation
from ingot.validate.run import evaluate

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")


@contextmanager
def no_bar(_what: str, _total: int, _unit: str) -> Iterator[Callable[[int], None]]:
    yield lambda _: None


@pytest.fixture(scope="module")
def request_of(tmp_path_factory: pytest.TempPathFactory) -> Request:
    """The clean merge of the `dates` adapter against it, on six samples."""
    root = tmp_path_factory.mktemp("validate")
    task = assets.tasks()[1]
    with prepare(str(assets.base()), [(str(task.adapter), 1.0)], target=root / "merged") as job:
        job.run(memory=DigestMemory(root / "cache"))
    lines = [json.dumps({"prompt": s.prompt, "expected": s.expected}) for s in task.samples[:6]]
    (root / "dates.jsonl").write_text("\n".join(lines))
    return Request(
        f"{assets.base()}+{task.adapter}", (str(root / "merged"),), (str(root / "dates.jsonl"),), chat=True,
        new_tokens=16, dtype="float32", work=root / "work",
    )  # fmt: skip


def run(request: Request) -> Evaluation:
    return evaluate(check(request), no_bar)


def test_a_clean_merge_is_the_model_that_was_trained(request_of: Request) -> None:
    found = run(request_of)
    (one,) = found.candidates
    assert found.ok
    assert one.tokens is not None
    assert (one.tokens.same, one.tokens.samples) == (6, 6)
    assert one.weights is not None
    assert one.weights.equal > 0.999
    assert one.logits is not None
    assert one.logits.mean_kl < 1e-3
    assert one.tasks[0].comparison.reference == one.tasks[0].comparison.candidate
    assert one.left_out == ()
    assert one.subject.digest != found.reference.digest
    assert found.samples[0].count == 6


def test_the_base_alone_is_not(request_of: Request) -> None:
    (one,) = run(replace(request_of, candidates=(str(assets.base()),))).candidates
    failed = {gate.name for gate in one.gates if not gate.ok}
    assert {"weights", "--min-survival", "--max-kl", "--max-score-drop"} <= failed
    assert one.weights is not None
    assert one.weights.survival == pytest.approx(0, abs=1e-9)


def test_the_reference_held_against_itself_differs_in_nothing(request_of: Request) -> None:
    (one,) = run(replace(request_of, candidates=(request_of.reference,))).candidates
    assert one.logits is not None
    assert (one.logits.mean_kl, one.logits.top1, one.logits.largest_difference) == (0.0, 1.0, 0.0)
    assert one.weights is None
    assert [text for text in one.left_out if text.startswith("weights:")]


def test_without_samples_only_the_files_are_compared(request_of: Request) -> None:
    found = run(replace(request_of, samples=()))
    (one,) = found.candidates
    assert found.ok
    assert one.weights is not None
    assert (one.tokens, one.logits, one.tasks) == (None, None, ())
    assert found.reference.digest
    assert "no samples" in one.left_out[0]


def test_layer_by_layer_the_figures_are_those_of_the_whole_models(request_of: Request) -> None:
    (whole,), (streamed,) = run(request_of).candidates, run(replace(request_of, stream_layers=True)).candidates
    assert whole.logits is not None
    assert streamed.logits is not None
    assert streamed.logits.mean_kl == pytest.approx(whole.logits.mean_kl, rel=1e-3)
    assert streamed.logits.top1 == whole.logits.top1
    assert streamed.logits.perplexity_reference == pytest.approx(whole.logits.perplexity_reference, rel=1e-5)
    assert [one.layer for one in streamed.depth] == [-1, 0, 1, 2, 3]
    assert streamed.tasks == ()
    assert "--stream-layers" in " ".join(streamed.left_out)


def test_a_stop_ends_it_and_the_same_request_goes_on_with_the_answers_that_there_are(
    request_of: Request, tmp_path: Path
) -> None:
    request, stop, told = replace(request_of, work=tmp_path / "work"), threading.Event(), []

    @contextmanager
    def stopping(what: str, _total: int, _unit: str) -> Iterator[Callable[[int], None]]:
        def progress(number: int) -> None:
            told.append((what, number))
            if "merged answers" in what and number:
                stop.set()

        yield progress

    with pytest.raises(Interrupted):
        evaluate(check(request), stopping, stop=stop)
    told.clear()
    stop.clear()
    evaluate(check(request), stopping)
    first = next(number for what, number in told if "merged answers" in what)
    assert first == 6, "the answers were asked for again"


def test_the_record_gets_figures_and_digests_and_no_text_of_the_samples(request_of: Request) -> None:
    found = run(request_of)
    kept = brief(found, found.candidates[0])
    text = json.dumps(kept)
    assert kept["ok"] is True
    sample = json.loads(Path(request_of.samples[0]).read_text().splitlines()[0])
    assert sample["prompt"] not in text
    assert str(assets.base()) not in text
    everything: Any = json.loads(json.dumps(as_json(found)))
    assert everything["candidates"][0]["weights"]["modules"][0]["survival"] == pytest.approx(1, abs=0.01)
    for digest in (found.reference.digest, found.candidates[0].subject.digest, found.samples[0].digest):
        assert digest in text


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"reference": "BASE", "samples": ()}, UsageError, "nothing to compare by"),
        ({"candidates": ("http://127.0.0.1:9/v1",), "stream_layers": True}, UsageError, "endpoint"),
        ({"samples": (), "stream_layers": True}, UsageError, "need samples"),
        ({"samples": ("/no/such.jsonl",)}, UsageError, "sample file"),
        ({"metric": "containz"}, UsageError, "no such metric"),
        ({"reference": "BASE+/no/adapter"}, AdapterError, "no/adapter"),
    ],
)
def test_what_cannot_be_is_refused_before_any_model_is_loaded(
    request_of: Request, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    changes = {k: v.replace("BASE", str(assets.base())) if isinstance(v, str) else v for k, v in changes.items()}
    with pytest.raises(error, match=words):
        check(replace(request_of, **changes))
