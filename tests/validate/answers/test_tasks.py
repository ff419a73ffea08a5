"""Every sample is answered once, whatever fails on the way, and what was answered is not asked again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from ingot.errors import Interrupted, OutputError, ResourceError
from ingot.validate.answers import tasks
from ingot.validate.answers.likelihood import likelihoods, pair
from ingot.validate.answers.metrics import metric_for
from ingot.validate.answers.samples import Sample, SampleFile
from ingot.validate.answers.tasks import compared
from ingot.validate.model import Unsupported
from tests.validate.stand_in import StandIn


def file_of(count: int, metric: str = "exact") -> SampleFile:
    rows = tuple(Sample(n, n + 1, "x" * (n % 7 + 1) + str(n), str(n)) for n in range(count))
    return SampleFile("task", Path("task.jsonl"), "samples", metric, rows)


def last(prompt: str) -> str:
    return prompt.lstrip("x")


def ask(model: StandIn, file: SampleFile, told: list[int] | None = None, **more: object) -> list[str]:
    settings: dict[str, object] = {"chat": False, "new_tokens": 8, "batch": 8, **more}
    return tasks.answer(model, file, metric_for(file), (told if told is not None else []).append, **settings)  # type: ignore[arg-type]


def test_answers_come_stripped_in_the_order_of_the_samples() -> None:
    model, told = StandIn(last), []
    assert ask(model, file_of(30), told) == [str(n) for n in range(30)]
    assert model.batches == [8, 8, 8, 6]
    assert sum(told) == 30


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    model = StandIn(last)
    model.fails = lambda prompts: Interrupted("stopped") if len(model.batches) == 2 else None
    with pytest.raises(Interrupted):
        ask(model, file_of(30), work=tmp_path / "work")
    again, told = StandIn(last), []
    assert ask(again, file_of(30), told, work=tmp_path / "work") == [str(n) for n in range(30)]
    assert again.batches == [8, 6]
    assert told[0] == 16
    third = StandIn(last)
    assert ask(third, file_of(30), work=tmp_path / "work") == [str(n) for n in range(30)]
    assert third.batches == []


def test_a_torn_last_line_is_asked_again(tmp_path: Path) -> None:
    ask(StandIn(last), file_of(30), work=tmp_path)
    (log,) = tmp_path.glob("answers-*.jsonl")
    log.write_bytes(log.read_bytes()[:-7])
    model = StandIn(last)
    assert ask(model, file_of(30), work=tmp_path) == [str(n) for n in range(30)]
    assert model.batches == [6]


@pytest.mark.parametrize("other", ["model", "samples", "chat", "new_tokens"])
def test_what_was_answered_under_another_key_is_not_used(tmp_path: Path, other: str) -> None:
    ask(StandIn(last), file_of(10), work=tmp_path)
    model = StandIn(lambda prompt: "new", digest="n" if other == "model" else "m")
    file = SampleFile("task", Path("t"), "changed", "exact", file_of(10).samples) if other == "samples" else file_of(10)
    more: dict[str, object] = {"chat": {"chat": True}, "new_tokens": {"new_tokens": 9}}.get(other, {})  # type: ignore[assignment]
    assert ask(model, file, work=tmp_path, **more) == ["new"] * 10


def test_the_metric_is_no_part_of_the_key(tmp_path: Path) -> None:
    ask(StandIn(last), file_of(10), work=tmp_path)
    assert ask(StandIn(lambda prompt: "new"), file_of(10, "contains"), work=tmp_path) == [str(n) for n in range(10)]


def test_nothing_is_kept_of_a_model_without_a_digest(tmp_path: Path) -> None:
    ask(StandIn(last, digest=None), file_of(10), work=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_runs_do_not_write_one_log(tmp_path: Path) -> None:
    model = StandIn(last)

    def second(prompts: Sequence[str]) -> None:
        with pytest.raises(OutputError, match="another run"):
            ask(StandIn(last), file_of(10), work=tmp_path)

    model.fails = second  # type: ignore[assignment]
    assert len(ask(model, file_of(10), work=tmp_path)) == 10


@pytest.mark.parametrize(
    "fault",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    ],
)
def test_memory_that_runs_out_halves_the_batch(fault: Exception) -> None:
    model, told = StandIn(last), []
    model.fails = lambda prompts: fault if len(prompts) > 3 else None
    assert ask(model, file_of(9), told) == [str(n) for n in range(9)]
    assert model.batches == [2, 2, 2, 2, 1]
    assert sum(told) == 9
    model.fails = lambda prompts: fault
    with pytest.raises(ResourceError, match="one prompt"):
        ask(model, file_of(9))


def test_another_failure_is_not_taken_for_memory() -> None:
    model = StandIn(last)
    model.fails = lambda prompts: RuntimeError("shapes do not fit")
    with pytest.raises(RuntimeError, match="shapes"):
        ask(model, file_of(9))


def test_answers_are_compared() -> None:
    file = file_of(100)
    right = [str(n) for n in range(100)]
    task = compared(file, metric_for(file), right, [text if n % 10 else "?" for n, text in enumerate(right)])
    assert task.samples == file.as_set
    assert (task.comparison.reference, task.comparison.candidate) == (1.0, 0.9)
    assert task.comparison.only_reference == 10
    assert task.comparison.p_value == pytest.approx(2 / 2**10)
    assert [answer.sample for answer in task.differing] == list(range(0, 100, 10))
    first = task.differing[1]
    assert (first.expected, first.reference, first.candidate) == ("10", "10", "?")
    assert (first.reference_right, first.candidate_right) == (True, False)


def choices(metric: str, *options: tuple[str, ...]) -> SampleFile:
    rows = tuple(Sample(n, n + 1, "q", texts[0], texts, 0) for n, texts in enumerate(options))
    return SampleFile("task", Path("task.jsonl"), "samples", metric, rows)


def test_the_likeliest_choice_is_chosen(tmp_path: Path) -> None:
    model = StandIn(last, likes="a")
    file = choices("choice", ("a", "b"), ("b", "a"), ("ccc", "dd"), ("aaaa", "b"))
    # ln P of a liked byte is 1 - ln(255 + e), of another -ln(255 + e); four liked ones lose to one that is not.
    assert ask(model, file, work=tmp_path) == ["a", "a", "dd", "b"]
    normed = choices("choice_norm", ("aaaa", "b"), ("b", "aaaa"))
    assert ask(model, normed, work=tmp_path) == ["aaaa", "aaaa"]
    assert ask(StandIn(last), file, work=tmp_path) == ["a", "a", "dd", "b"]


def test_a_model_without_logits_cannot_be_asked_for_choices() -> None:
    with pytest.raises(Unsupported, match="no logits"):
        ask(StandIn(last), choices("choice", ("a", "b")))


def test_likelihoods_are_those_of_the_formula_and_rows_are_shared() -> None:
    model = StandIn(last, likes="ab")
    asked: list[int] = []
    logits = model.logits
    model.logits = lambda rows, progress: (asked.append(len(rows)), logits(rows, progress))[1]  # type: ignore[method-assign]
    pairs = [([1, 2], [97, 99]), ([1, 2], [97]), ([1, 2], [98]), ([1], [2, 97])]
    total = math.log(254 + 2 * math.e)
    found = likelihoods(model, pairs, lambda number: None)
    assert [value for value, _ in found] == pytest.approx(
        [1 - 2 * total, 1 - total, 1 - total, 1 - 2 * total], abs=1e-5
    )
    assert [greedy for _, greedy in found] == [False, True, False, False]
    assert asked == [2]


def test_a_long_context_loses_its_left() -> None:
    model = StandIn(last, likes="a")
    model.context = 4
    seen: list[list[int]] = []
    logits = model.logits
    model.logits = lambda rows, progress: (seen.extend(map(list, rows)), logits(rows, progress))[1]  # type: ignore[method-assign]
    likelihoods(model, [([1, 2, 3, 4, 5], [6, 7])], lambda number: None)
    assert seen == [[3, 4, 5, 6]]
    with pytest.raises(Unsupported, match="context of 4"):
        likelihoods(model, [([1], [1] * 5)], lambda number: None)


def test_a_pair_is_split_where_the_contexts_tokens_end() -> None:
    def encode(text: str) -> list[int]:
        """Words with their leading space."""
        return [sum(word.encode()) for word in text.replace(" ", "| ").split("|") if word]

    assert pair(encode, "the sky is", " blue") == (encode("the sky is"), encode(" blue"))
    assert pair(encode, "the sky is ", "blue") == pair(encode, "the sky is", " blue")
    assert pair(encode, "the sky", "blue") == (encode("the"), encode(" skyblue"))
