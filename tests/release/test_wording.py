"""Errors that leave a release speak of a recipe's keys."""

from __future__ import annotations

import pytest

from ingot.errors import UsageError
from ingot.release.wording import as_key, recipe_words


@pytest.mark.parametrize(
    ("said", "here"),
    [
        ("Give a checkout with --llama-cpp DIR.", "Give a checkout with `formats[].llama_cpp`."),
        ("Pass --samples FILE.jsonl or --tasks NAME.", "Pass `validate.samples` or `validate.tasks`."),
        ("--min-survival", "`validate.gates.min_survival`"),
        ("Or run with `--accept-missing`.", "Or run with `merge.accept_missing`."),
        ("Make it with `ingot imatrix MODEL --samples FILE`.", "Make it with `ingot imatrix MODEL --samples FILE`."),
        ("Leave --device out.", "Leave --device out."),
        ("Pass --tracking-uri URI, or set MLFLOW_TRACKING_URI.", "Set MLFLOW_TRACKING_URI."),
    ],
)  # fmt: skip
def test_options_that_have_a_key_are_called_by_it(said: str, here: str) -> None:
    assert as_key(said) == here
    assert as_key(here) == here


def test_an_error_keeps_its_kind_and_its_place() -> None:
    with pytest.raises(UsageError, match=r"`merge\.density` is none") as caught, recipe_words():
        raise UsageError("--density is none", where="here")
    assert caught.value.where == "here"
    assert caught.value.hint is not None
    assert "docs/release.md" in caught.value.hint
