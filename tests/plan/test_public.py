"""What a record may call things."""

from __future__ import annotations

import pytest

from ingot.plan.model import AdapterInfo, BaseInfo
from ingot.plan.public import claim_matches, is_hub_id, public_name

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("org/llama-3", "org/llama-3"),
        ("llama-3", "llama-3"),
        ("my model (v2)", "my model (v2)"),
        ("/home/zoe/llama-3", "llama-3"),
        ("/home/zoe/llama-3/", "llama-3"),
        ("~/models/llama-3", "llama-3"),
        ("./llama-3", "llama-3"),
        ("../zoe/llama-3", "llama-3"),
        ("data/zoe/llama-3", "llama-3"),
        (r"C:\Users\zoe\llama-3", "llama-3"),
        (r"\\server\zoe\llama-3", "llama-3"),
        ("C:/Users/zoe/llama-3", "llama-3"),
        ("s3://zoes-bucket/llama-3", "llama-3"),
        ("https://zoe:secret@host/llama-3?token=secret", "llama-3"),
        ("file:///home/zoe/llama-3#secret", "llama-3"),
        ("/", "unnamed"),
    ],
)
def test_a_path_or_url_is_shown_by_its_last_part_alone(spec: str, shown: str) -> None:
    assert public_name(spec) == shown


def test_a_hub_token_is_never_shown() -> None:
    assert "AbCdEfGhIjKlMnOpQrStUv" not in public_name("model-hf_AbCdEfGhIjKlMnOpQrStUv hf_AbCdEfGhIjKlMnOpQrStUv")


def test_only_org_and_name_are_a_hub_id() -> None:
    assert [is_hub_id(name) for name in ("org/name", "name", "/name", "../name", "a/b/c")] == [True] + 4 * [False]


@pytest.mark.parametrize(
    ("claimed", "revision", "name", "commit", "matches"),
    [
        (None, None, "org/a", None, None),
        ("org/a", None, "org/a", None, True),
        ("Org/A", None, "org/a", None, True),
        ("org/b", None, "org/a", None, False),
        ("other/a", None, "org/a", None, False),
        ("org/a", None, "a", None, True),
        ("/home/zoe/a", None, "org/a", None, True),
        ("/home/zoe/b", None, "org/a", None, None),
        ("org/b", None, "my-copy", None, None),
        ("org/a", COMMIT, "org/a", COMMIT, True),
        ("org/a", COMMIT, "org/a", "f" * 40, False),
        ("org/a", "main", "org/a", COMMIT, None),
    ],
)
def test_a_claimed_base_is_right_wrong_or_unknown(
    claimed: str | None, revision: str | None, name: str, commit: str | None, matches: bool | None
) -> None:
    base = BaseInfo(name, None, commit, None, "", ())
    adapter = AdapterInfo("a", None, None, 1.0, "LoRA", (), (), None, claimed, revision, "", (), 0)
    assert claim_matches(base, adapter) is matches
