"""What PEFT draws: once a run, by one thread, without a trace in the caller's random state."""

from __future__ import annotations

import gc
import threading
import time
from importlib import util

import peft
import pytest
import torch

from ingot.adapters.methods import drawn
from ingot.adapters.methods.drawn import Once, need_peft, once
from ingot.adapters.methods.fourierft import FourierPositions
from ingot.adapters.methods.waveft import WavePositions
from ingot.errors import MissingComponent
from tests.adapters.methods.judge import Judge
from tests.oracle.reference import plan_of


class Load:
    """The reader of a run."""

    def __call__(self, factor: object) -> torch.Tensor:
        raise AssertionError("nothing is read")


@pytest.mark.parametrize("positions", [FourierPositions(9, 7, 20, 5), WavePositions(9, 7, 20, 5)])
def test_positions_are_of_the_weight_and_differ(positions: FourierPositions | WavePositions) -> None:
    rows, columns = positions.read(Load(), torch.zeros(1))
    assert len({*zip(rows.tolist(), columns.tolist(), strict=True)}) == 20
    assert 0 <= rows.min() <= rows.max() < 9
    assert 0 <= columns.min() <= columns.max() < 7


def test_the_callers_random_state_is_kept() -> None:
    before = torch.random.get_rng_state()
    FourierPositions(9, 7, 20, 5).read(Load(), torch.zeros(1))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_threads_that_ask_at_once_get_what_one_of_them_draws() -> None:
    own, load, draws, found = Once(), Load(), [], []

    def draw() -> tuple[torch.Tensor]:
        draws.append(threading.get_ident())
        time.sleep(0.05)
        return (torch.rand(3),)

    threads = [threading.Thread(target=lambda: found.append(own(load, "key", draw)[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(draws) == 1
    assert all(tensor is found[0] for tensor in found)


def test_a_run_keeps_little_and_is_let_go() -> None:
    own, load = Once(), Load()
    large = drawn.KEPT_NBYTES // 4 + 1
    first = own(load, 1, lambda: (torch.zeros(large),))
    assert own(load, 1, lambda: (torch.ones(1),)) is first
    own(load, 2, lambda: (torch.zeros(1),))
    assert own(load, 1, lambda: (torch.ones(1),))[0].numel() == 1, "the larger one was let go for the last one"
    assert own(Load(), 2, lambda: (torch.ones(2),))[0].numel() == 2, "another run draws its own"
    del load
    gc.collect()
    assert not own._runs


def test_without_peft_the_plan_says_how_to_get_it(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = judge.adapter("llama", peft.FourierFTConfig(n_frequency=9, target_modules=["q_proj"]), "no-peft")
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(MissingComponent, match="is not installed") as caught:
        plan_of(judge.base("llama"), adapter, adapter / "never")
    assert "pip install" in str(caught.value.hint)
    with pytest.raises(MissingComponent):
        need_peft()


@pytest.mark.parametrize(
    "failure", [AttributeError("no such method"), ImportError("no such module"), TypeError("args")]
)
def test_another_release_of_peft_is_refused(failure: Exception) -> None:
    def draw() -> tuple[torch.Tensor]:
        raise failure

    with pytest.raises(MissingComponent, match="release of PEFT") as caught:
        once(Load(), "key", draw)
    assert str(failure) in str(caught.value)
