from __future__ import annotations

import json

from ingot.plan import configs


def test_changes_keep_all_other_keys_and_their_order() -> None:
    config = {"z": 1, "text_config": {"vocab_size": 3, "y": 2}, "a": 4}
    text = configs.changed(config, {"text_config.vocab_size": 9, "new": True})
    assert list(json.loads(text).items()) == [
        ("z", 1),
        ("text_config", {"vocab_size": 9, "y": 2}),
        ("a", 4),
        ("new", True),
    ]
    assert config["text_config"] == {"vocab_size": 3, "y": 2}


def test_untying_is_said_at_the_top_and_wherever_it_was_said() -> None:
    assert configs.untied({}) == {"tie_word_embeddings": False}
    assert configs.untied({"text_config": {"tie_word_embeddings": True}}) == {
        "tie_word_embeddings": False, "text_config.tie_word_embeddings": False
    }  # fmt: skip


def test_a_resized_vocabulary_is_said_where_the_config_says_it() -> None:
    assert configs.resized({"vocab_size": 32}, 40) == {"vocab_size": 40}
    assert configs.resized({"text_config": {"vocab_size": 32}}, 40) == {"text_config.vocab_size": 40}


def test_a_new_head_brings_its_architecture_and_as_many_labels_as_it_has_rows() -> None:
    changes = configs.new_head({"architectures": ["LlamaForCausalLM"]}, "LlamaForSequenceClassification", 3)
    assert changes["architectures"] == ["LlamaForSequenceClassification"]
    assert changes["id2label"] == {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
    assert changes["label2id"] == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}


def test_label_names_that_fit_are_kept() -> None:
    config = {"architectures": ["A"], "id2label": {"0": "no", "1": "yes"}}
    assert configs.new_head(config, "B", 2) == {"architectures": ["B"]}


def test_the_dtype_stands_under_the_key_that_the_config_uses() -> None:
    assert configs.in_dtype({"torch_dtype": "float16"}, "bfloat16") == {"torch_dtype": "bfloat16"}
    assert configs.in_dtype({}, "bfloat16") == {"dtype": "bfloat16"}
