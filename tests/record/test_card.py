"""README.md: its YAML as a YAML parser reads it, its recipe as a shell does."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ingot.plan.model import Options, SideFile
from ingot.record.card import build_card, command, markdown, yaml_text
from tests.record.makers import digest_of, make_plan, opened

NASTY = 'a: "b" #c\n- d\t| e [f](javascript:g) `h` <i> \u202e\ud7ff 猫 🐈 \\x00 {{j}} %k @l !m &n *o'


def card(root: Path, **names: Any) -> tuple[Any, str]:
    """(front matter, text)."""
    from ingot.engine.outcome import Outcome

    with opened(root / "base") as base, opened(root / "adapter") as adapter:
        plan = make_plan(base, adapter, **names)
    files = [digest_of("adapter_config.json", b"{}"), digest_of("adapter_model.safetensors", b"weights")]
    text = build_card(Outcome(plan, adapter_files=[files])).decode("utf-8")
    assert text.startswith("---\n")
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_the_front_matter_tells_the_base_and_the_relation(root: Path) -> None:
    head, _ = card(root, base={"name": "org/base"})
    assert head == {
        "base_model": "org/base",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "other",
        "license_name": "as-the-base",
        "license_link": "LICENSE",
        "tags": ["ingot", "merged", "lora"],
    }


def test_a_base_that_is_a_directory_is_not_taken_for_what_the_hub_has_under_its_name(root: Path) -> None:
    head, body = card(root, base={"name": "gpt2"})
    assert not {"base_model", "base_model_relation"} & head.keys()
    assert "gpt2" in body


def test_no_license_is_told_where_no_license_file_travels(root: Path) -> None:
    from dataclasses import replace

    from ingot.engine.outcome import Outcome

    with opened(root / "base") as base, opened(root / "adapter") as adapter:
        plan = replace(make_plan(base, adapter), side_files=(SideFile("config.json", "base"),))
    text = build_card(Outcome(plan, adapter_files=[[]])).decode()
    assert "license" not in yaml.safe_load(text.split("---\n")[1])


@pytest.mark.parametrize(
    ("model_class", "tag"),
    [
        ("LlamaForCausalLM", "text-generation"),
        ("GPT2LMHeadModel", "text-generation"),
        ("BertForSequenceClassification", "text-classification"),
        ("T5ForConditionalGeneration", None),
        (None, None),
    ],
)
def test_the_pipeline_tag_follows_the_architecture_where_it_is_obvious(
    root: Path, model_class: str | None, tag: str | None
) -> None:
    assert card(root, base={"model_class": model_class})[0].get("pipeline_tag") == tag


def test_a_nasty_name_stays_one_value_of_the_yaml(root: Path) -> None:
    name = NASTY.replace("/", "").replace("\\", "")
    head, body = card(root, base={"name": name}, adapter={"name": name, "method": NASTY})
    assert "base_model" not in head
    assert head["tags"] == ["ingot", "merged", NASTY.lower()]
    assert "\u202e" not in body
    outside_code = body.split("```bash")[0] + body.split("```", 2)[2]
    assert "](javascript" not in outside_code.replace("\\]", "")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_the_same_after_a_yaml_parser(text: str) -> None:
    assert yaml.safe_load(f"key: {yaml_text(text)}\nnext: 1") == {"key": text, "next": 1}


def test_the_recipe_is_a_command_that_a_shell_takes_apart(root: Path) -> None:
    with opened(root / "base") as base, opened(root / "adapter") as adapter:
        plan = make_plan(
            base, adapter,
            base={"name": "org/base", "commit": "c" * 40},
            adapter={"name": "my lora's; rm -rf", "weight": 0.1},
            options=Options("BF16", assume_peft_version="0.17.0", accept_nonfinite_base=True, accept_missing=True),
        )  # fmt: skip
    assert shlex.split(command(plan)) == [
        "ingot", "merge", "org/base@" + "c" * 40, "my lora's; rm -rf=0.1", "--dtype", "bfloat16",
        "--assume-peft-version", "0.17.0", "--accept-nonfinite-base", "--accept-missing", "-o", "OUT",
    ]  # fmt: skip


def test_a_name_with_an_equals_sign_always_has_its_weight(root: Path) -> None:
    with opened(root / "base") as base, opened(root / "adapter") as adapter:
        plan = make_plan(base, adapter, adapter={"name": "lr=1e-4"})
    assert "lr=1e-4=1" in shlex.split(command(plan))


def test_the_table_of_adapters_tells_rank_alpha_weight_and_digest(root: Path) -> None:
    _, body = card(root, adapter={"ranks": (8, 16), "alphas": (16.0, 0.5), "weight": 1 / 3})
    digest = digest_of("", b"weights").sha256[:12]
    assert f"| support-lora | LoRA | 8, 16 | 16, 0.5 | {1 / 3!r} | `{digest}…` |" in body


def test_the_card_tells_how_to_verify_and_to_load(root: Path) -> None:
    _, body = card(root)
    assert "ingot verify . --read" in body
    code = body.split("```python\n")[1].split("```")[0]
    compile(code, "README.md", "exec")
    assert len(code.splitlines()) == 3


def test_a_merge_in_another_dtype_does_not_claim_equal_bytes(root: Path) -> None:
    _, body = card(root, options=Options(dtype="BF16"))
    assert "byte for byte" not in body


def test_markdown_is_shown_as_text() -> None:
    assert markdown("a|b`c<d>\n") == "a\\|b\\`c\\<d\\>\\\\n"
