from __future__ import annotations

import pytest

from ingot.errors import OutputError
from ingot.registry.push.hub_errors import as_ours, translated, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("PUT https://s3.example.com/a/b?X-Amz-Signature=12 failed", "PUT https://s3.example.com/a/b failed"),
        ("at 'http://user:word@mirror:8080/x#y'", "at 'http://mirror:8080/x'"),
        ("two\nlines with hf_abcdefghijklmnopqrst.", "two lines with hf_…."),
        ("hf_xet and hf_hub are no tokens", "hf_xet and hf_hub are no tokens"),
    ],
)
def test_secrets_are_cut_from_what_is_shown(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_an_error_of_ours_inside_theirs_comes_out_as_it_was() -> None:
    own, theirs = OutputError("no"), RuntimeError("Error while uploading")
    theirs.__cause__ = own
    with pytest.raises(OutputError) as caught, translated("hf://acme/support"):
        raise theirs
    assert caught.value is own


def test_bugs_are_not_taken_for_the_hubs_errors() -> None:
    with pytest.raises(TypeError), translated("hf://acme/support"):
        raise TypeError("a bug")


def test_what_nobody_knows_is_told_without_secrets() -> None:
    error = as_ours(RuntimeError("odd https://x.example/y?signature=1"), "hf://acme/support")
    assert error.exit_code == 14
    assert "odd https://x.example/y - at" in error.message
