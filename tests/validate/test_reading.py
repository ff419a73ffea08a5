"""A model that cannot be asked is found before anything long begins, and `evaluate` says so as an error of ours."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ingot.demo import assets
from ingot.errors import BaseError, UsageError
from ingot.validate.reading import check_reading
from ingot.validate.request import Request, check
from ingot.validate.run import evaluate
from tests.cli.toys import make_base

ADAPTER = assets.tasks()[1].adapter


@contextmanager
def no_bar(_what: str, _total: int, _unit: str) -> Iterator[Callable[[int], None]]:
    yield lambda _: None


def test_the_demo_can_be_asked_with_and_without_its_template() -> None:
    for chat in (False, True):
        check_reading(f"{assets.base()}+{ADAPTER}", chat=chat)


def test_a_tokenizer_that_is_none_is_a_fault_of_the_base(tmp_path: Path) -> None:
    make_base(tmp_path / "base")
    with pytest.raises(BaseError, match="cannot be asked anything"):
        check_reading(str(tmp_path / "base"), chat=False)


def test_no_template_is_a_fault_only_where_prompts_go_through_one(tmp_path: Path) -> None:
    base = shutil.copytree(assets.base(), tmp_path / "base")
    (base / "chat_template.jinja").unlink()
    check_reading(f"{base}+{ADAPTER}", chat=False)
    with pytest.raises(UsageError, match="no chat template"):
        check_reading(f"{base}+{ADAPTER}", chat=True)


def test_a_template_that_fails_is_found_too(tmp_path: Path) -> None:
    base = shutil.copytree(assets.base(), tmp_path / "base")
    (base / "chat_template.jinja").write_text("{{ raise_exception('only with a system prompt') }}")
    with pytest.raises(UsageError, match="only with a system prompt"):
        check_reading(str(base), chat=True)


def test_an_evaluation_of_a_model_without_a_tokenizer_is_no_bug_of_ours(tmp_path: Path) -> None:
    make_base(tmp_path / "base")
    (tmp_path / "samples.jsonl").write_text('{"prompt": "a", "expected": "b"}\n')
    request = Request(
        str(tmp_path / "base"), (str(tmp_path / "base"),), (str(tmp_path / "samples.jsonl"),), work=tmp_path / "work"
    )
    checked = check(request)
    with pytest.raises(BaseError, match="cannot be asked anything"):
        evaluate(checked, no_bar)
