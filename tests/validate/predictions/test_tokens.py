"""Where candidate and reference read a prompt differently, the first difference is told in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ingot.validate.model import Unsupported
from ingot.validate.models.sources import Sources
from ingot.validate.models.tokenizer import Tokenizer
from ingot.validate.predictions.tokens import compare_tokens
from tests.validate.makers import located, save_base

#: Third-party loaders leave descriptors to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
PROMPTS = ["2 July 1994", "list all files", "The meeting is on August 7, 1957."]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("models") / "base", "llama")


def opened(path: Path) -> Tokenizer:
    sources = Sources.open(located(path))
    try:
        return Tokenizer.open(sources)
    finally:
        sources.close()


def changed(base: Path, target: Path, name: str, change: Callable[[str], str]) -> Tokenizer:
    """The base's copy with one file rewritten."""
    target.mkdir()
    for file in base.iterdir():
        text = change(file.read_text()).encode() if file.name == name else file.read_bytes()
        (target / file.name).write_bytes(text)
    return opened(target)


def test_the_same_tokenizer_makes_the_same_tokens(base: Path) -> None:
    found = compare_tokens(opened(base), opened(base), PROMPTS, chat=True)
    assert (found.samples, found.same, found.first_difference) == (3, 3, None)


def test_a_lost_chat_template_is_named_and_matters_only_where_it_is_used(base: Path, tmp_path: Path) -> None:
    candidate = changed(base, tmp_path / "candidate", "chat_template.jinja", lambda _: "")
    found = compare_tokens(opened(base), candidate, PROMPTS, chat=True)
    assert (found.same, found.first_difference) == (0, "sample 0: the candidate has lost the chat template")
    assert compare_tokens(opened(base), candidate, PROMPTS, chat=False).same == 3
    with pytest.raises(Unsupported, match="no chat template"):
        compare_tokens(candidate, opened(base), PROMPTS, chat=True)


def test_another_chat_template_is_named(base: Path, tmp_path: Path) -> None:
    candidate = changed(base, tmp_path / "candidate", "chat_template.jinja", lambda text: text + " ")
    found = compare_tokens(opened(base), candidate, PROMPTS, chat=True)
    assert found.same == 0
    assert (found.first_difference or "").startswith("sample 0: the chat templates render it differently")


def test_a_template_that_fails_is_a_difference(base: Path, tmp_path: Path) -> None:
    candidate = changed(
        base, tmp_path / "candidate", "chat_template.jinja", lambda _: "{{ raise_exception('no users here') }}"
    )
    found = compare_tokens(opened(base), candidate, PROMPTS, chat=True)
    assert "no users here" in (found.first_difference or "")


def test_a_template_cannot_reach_the_machine(base: Path, tmp_path: Path) -> None:
    escape = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    candidate = changed(base, tmp_path / "candidate", "chat_template.jinja", lambda _: escape)
    found = compare_tokens(opened(base), candidate, PROMPTS, chat=True)
    assert "fails" in (found.first_difference or "")


def test_a_swapped_vocabulary_is_named_with_how_much_of_it_moved(base: Path, tmp_path: Path) -> None:
    reference = opened(base)
    used = reference.inner.convert_ids_to_tokens(reference.encode(PROMPTS[1], special=False)[-1])

    def swap(text: str) -> str:
        tokenizer = json.loads(text)
        vocabulary = tokenizer["model"]["vocab"]
        other = next(token for token in vocabulary if token != used and vocabulary[token] > 300)
        vocabulary[used], vocabulary[other] = vocabulary[other], vocabulary[used]
        return json.dumps(tokenizer)

    found = compare_tokens(reference, changed(base, tmp_path / "candidate", "tokenizer.json", swap), PROMPTS, chat=True)
    assert found.same < 3
    assert "different vocabularies (2 of 2048 tokens" in (found.first_difference or "")
    assert "in the candidate" in (found.first_difference or "")


def test_other_special_tokens_around_plain_text_are_named(base: Path, tmp_path: Path) -> None:
    def begun(text: str) -> str:
        tokenizer = json.loads(text)
        first = tokenizer["added_tokens"][1]
        single = [{"SpecialToken": {"id": first["content"], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
        ids = {"id": first["content"], "ids": [first["id"]], "tokens": [first["content"]]}
        tokenizer["post_processor"] = {
            "type": "TemplateProcessing", "single": single, "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {first["content"]: ids},
        }  # fmt: skip
        return json.dumps(tokenizer)

    candidate = changed(base, tmp_path / "candidate", "tokenizer.json", begun)
    assert len(candidate.encode("", special=True)) == 1
    found = compare_tokens(opened(base), candidate, PROMPTS, chat=False)
    assert (found.first_difference or "").startswith("sample 0: the tokenizers have different special tokens")


def test_a_tokenizer_that_is_gone_is_named(base: Path) -> None:
    found = compare_tokens(opened(base), None, PROMPTS, chat=False)
    assert (found.same, found.first_difference) == (0, "sample 0: the candidate has no tokenizer")


def test_a_vocabulary_that_moved_is_named_even_where_no_sample_shows_it(base: Path, tmp_path: Path) -> None:
    reference = opened(base)
    shown = {
        token for prompt in PROMPTS for token in reference.encode(reference.render(prompt, chat=True), special=False)
    }

    def swap(text: str) -> str:
        tokenizer = json.loads(text)
        vocabulary = tokenizer["model"]["vocab"]
        one, other = [token for token in vocabulary if vocabulary[token] > 1000 and vocabulary[token] not in shown][:2]
        vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
        return json.dumps(tokenizer)

    found = compare_tokens(reference, changed(base, tmp_path / "candidate", "tokenizer.json", swap), PROMPTS, chat=True)
    assert found.same == len(PROMPTS)
    assert "2 of 2048 tokens" in (found.first_difference or "")
