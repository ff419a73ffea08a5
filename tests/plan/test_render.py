"""The bill: what it says is what the files say, at any width, on any terminal."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.cli.output import Output
from ingot.merge import Job, prepare
from ingot.plan.figures import collapse, elide, nbytes_text, parameters_text, scaled_text, seconds_text, table
from ingot.plan.model import AdapterInfo, BaseInfo, Options
from ingot.plan.public import claim_matches
from ingot.plan.render import as_json, as_lines, summary_lines
from tests.cli.toys import HIDDEN, LAYERS, WORDS, adapter_tensors, make_adapter, make_base


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    """Two adapters that meet in q_proj, the second with half its weight."""
    make_base(tmp_path / "tiny")
    make_adapter(tmp_path / "one")
    make_adapter(tmp_path / "two", modules=("q_proj", "down_proj"), rank=8, base_model_name_or_path="acme/other")
    adapters = [(str(tmp_path / "one"), 1.0), (str(tmp_path / "two"), 0.5)]
    with prepare(str(tmp_path / "tiny"), adapters, target=tmp_path / "out", jobs=2) as job:
        yield job


def shown(job: Job, width: int = 80) -> str:
    return "\n".join(as_lines(job.plan, width))


def test_groups_count_layers_and_give_rank_scale_and_shape_of_each_term(job: Job) -> None:
    groups: Any = as_json(job.plan)["groups"]
    found = {g["pattern"]: (g["count"], g["shape"], g["ranks"], g["scalings"], g["adapters"]) for g in groups}
    assert found == {
        "model.layers.*.self_attn.q_proj.weight": (LAYERS, [16, 16], [4, 8], [2.0, 1.0], [0, 1]),
        "model.layers.*.self_attn.v_proj.weight": (LAYERS, [8, 16], [4], [2.0], [0]),
        "model.layers.*.mlp.down_proj.weight": (LAYERS, [16, 24], [8], [1.0], [1]),
    }
    text = shown(job)
    assert "model.layers.*.self_attn.q_proj.weight  ×2" in text
    assert "4/8" in text
    assert "W + s·B@A" in text


def test_every_tensor_of_the_output_is_counted_once_with_its_bytes(job: Job, tmp_path: Path) -> None:
    tensors: Any = as_json(job.plan)["tensors"]
    base = make_base(tmp_path / "again")
    changed = [n for n in base if any(m in n for m in ("q_proj", "v_proj", "down_proj"))]
    assert tensors["changed"] == {"count": len(changed), "nbytes": sum(base[n].nbytes for n in changed)}
    copied = [n for n in base if n not in changed]
    assert tensors["copied"] == {"count": len(copied), "nbytes": sum(base[n].nbytes for n in copied)}
    assert tensors["new"]["count"] == tensors["cast"]["count"] == 0


def test_json_is_made_of_json_types_and_accounts_for_every_adapter_tensor(job: Job) -> None:
    value = json.loads(json.dumps(as_json(job.plan)))
    assert value["digest"] == job.plan.digest
    claimed = {key for key, ops in value["claims"].items() if ops} | set(value["explained"])
    names = {f"{n}:{name}" for n, w in enumerate(job.adapters) for name in w.adapter.tensors}
    assert claimed == names
    assert value["budget"]["write_nbytes"] == sum(shard["nbytes"] for shard in value["shards"])
    assert {f["name"]: f["origin"] for f in value["side_files"]} == {
        "config.json": "base", "generation_config.json": "base", "tokenizer.json": "base",
    }  # fmt: skip
    assert [a["claim_matches"] for a in value["adapters"]] == [True, None]


def test_the_json_names_the_config_that_was_read(job: Job, tmp_path: Path) -> None:
    base: Any = as_json(job.plan)["base"]
    assert base["config_sha256"] == hashlib.sha256((tmp_path / "tiny" / "config.json").read_bytes()).hexdigest()
    assert {f["name"]: f["nbytes"] for f in base["files"]} == {
        f.name: f.stat().st_size for f in (tmp_path / "tiny").glob("*.safetensors")
    }


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_line_is_wider_than_the_terminal(job: Job, width: int) -> None:
    lines = as_lines(job.plan, width)
    fixed = {line for line in lines if job.plan.digest in line}
    tables = [line for line in lines if line.startswith("  ")]
    assert all(len(line) <= width for line in lines if line not in fixed and (width >= 60 or line not in tables))


def test_the_bill_says_whose_and_what_and_how_much(job: Job) -> None:
    text = shown(job, 100)
    for part in (
        "tiny (LlamaForCausalLM)", "2 shards", "F16", "one: LoRA, rank 4, alpha 8, weight 1",
        "two: LoRA, rank 8, alpha 16, weight 0.5", "PEFT 0.18.1", "names acme/tiny as its base: the same name",
        "16 of 16 adapter tensors are merged", "tokenizer.json from the base", "free)", "of memory", "FLOP",
        job.plan.digest,
    ):  # fmt: skip
        assert part in text, part


def test_the_summary_is_part_of_the_bill(job: Job) -> None:
    lines = summary_lines(job.plan)
    assert len(lines) <= 8
    assert "6 changed, 15 copied" in "\n".join(lines)


def test_a_dtype_shows_casts_and_the_option(tmp_path: Path) -> None:
    make_base(tmp_path / "tiny")
    make_adapter(tmp_path / "one")
    with prepare(str(tmp_path / "tiny"), [(str(tmp_path / "one"), 1.0)], Options(dtype="F32")) as job:
        text, value = shown(job), as_json(job.plan)
    assert "dtype: F32" in text
    assert "Cast to F32" in text
    tensors: Any = value["tensors"]
    assert (tensors["changed"]["count"], tensors["cast"]["count"], tensors["copied"]["count"]) == (4, 17, 0)
    changes: Any = value["config_changes"]
    assert "float32" in changes.values()
    assert "float32" in text


def test_a_tokenizer_of_the_adapter_is_told_as_the_adapters(tmp_path: Path) -> None:
    make_base(tmp_path / "tiny")
    make_adapter(tmp_path / "one")
    (tmp_path / "one" / "tokenizer.json").write_text("{}")
    with prepare(str(tmp_path / "tiny"), [(str(tmp_path / "one"), 1.0)]) as job:
        assert "tokenizer.json from one" in shown(job)


def test_a_replaced_head_is_told_as_brought_by_the_adapter(tmp_path: Path) -> None:
    make_base(tmp_path / "tiny")
    tensors = adapter_tensors() | {"base_model.model.lm_head.weight": np.ones((WORDS, HIDDEN), np.float32)}
    make_adapter(tmp_path / "one", tensors, modules_to_save=["lm_head"])
    with prepare(str(tmp_path / "tiny"), [(str(tmp_path / "one"), 1.0)]) as job:
        assert "Replaced: the adapter's tensor" in shown(job)
        tally: Any = as_json(job.plan)["tensors"]
    assert tally["replaced"] == {"count": 1, "nbytes": 2 * WORDS * HIDDEN}


def test_dora_shows_its_own_formula_with_rank_and_scale(tmp_path: Path) -> None:
    make_base(tmp_path / "tiny")
    tensors = adapter_tensors()
    for name in list(tensors):
        if name.endswith("lora_B.weight"):
            rows = tensors[name].shape[0]
            tensors[name.replace("lora_B.weight", "lora_magnitude_vector")] = np.ones(rows, np.float32)
    make_adapter(tmp_path / "one", tensors, use_dora=True)
    with prepare(str(tmp_path / "tiny"), [(str(tmp_path / "one"), 1.0)]) as job:
        groups: Any = as_json(job.plan)["groups"]
        assert "DoRA" in shown(job)
    assert all((g["ranks"], g["scalings"]) == ([4], [2.0]) for g in groups)
    assert {formula for g in groups for formula in g["formulas"]}.isdisjoint({"W + s·B@A"})


def test_on_an_ascii_stream_the_columns_stay(job: Job) -> None:
    lines = as_lines(job.plan, 80)
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Output("human", stdout=stream, stderr=io.StringIO()).lines(lines)
    written = stream.buffer.getvalue().decode("ascii").splitlines()  # type: ignore[attr-defined]
    assert [len(line) for line in written] == [len(line) for line in lines]


def test_hostile_names_in_a_plan_are_escaped(tmp_path: Path) -> None:
    make_base(tmp_path / "tiny")
    make_adapter(tmp_path / "one", base_model_name_or_path="\x1b[2Jevil", peft_version="0.18.1")
    out = io.StringIO()
    with prepare(str(tmp_path / "tiny"), [(str(tmp_path / "one"), 1.0)]) as job:
        Output("human", stdout=out, stderr=io.StringIO()).lines(as_lines(job.plan))
    assert "\x1b" not in out.getvalue()


# -- figures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (1000, "1.00 kB"), (99_950, "100 kB"), (999_499, "999 kB"),
     (999_500, "1.00 MB"), (16_060_522_240, "16.1 GB"), (2.5e18, "2500 PB")],
)  # fmt: skip
def test_bytes_are_decimal_with_three_digits(nbytes: float, text: str) -> None:
    assert nbytes_text(nbytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (60, "1 min 00 s"), (3599.6, "1 h 00 min")]
)
def test_seconds_are_rounded_before_they_are_cut(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_counts_have_the_fields_usual_units() -> None:
    assert parameters_text(8_030_261_248) == "8.03B"
    assert parameters_text(6_064) == "6,064"
    assert scaled_text(3.2e12, "FLOP") == "3.20 TFLOP"
    assert scaled_text(12, "FLOP") == "12 FLOP"


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("model.layers.12.mlp", "model.layers.*.mlp"), ("h.0.attn", "h.*.attn"), ("0.weight", "*.weight"),
     ("layer1.conv2.weight", "layer1.conv2.weight"), ("blocks.3", "blocks.*"), ("a.1.2.b", "a.*.*.b")],
)  # fmt: skip
def test_only_whole_numbers_between_dots_are_collapsed(name: str, pattern: str) -> None:
    assert collapse(name) == pattern


def test_a_long_name_keeps_both_ends() -> None:
    cut = elide("model.language_model.layers.*.self_attn.q_proj.weight", 30)
    assert len(cut) == 30
    assert cut.startswith("model.")
    assert cut.endswith("q_proj.weight")
    rows = table([("x" * 200, "1"), ("y", "22")], 60, align="<>")
    assert [len(row) for row in rows] == [60, 60]


def test_only_two_hub_ids_contradict_each_other() -> None:
    def matches(name: str, claimed: str | None) -> bool | None:
        base = BaseInfo(name, None, None, None, "", ())
        return claim_matches(base, AdapterInfo("a", None, None, 1.0, "LoRA", (), (), None, claimed, None, "", (), 0))

    assert matches("acme/tiny", "acme/tiny") is True
    assert matches("acme/tiny", "Acme/Tiny/") is True
    assert matches("acme/tiny", "other/tiny") is False
    assert matches("tiny", "acme/tiny") is True
    assert matches("my-copy", "acme/tiny") is None
    assert matches("tiny", "/home/someone/models/tiny") is True
    assert matches("tiny", None) is None
