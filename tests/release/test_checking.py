"""What a recipe may not say is refused at its line and path, with what was likely meant; all faults at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingot.errors import UsageError
from tests.release.recipes import SMALL, WHOLE, read

#: (change of WHOLE, where, words of the message, words of the hint)
WRONG = [
    (("    pre:", "    imatirx: x\n    pre:"), "release.yaml:31, $.formats[1].imatirx", "no key", "`imatrix`"),
    (("name:", "nmae:"), "release.yaml:3, $.nmae", "no key `nmae`", "`name`"),
    (("ingot: 1", "ingot: 2"), "release.yaml:2, $.ingot", "expected 1, found 2", ""),
    (("ingot: 1\n", "\n"), "release.yaml:3, $", "the key `ingot` is missing", "Add `ingot:`"),
    (('version: "1.4"', "version: 1.10"), "release.yaml:4, $.version", "not text: found 1.10", '"1.10"'),
    (('"3.1"}', "3}"), "release.yaml:5, $.base.version", "not text: found 3", '"3"'),
    (("version: v3", "version: true"), "release.yaml:9, $.adapters[0].version", "not text: found true", '"true"'),
    (("weight: 0.5", 'weight: "0.5"'), "$.adapters[0].weight", "expected a number, found '0.5'", ""),
    (("weight: 0.5", "weight: 0"), "$.adapters[0].weight", "finite number other than 0", ""),
    (("method: della", "method: dela"), "release.yaml:13, $.merge.method", "sequential", "`della`"),
    (("dtype: bf16", "dtype: int8"), "$.merge.dtype", "bfloat16", ""),
    (("seed: 7", "seed: -1"), "$.merge.seed", "a whole number >= 0", ""),
    (("density: 0.4", "density:"), "release.yaml:17, $.merge.density", "no value", "leave the key out"),
    (("density: 0.4", "density: 3"), "$.merge", "density is out of its range", ""),
    (("method: della", "method: linear"), "$.merge", "does not use density", ""),
    (("take: [support-lora]", "take: [nobody]"), "$.merge.take", "names none of the adapters", "number"),
    (("take: [support-lora]", "take: support-lora"), "$.merge.take", "no list", "take: ['support-lora']"),
    (("accept_missing: true", "accept_missing: 1"), "$.merge.accept_missing", "true or false", ""),
    (("- safetensors", "- safetensor"), "release.yaml:29, $.formats[0]", "no such format", ""),
    (("- safetensors", "- awq"), "$.formats[0]", "later version", ""),
    (("- safetensors", "- gguf:Q9"), "$.formats[0]", "no such GGUF type", ""),
    (("- safetensors", '- "gguf:Q8_0,gguf:F16"'), "$.formats[0]", "one format at a time", "list item"),
    (("- safetensors", '- ","'), "$.formats[0]", "no format is named", ""),
    (("- safetensors", "- {format: safetensors, imatrix: x}"), "$.formats[0].imatrix", "belongs to a GGUF", ""),
    (("- safetensors", "- gguf:Q4_K_M"), "$.formats[1]", "one name", ""),
    (("    accept_quality_loss: true\n", ""), "$.formats[2]", "Q2_K: at three bits", "accept_quality_loss: true"),
    (("split_size: 4G", "split_size: much"), "$.formats[1].split_size", "split_size is no size", ""),
    (("max_kl: 0.2", "max_kl: -0.2"), "release.yaml:33, $.formats[1].gates.max_kl", "a number >= 0", ""),
    (("min_top1: 0.8", "min_top1: .nan"), "$.validate.gates.min_top1", "a number", ""),
    (("min_top1: 0.8", "min_top2: 0.8"), "$.validate.gates.min_top2", "no key", "`min_top1`"),
    (("new_tokens: 32", "new_tokens: 0"), "$.validate.new_tokens", "a whole number >= 1", ""),
    (("chat: true", "chat: yes"), "release.yaml:39", "`yes` means one thing", "true"),
    (("revision: main, ", "revision: main, revision: dev, "), "release.yaml:5, $.base.revision", "twice", ""),
    (("org/llama-3.1-8b", "./llama"), "$.base.revision", "a directory has no revision", ""),
    (("org/llama-3.1-8b", "org/llama@v1"), "$.base.revision", "two revisions", ""),
    (("{format}-latest", "{fmt}-latest"), "$.publish.tags[1]", "no such placeholder", "{format}"),
    (("{format}-latest", "{format.__class__}"), "$.publish.tags[1]", "no such placeholder", "{format}"),
    (("{format}-latest", "{format"), "$.publish.tags[1]", "brace stands alone", "{format}"),
    (("candidate", "of today"), "$.publish.tags[0]", "no name for a tag", "letters"),
    (("hf://org/{name}", "org/name"), "$.publish.push[0]", "no place to push to", "hf://"),
    (("hf://org/{name}", "https://me:secret@host/x"), "$.publish.push[0]", "no user and no password", ""),
    (("publish:\n", "publish: [1]\nx:\n"), "$.publish", "no mapping", ""),
    (("name: support-assistant", "name: ../evil"), "$.name", "letters, digits", ""),
]  # fmt: skip


@pytest.mark.parametrize(("change", "where", "words", "hint"), WRONG, ids=[change[1] for change, *_ in WRONG])
def test_a_fault_is_told_with_its_place(
    tmp_path: Path, change: tuple[str, str], where: str, words: str, hint: str
) -> None:
    assert change[0] in WHOLE
    with pytest.raises(UsageError) as caught:
        read(tmp_path, WHOLE.replace(*change, 1))
    error = caught.value
    assert error.exit_code == 2
    assert where in error.message
    assert words in error.message
    assert hint in (error.hint or "") + error.message
    assert "secret" not in error.message


def test_all_faults_are_told_at_once_each_with_its_line(tmp_path: Path) -> None:
    text = SMALL.replace("base:", "bse:").replace("[safetensors]", "[{format: 3}]") + "version: 1.10\n"
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert caught.value.what.startswith("4 faults: ")
    for words in ("line 2, $.bse: there is no key `bse` here (Did you mean `base`?)", "line 1, $: the key `base`",
                  "line 4, $.formats[0].format: this is not text", "line 5, $.version"):  # fmt: skip
        assert words in caught.value.what


def test_a_hundred_faults_are_counted_and_a_dozen_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="100 faults") as caught:
        read(tmp_path, SMALL + "".join(f"x{n}: 1\n" for n in range(100)))
    assert "and 88 more" in caught.value.what


@pytest.mark.parametrize("text", ["", "# nothing\n", "[]\n", "just text\n", "3\n"])
def test_what_is_no_recipe_at_all_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("key", ["adapters", "formats"])
def test_there_is_at_least_one_adapter_and_one_format(tmp_path: Path, key: str) -> None:
    text = "".join(
        f"{line.split(':')[0]}: []\n" if line.startswith(key) else f"{line}\n" for line in SMALL.splitlines()
    )
    with pytest.raises(UsageError, match="the list is empty"):
        read(tmp_path, text)
