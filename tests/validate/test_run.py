"""A whole evaluation on the demo's model: what is measured of which kind of candidate, what is left out, and why."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingot.demo import assets
from ingot.errors import AdapterError, BaseError, Interrupted, MissingComponent, UsageError
from ingot.merge import prepare
from ingot.storage import DigestMemory
from ingot.validate.report.brief import as_json, brief
from ingot.validate.request import Request, check
from ingot.validate.result import Evaluation
from ingot.validate.run import evaluate
from tests.validate.makers import gguf_of, save_ggufs

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


def few_of(request: Request, directory: Path) -> Request:
    """The same on two samples: llama.cpp gives probabilities one token at a time."""
    lines = Path(request.samples[0]).read_text().splitlines()[:2]
    (directory / "dates.jsonl").write_text("\n".join(lines))
    return replace(request, samples=(str(directory / "dates.jsonl"),))


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


def test_what_llama_cpp_shows_of_a_gguf_is_measured_and_the_rest_is_said(request_of: Request, tmp_path: Path) -> None:
    made = save_ggufs(tmp_path / "made", "F32", "Q4_K_M")
    candidates = (str(gguf_of(made, "F32")), str(gguf_of(made, "Q4_K_M")), *request_of.candidates)
    found = run(replace(few_of(request_of, tmp_path), candidates=candidates))
    exact, quantized, merged = found.candidates
    for one in found.candidates:
        assert one.tokens is not None
        assert (one.tokens.same, one.tokens.samples) == (2, 2)
        assert one.tasks[0].comparison.candidate == one.tasks[0].comparison.reference
    assert exact.logits is not None
    assert quantized.logits is not None
    assert merged.logits is not None
    assert exact.logits.tokens == quantized.logits.tokens == merged.logits.tokens
    assert exact.logits.mean_kl < 1e-4 < quantized.logits.mean_kl < 0.05
    assert exact.logits.top1 > 0.99
    assert exact.logits.perplexity_candidate == pytest.approx(merged.logits.perplexity_candidate, rel=0.01)
    for one in (exact, quantized):
        assert [text.partition(":")[0] for text in one.left_out] == ["weights"]
        assert one.weights is None
        assert one.subject.kind == "GGUF"
    assert found.ok


def test_a_gguf_can_be_the_reference_of_another(request_of: Request, tmp_path: Path) -> None:
    made = save_ggufs(tmp_path / "made", "BF16", "Q8_0")
    reference, candidate = (str(gguf_of(made, name)) for name in ("BF16", "Q8_0"))
    (one,) = run(replace(few_of(request_of, tmp_path), reference=reference, candidates=(candidate,))).candidates
    assert one.logits is not None
    assert 0 < one.logits.mean_kl < 1e-3
    assert [text.partition(":")[0] for text in one.left_out] == ["weights", "tokens"]


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
        ({"candidates": ("model.gguf",), "samples": ()}, UsageError, r"nothing to compare by - at model\.gguf"),
        ({"candidates": ("http://127.0.0.1:9/v1",), "samples": ()}, UsageError, "nothing to compare by"),
        ({"candidates": ("BASE+LORA",), "samples": ()}, UsageError, "nothing to compare by"),
        ({"candidates": ("http://127.0.0.1:9/v1",), "stream_layers": True}, UsageError, "endpoint"),
        ({"candidates": ("model.gguf",), "stream_layers": True}, UsageError, "GGUF"),
        ({"candidates": ("model.gguf",)}, BaseError, "does not exist"),
        ({"candidates": ("TEXT",)}, BaseError, "does not begin with GGUF"),
        ({"reference": "TEXT"}, BaseError, "does not begin with GGUF"),
        ({"samples": (), "stream_layers": True}, UsageError, "need samples"),
        ({"samples": ("/no/such.jsonl",)}, UsageError, "sample file"),
        ({"metric": "containz"}, UsageError, "no such metric"),
        ({"reference": "BASE+/no/adapter"}, AdapterError, "no/adapter"),
    ],
)
def test_what_cannot_be_is_refused_before_any_model_is_loaded(
    request_of: Request, changes: dict[str, Any], error: type[Exception], words: str, tmp_path: Path
) -> None:
    (tmp_path / "text.gguf").write_text("hello, this is a text\n")
    places = {"BASE": assets.base(), "LORA": assets.tasks()[1].adapter, "TEXT": tmp_path / "text.gguf"}

    def placed(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(placed, value))
        return re.sub("BASE|LORA|TEXT", lambda found: str(places[found[0]]), value) if isinstance(value, str) else value

    changes = {key: placed(value) for key, value in changes.items()}
    with pytest.raises(error, match=words):
        check(replace(request_of, **changes))


def test_a_gguf_without_what_runs_it_is_refused_with_the_command_that_installs_it(
    request_of: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingComponent, match=r"llama\.cpp") as refusal:
        check(replace(request_of, candidates=("model.gguf",)))
    assert refusal.value.exit_code == 18
    assert "pip install 'ingot-merge[gguf]'" in (refusal.value.hint or "")
