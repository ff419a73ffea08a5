"""What other libraries say while they load is theirs alone; their levels are as they were before."""

from __future__ import annotations

import logging

import pytest

from ingot.errors import MissingComponent
from ingot.validate.model import Unsupported
from ingot.validate.models.libraries import loading


def test_advice_on_kernels_does_not_reach_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    other = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level = logging.getLogger("bitsandbytes").level
    with loading("PEFT"):
        other.warning("Failed to load a kernel")
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("bitsandbytes").level == level


def test_what_fails_is_told_in_one_line() -> None:
    with pytest.raises(MissingComponent, match="needs is not installed"), loading("it"):
        raise ImportError("no such library")
    with pytest.raises(Unsupported, match="it cannot be loaded: ValueError: two lines"), loading("it"):
        raise ValueError("two\nlines")
