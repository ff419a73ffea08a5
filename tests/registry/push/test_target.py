from __future__ import annotations

import pytest

from ingot.errors import UsageError
from ingot.registry.push import HubTarget, MlflowTarget, parse_target


def test_a_repository_with_and_without_a_branch() -> None:
    assert parse_target("hf://acme/llama-3-8b-support") == HubTarget("acme/llama-3-8b-support", "main")
    assert parse_target("hf://acme/support@v1.2/q4_k_m") == HubTarget("acme/support", "v1.2/q4_k_m")
    assert parse_target("hf://acme/support/", "v2") == HubTarget("acme/support", "v2")
    assert parse_target("hf://acme/support@v2", "v2") == HubTarget("acme/support", "v2")
    assert parse_target("mlflow:models/support") == MlflowTarget("models/support")


@pytest.mark.parametrize("text", ["hf://acme/support", "hf://acme/support@v2", "mlflow:models/x"])
def test_a_target_is_spelled_as_it_would_be_typed_again(text: str) -> None:
    assert str(parse_target(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "acme/support", "hf://", "hf://support", "hf://acme/support/model.gguf", "hf://datasets/acme/support",
        "hf://acme/..", "hf://acme/a--b", "hf://acme/support.git", "hf://acme/-support", "hf://acme/" + "x" * 97,
        "hf://acme/support@", "hf://acme/support@..", "hf://acme/support@a..b", "hf://acme/support@-f", "s3://acme/x",
        "hf://acme/sup\nport", "hf://acme/support@x\x1b[31m",
    ],
)  # fmt: skip
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_target(text)


def test_the_hubs_own_rule_takes_every_name_that_is_taken_here() -> None:
    from huggingface_hub.utils import validate_repo_id

    for name in ("a/b", "acme/llama-3-8b-support", "acme/x.y_z-1", "_a/b_", "acme/" + "x" * 91):
        target = parse_target(f"hf://{name}")
        assert isinstance(target, HubTarget)
        validate_repo_id(target.repository)


def test_two_different_branches_and_a_branch_of_mlflow_are_refused() -> None:
    for text, branch in (("hf://acme/support@v1", "v2"), ("mlflow:x", "v2"), ("hf://acme/support", "")):
        with pytest.raises(UsageError):
            parse_target(text, branch)


def test_what_looks_like_a_repository_is_hinted_at() -> None:
    with pytest.raises(UsageError) as caught:
        parse_target("acme/support")
    assert caught.value.hint == "Did you mean `hf://acme/support`?"
