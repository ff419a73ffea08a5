"""Names say what was merged; those that say nothing are found out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingot.errors import UsageError
from ingot.release.form import AdapterForm, BaseForm
from ingot.release.names import MAX_LENGTH, artifact_name, filled, series_of, slug, suggest
from ingot.storage.names import name_fault

TABLE = [
    (("org/llama-3-8b", "1.2"), [("/x/support-lora", "v3")], "gguf:Q4_K_M", "llama-3-8b-v1.2-support-lora-v3-q4_k_m"),
    (("org/llama-3-8b", None), [("/x/support-lora", None)], "safetensors", "llama-3-8b-support-lora"),
    (("org/Llama-3.1-8B@main", "3.1"), [("/x/Support_LoRA", "3")], "gguf:Q8_0", "llama-3.1-8b-support_lora-v3-q8_0"),
    (("/m/base", None), [("org/lora@v2", None)], "safetensors", "base-lora"),
    (("/m/tiny/base", None), [("/home/zoe/lora", None)], "safetensors", "tiny-base-lora"),
    (("/m/llama", None), [("/x/llama-support-lora", None)], "safetensors", "llama-support-lora"),
    (("/m/llama", None), [("/x/support-lora-v3", "v3")], "safetensors", "llama-support-lora-v3"),
    (("/m/llama", None), [("/x/support/checkpoint-1200", None)], "safetensors", "llama-support-checkpoint-1200"),
    (("/m/llama", None), [("/x/support/final", "v1")], "safetensors", "llama-support-final-v1"),
    (("/m/llama", None), [("/x/style.safetensors", None)], "safetensors", "llama-style"),
    (("/m/llama", None), [("/x/a1", "v1"), ("/x/b1", None)], "gguf:F16", "llama-a1-v1-b1-f16"),
    (("/m/llama", None), [(f"/x/lora-{n}-of-five", None) for n in range(5)], "safetensors",
     "llama-lora-0-of-five-lora-1-of-five-lora-2-of-five-and-2-more"),
    (("/m/Lläma  8B!", None), [("/x/τ", None)], "safetensors", "ll-ma-8b-unnamed"),
]  # fmt: skip


def forms(base: tuple[str, str | None], adapters: list[tuple[str, str | None]]) -> tuple[BaseForm, list[AdapterForm]]:
    return BaseForm(base[0], version=base[1]), [AdapterForm(name, version=version) for name, version in adapters]


@pytest.mark.parametrize(("base", "adapters", "of", "expected"), TABLE, ids=[row[3] for row in TABLE])
def test_a_name_tells_base_adapters_versions_and_format_each_once(
    base: tuple[str, str | None], adapters: list[tuple[str, str | None]], of: str, expected: str
) -> None:
    assert artifact_name(*forms(base, adapters), of) == expected


@pytest.mark.parametrize(
    ("name", "version", "of", "expected"),
    [
        ("support-assistant", "1.4", "gguf:Q4_K_M", "support-assistant-v1.4-q4_k_m"),
        ("support-assistant", "v2", "safetensors", "support-assistant-v2"),
        ("support-v1.4", "1.4", "safetensors", "support-v1.4"),
        ("Support.Assistant", None, "safetensors", "support.assistant"),
        ("model-q4_k_m", None, "gguf:Q4_K_M", "model-q4_k_m"),
        (None, "1.4", "gguf:Q4_K_M", "llama-lora-r1.4-q4_k_m"),
    ],
)
def test_a_name_of_ones_own_gets_version_and_format(
    name: str | None, version: str | None, of: str, expected: str
) -> None:
    assert artifact_name(*forms(("/m/llama", None), [("org/lora", None)]), of, name=name, version=version) == expected


VERSION = st.none() | st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._+-]{0,31}\Z")
SPEC = st.text(min_size=1, max_size=150) | st.from_regex(r"\A[\w.-]{1,60}/[\w.-]{1,120}\Z")


@given(SPEC, VERSION, st.lists(st.tuples(SPEC, VERSION), min_size=1, max_size=6), VERSION)
def test_whatever_the_parts_a_name_is_a_short_file_name_in_small_letters(
    base: str, version: str | None, adapters: list[tuple[str, str | None]], release: str | None
) -> None:
    name = artifact_name(*forms((base, version), adapters), "gguf:Q4_K_M", version=release)
    assert len(name) <= MAX_LENGTH
    assert name_fault(name) is None
    assert name == name.lower()
    assert name[0].isalnum()
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    assert name.endswith("q4_k_m")


def test_long_names_that_differ_stay_different() -> None:
    names = {
        artifact_name(*forms(("/m/" + "b" * 90, None), [("/x/" + end, None)]), "gguf:F16") for end in ("one1", "two2")
    }
    assert len(names) == 2


@pytest.mark.parametrize(
    "name",
    ["final", "final2", "final-final", "new", "test", "tmp", "merged", "merged-model", "output", "model", "my-model",
     "latest", "v2", "untitled", "My_Model_v3", "test-1", "2", "model.final.v2", "checkpoint-1200", "lora"],
)  # fmt: skip
def test_a_name_that_says_nothing_gets_a_better_one(name: str) -> None:
    assert suggest(name, *forms(("org/llama", None), [("/x/support", None)])) == "llama-support"


@pytest.mark.parametrize("name", ["support-assistant", "llama-support-final", "qwen", "contest", "newton", "v2-dates"])
def test_a_name_that_says_something_is_left_alone(name: str) -> None:
    assert suggest(name, *forms(("org/llama", None), [("/x/support", None)])) is None


def test_placeholders_are_filled_in_and_a_version_must_be_there() -> None:
    assert filled("{name}/{format}/{version}", name="n", format_name="gguf:Q8_0", version="1.0") == "n/q8_0/1.0"
    assert filled("{format}", name="n", format_name="safetensors", version=None) == "safetensors"
    assert filled("a{{b}}", name="n", format_name="safetensors", version=None) == "a{b}"
    with pytest.raises(UsageError, match="has no value"):
        filled("{version}", name="n", format_name="safetensors", version=None)


@pytest.mark.parametrize("text", ["{", "}", "{0}", "{}", "{name!r}", "{name:>9}", "{name.x}", "{other}"])
def test_another_placeholder_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        filled(text, name="n", format_name="safetensors", version="1")


def test_a_slug_of_nothing_is_unnamed() -> None:
    assert slug("...") == slug("✨") == "unnamed"
    assert slug("Support LoRA (v3)") == "support-lora-v3"


def test_a_series_is_what_stays_while_versions_go() -> None:
    base = BaseForm("org/llama-3-8b", version="1.2")
    for version in ("v3", "v4", None):
        adapters = [AdapterForm("./support-lora", version=version)]
        assert series_of(base, adapters, None) == "llama-3-8b-support-lora"
        assert series_of(base, adapters, "Support") == "support"
