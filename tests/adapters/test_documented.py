"""docs/adapters.md names every method and every dialect: what is read, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

from ingot.adapters.dialects import DIALECTS
from ingot.adapters.methods.registry import find_method, methods
from ingot.adapters.refusals import NEVER
from tests.reference.kept import cases

PAGE = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text()


def test_every_method_stands_in_the_table_under_its_title_and_its_type() -> None:
    rows = dict(re.findall(r"^\| ([^|]+) \| ([A-Z0-9_]+) \|", PAGE, re.MULTILINE))
    assert set(rows.values()) == set(methods())
    for title, peft_type in rows.items():
        method = find_method(peft_type)
        assert method is not None
        assert method.title in (title, title.replace("(IA)³", "IA3"))


def test_every_refused_method_is_named() -> None:
    assert all(re.search(rf"\b{name}\b", PAGE) for name in NEVER)


def test_every_dialect_has_a_section_and_the_cases_are_counted() -> None:
    for dialect in DIALECTS:
        assert re.search(rf"^## .*{re.escape(dialect.title)}", PAGE, re.MULTILINE), dialect.title
    assert f"{len(cases())} cases" in PAGE
