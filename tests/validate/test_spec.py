"""A reference or candidate is taken apart where its user meant it to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingot.errors import AdapterError, BaseError, UsageError
from ingot.validate.spec import Kind, Spec, locate_spec, parse_spec


def test_a_base_with_weighted_adapters_is_cut_at_every_plus() -> None:
    spec = parse_spec("org/base+out/a=0.7+out/b=-0.3+org/c")
    assert spec.base == "org/base"
    assert spec.adapters == (("out/a", 0.7), ("out/b", -0.3), ("org/c", 1.0))
    assert spec.kind is Kind.ADAPTED


def test_a_base_alone_is_a_checkpoint() -> None:
    assert parse_spec("org/base@main") == Spec("org/base@main", Kind.CHECKPOINT, "org/base@main")


def test_directories_that_exist_are_never_cut(tmp_path: Path) -> None:
    base, adapter = tmp_path / "a+b" / "base+1", tmp_path / "lr=1e-4+x" / "y=0.5"
    base.mkdir(parents=True)
    adapter.mkdir(parents=True)
    assert parse_spec(str(base)).kind is Kind.CHECKPOINT
    spec = parse_spec(f"{base}+{adapter}+{adapter}=0.25+other=2")
    assert spec.base == str(base)
    assert spec.adapters == ((str(adapter), 1.0), (str(adapter), 0.25), ("other", 2.0))


def test_a_url_is_an_endpoint_and_is_not_cut() -> None:
    url = "http://127.0.0.1:8000/v1?model=a+b"
    assert parse_spec(url) == Spec(url, Kind.ENDPOINT, url)


def test_a_gguf_file_is_recognised_by_its_name_and_a_directory_by_what_it_holds(tmp_path: Path) -> None:
    for name in ("a+b", "checkpoint"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.gguf").touch()
    (tmp_path / "checkpoint" / "config.json").touch()
    assert parse_spec("model-Q4_K_M.GGUF").kind is Kind.GGUF
    assert parse_spec(f"{tmp_path}/a+b/model.gguf") == Spec(
        f"{tmp_path}/a+b/model.gguf", Kind.GGUF, f"{tmp_path}/a+b/model.gguf"
    )
    assert parse_spec(f"{tmp_path}/a+b").kind is Kind.GGUF
    assert parse_spec(f"{tmp_path}/checkpoint").kind is Kind.CHECKPOINT


def test_an_adapter_on_a_gguf_is_refused() -> None:
    with pytest.raises(UsageError, match="not put on a GGUF") as refusal:
        parse_spec("a/b.GGUF+adapter")
    assert "ingot merge" in (refusal.value.hint or "")


@pytest.mark.parametrize("text", ["", "  ", "+a", "base+", "base++a", "base+a=0", "base+a=nan", "base+=0.5", "a\0b"])
def test_an_empty_part_or_a_weight_that_is_none_is_a_wrong_call(text: str) -> None:
    with pytest.raises(UsageError):
        parse_spec(text)


def test_names_are_those_of_directories_not_paths(tmp_path: Path) -> None:
    for name in ("base", "one", "two"):
        (tmp_path / name).mkdir()
    where = locate_spec(parse_spec(f"{tmp_path}/base+{tmp_path}/one=0.5+{tmp_path}/two"))
    assert where.name == "base+one=0.5+two"
    assert [(location.path, weight) for location, weight in where.adapters] == [
        (tmp_path / "one", 0.5),
        (tmp_path / "two", 1.0),
    ]


def test_what_is_not_there_is_the_bases_or_the_adapters_fault(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="the model does not exist"):
        locate_spec(parse_spec(str(tmp_path / "nothing")))
    (tmp_path / "base").mkdir()
    with pytest.raises(AdapterError, match="the adapter does not exist"):
        locate_spec(parse_spec(f"{tmp_path}/base+{tmp_path}/nothing"))
