from __future__ import annotations

import pytest

from ingot.checkpoint.side_files import Group, choose, group_of


@pytest.mark.parametrize(
    "name",
    ["adapter_config.json", "adapter_model.safetensors", "model.safetensors", "pytorch_model.bin", "README.md",
     "config.json", "ingot.json", "ingot.tensors.jsonl", "model.safetensors.index.json", "optimizer.pt",
     ".gitattributes", "trainer_state.json", "weights.gguf", "notes.docx"],
)  # fmt: skip
def test_weights_adapters_records_and_training_state_do_not_travel(name: str) -> None:
    assert group_of(name) is None


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("tokenizer.json", Group.TOKENIZER),
        ("qwen.tiktoken", Group.TOKENIZER),
        ("chat_template.jinja", Group.CHAT_TEMPLATE),
        ("generation_config.json", Group.GENERATION),
        ("modeling_x.py", Group.CODE),
        ("LICENSE", Group.LICENSE),
        ("preprocessor_config.json", Group.PROCESSOR),
        ("something.json", Group.OTHER),
    ],
)
def test_the_files_of_a_model_belong_to_groups(name: str, group: Group) -> None:
    assert group_of(name) is group


def test_the_adapters_tokenizer_replaces_the_bases_as_a_whole() -> None:
    chosen = choose(
        ["tokenizer.json", "tokenizer_config.json", "merges.txt", "generation_config.json"],
        ["tokenizer.json", "tokenizer_config.json", "training_args.bin", "README.md"],
    )
    assert chosen == {
        "generation_config.json": "base", "tokenizer.json": "adapter", "tokenizer_config.json": "adapter"
    }  # fmt: skip


def test_the_bases_chat_template_stays_where_the_adapter_has_none() -> None:
    chosen = choose(["tokenizer.json", "chat_template.jinja"], ["tokenizer.json"])
    assert chosen == {"tokenizer.json": "adapter", "chat_template.jinja": "base"}


def test_an_adapters_chat_template_wins_alone() -> None:
    chosen = choose(["tokenizer.json", "chat_template.jinja"], ["chat_template.jinja"])
    assert chosen == {"tokenizer.json": "base", "chat_template.jinja": "adapter"}


def test_a_token_map_alone_is_no_tokenizer() -> None:
    assert choose(["tokenizer.json"], ["special_tokens_map.json"])["tokenizer.json"] == "base"
