"""The figures of two models' logits, against the formulas written out in float64 with numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ingot.errors import NonFiniteError, ResourceError
from ingot.validate.model import Progress, Unsupported
from ingot.validate.predictions import rows as row_room
from ingot.validate.predictions.logits import Spool, common_columns, spooled
from ingot.validate.predictions.rows import Rows, batches, padded, rows_of
from ingot.validate.result import Logits
from tests.validate.makers import ignore

ROWS = Rows((2, 0, 5), ((1, 2), (3, 1, 4, 1), (5, 9, 2, 6, 5)))


@dataclass
class Fixed:
    """Gives these logits, whatever it is asked."""

    given: list[torch.Tensor]

    @property
    def columns(self) -> int:
        return self.given[0].shape[1]

    def logits(self, rows: Sequence[Sequence[int]], progress: Progress) -> Iterator[torch.Tensor]:
        for one in self.given:
            progress(1)
            yield one


def random_logits(seed: int, columns: int = 11, scale: float = 3.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(len(row), columns, generator=generator) * scale for row in ROWS.ids]


def compare(ours: Fixed, theirs: Fixed, directory: Path, vocabulary: int = 11) -> Logits:
    with spooled(ours, ROWS, vocabulary=vocabulary, directory=directory, progress=ignore) as spool:
        return spool.compare(theirs, ignore)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


@pytest.mark.parametrize("piece", [None, 22])
def test_every_figure_is_that_of_the_formula(
    tmp_path: Path, piece: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if piece is not None:
        monkeypatch.setattr("ingot.validate.predictions.logits._PIECE", piece)
    ours, theirs = random_logits(0), [a + 0.3 * b for a, b in zip(random_logits(0), random_logits(1), strict=True)]
    found = compare(Fixed(ours), Fixed(theirs), tmp_path)
    kl, agree, surprise, apart = {}, [], [[], []], {}
    for sample, ids, a, b in zip(ROWS.samples, ROWS.ids, ours, theirs, strict=True):
        p, q = log_softmax(a.double().numpy()), log_softmax(b.double().numpy())
        kl[sample] = (np.exp(p) * (p - q)).sum(-1)
        agree += list(p.argmax(-1) == q.argmax(-1))
        apart[sample] = np.abs(a.double().numpy() - b.double().numpy()).max()
        for of, logs in zip(surprise, (p, q), strict=True):
            of += [-logs[at, token] for at, token in enumerate(ids[1:])]
    everywhere = np.concatenate(list(kl.values()))
    assert found.tokens == 11
    assert found.mean_kl == pytest.approx(everywhere.mean(), rel=1e-12)
    assert found.worst_kl == pytest.approx(everywhere.max(), rel=1e-12)
    assert found.worst_kl_sample == max(kl, key=lambda sample: kl[sample].max())
    assert found.top1 == pytest.approx(np.mean(agree))
    assert found.perplexity_reference == pytest.approx(np.exp(np.mean(surprise[0])), rel=1e-12)
    assert found.perplexity_candidate == pytest.approx(np.exp(np.mean(surprise[1])), rel=1e-12)
    assert found.largest_difference == pytest.approx(max(apart.values()), rel=1e-12)
    assert found.largest_difference_sample == max(apart, key=lambda sample: float(apart[sample]))
    assert found.samples == (0, 2, 5)
    assert found.sample_kl == pytest.approx([kl[sample].mean() for sample in (0, 2, 5)], rel=1e-12)


def test_a_model_is_no_distance_from_itself(tmp_path: Path) -> None:
    found = compare(Fixed(random_logits(0)), Fixed(random_logits(0)), tmp_path)
    assert (found.mean_kl, found.worst_kl, found.top1, found.largest_difference) == (0.0, 0.0, 1.0, 0.0)
    assert found.perplexity_reference == found.perplexity_candidate
    assert list(tmp_path.iterdir()) == []


def test_padded_columns_are_left_out_and_missing_ones_are_refused(tmp_path: Path) -> None:
    wide = random_logits(0, columns=16)
    narrow = [logits[:, :11].clone() for logits in wide]
    for ours, theirs in ((wide, narrow), (narrow, wide)):
        assert compare(Fixed(ours), Fixed(theirs), tmp_path).mean_kl == 0.0
    assert common_columns(16, 11, 11) == common_columns(11, 16, 10) == 11
    assert common_columns(11, 11, 12) == 11
    with pytest.raises(Unsupported, match="16 logits in the reference, 11 in the candidate"):
        compare(Fixed(wide), Fixed(narrow), tmp_path, vocabulary=12)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_logit_that_is_no_number_stops_the_comparison(tmp_path: Path, value: float) -> None:
    broken = random_logits(0)
    broken[1][2, 3] = value
    with pytest.raises(NonFiniteError, match="candidate gives a NaN or an infinity - at sample 0"):
        compare(Fixed(random_logits(0)), Fixed(broken), tmp_path)
    with pytest.raises(NonFiniteError, match="the reference"):
        compare(Fixed(broken), Fixed(random_logits(0)), tmp_path)


def test_a_disk_without_room_is_told_of_before_the_model_runs(tmp_path: Path) -> None:
    class Vast(Fixed):
        columns = 1 << 50  # type: ignore[assignment]

    with (
        pytest.raises(ResourceError),
        spooled(Vast([]), ROWS, vocabulary=1, directory=tmp_path, progress=ignore) as spool,
    ):
        assert isinstance(spool, Spool)
    assert list(tmp_path.iterdir()) == []


class Letters:
    """Renders in brackets and reads letters as tokens."""

    context: int | None = None

    def render(self, prompt: str, *, chat: bool) -> str:
        return f"<{prompt}>" if chat else prompt

    def encode(self, text: str, *, special: bool) -> list[int]:
        return [0] * special + list(text.encode())


def text_of(row: Sequence[int]) -> str:
    return bytes(row).decode()


def taken(samples: list[tuple[str, str]], chat: bool = True, **limits: int) -> Rows:
    return rows_of(Letters(), samples, chat=chat, **limits)  # type: ignore[arg-type]


def test_rows_are_prompt_and_answer_the_shortest_first() -> None:
    rows = taken([("long prompt", "b"), ("a", "b")])
    assert rows.samples == (1, 0)
    assert [text_of(row) for row in rows.ids] == ["<a>b", "<long prompt>b"]
    assert rows.left_out is None
    plain = taken([("2+2=", "4"), ("2+2= ", "4"), ("a\n", " b")], chat=False)
    assert {text_of(row[1:]) for row in plain.ids} == {"2+2= 4", "a\n b"}
    assert all(row[0] == 0 for row in plain.ids)


def test_limits_are_kept_and_what_is_left_out_is_said() -> None:
    samples = [("p" * 8, "")] * 10
    cut = taken(samples, tokens_a_sample=4)
    assert {len(row) for row in cut.ids} == {4}
    assert cut.left_out == "of 10 samples only the first 4 tokens"
    few = taken(samples, tokens=41)
    assert (few.samples, few.tokens) == ((0, 3, 6, 9), 40)
    assert few.left_out == "4 of 10 samples were compared"
    assert taken(samples, tokens=1).samples == (0,)
    with pytest.raises(Unsupported, match="two tokens"):
        taken([("", "")], chat=False)


def test_no_row_is_longer_than_the_model_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Letters, "context", 6)
    assert [len(row) for row in taken([("p" * 20, "")]).ids] == [6]


def test_batches_cover_all_rows_in_order_within_their_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_room, "BATCH_TOKENS", 12)
    lengths = [1, 2, 3, 4, 5, 30, 2, 2]
    parts = [list(range(*part.indices(len(lengths)))) for part in batches(lengths, 10)]
    assert [number for part in parts for number in part] == list(range(8))
    for part in parts:
        assert len(part) == 1 or len(part) * max(lengths[number] for number in part) <= 12
    assert parts[0] == [0, 1, 2]


@pytest.mark.parametrize(("left", "place"), [(False, lambda row: row[:2]), (True, lambda row: row[-2:])])
def test_padding_is_masked(left: bool, place: Callable[[torch.Tensor], torch.Tensor]) -> None:
    inputs = SimpleNamespace(**padded([[7, 8], [1, 2, 3]], 9, left=left))
    assert place(inputs.input_ids[0]).tolist() == [7, 8]
    assert place(inputs.attention_mask[0]).tolist() == [1, 1]
    assert inputs.attention_mask.sum().item() == 5
    assert (inputs.input_ids[inputs.attention_mask == 0] == 9).all()
