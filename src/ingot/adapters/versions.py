"""What changed between PEFT releases in the meaning of the same tensors: the only place that compares versions.

Sources: PEFT's release tags v0.15.0 .. v0.20.0 and the installed 0.21.2, `tuners/lora/layer.py`; its packages of
0.16.0, 0.17.1 and 0.18.0, `tuners/oft/layer.py`.
"""

from __future__ import annotations

import re
from enum import StrEnum

#: (major, minor, patch) of a release.
Release = tuple[int, int, int]

_RELEASE = re.compile(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?(?P<rest>.*)", re.DOTALL)

#: Newest release whose source was read for the tables below.
NEWEST_KNOWN: Release = (0, 21, 2)
#: First release that adds an attention's output projection once; None: no known release does.
MULTIHEAD_ONCE_SINCE: Release | None = None


def release_of(version: str | None) -> Release | None:
    """The release that a `peft_version` names; None where it names none or a build between two releases.

    Example: release_of("0.18.1") -> (0, 18, 1); release_of("0.18.2.dev0@UNKNOWN") -> None
    """
    match = _RELEASE.fullmatch(version or "")
    if match is None or (match["rest"] and not match["rest"].startswith(("+", ".post"))):
        return None
    return int(match[1]), int(match[2]), int(match[3] or 0)


class ExpertLayout(StrEnum):
    """Which axis of an expert stack W[E, d1, d2] is a LoRA layer's input."""

    OUT_IN = "out_in"  # A[E * r, d2] and B[d1, r * E]: W[e] + s * B_e @ A_e
    IN_OUT = "in_out"  # A[E * r, d1] and B[d2, r * E]: W[e] + s * (B_e @ A_e).T


def expert_layout(release: Release | None, *, transposed: bool) -> ExpertLayout | None:
    """The layout that a release saves for an expert stack; None where the release is not known.

    Up to 0.18 every stack was taken as [E, in, out]. 0.19.0 took those marked `is_transposed` the other way round, and
    0.19.1 corrected that to those not so marked.
    """
    if release is None:
        return None
    if release < (0, 19, 0):
        return ExpertLayout.IN_OUT
    as_out_in = transposed if release == (0, 19, 0) else not transposed
    return ExpertLayout.OUT_IN if as_out_in else ExpertLayout.IN_OUT


def last_cayley_term(version: str | None) -> float | None:
    """By what OFT multiplies the last term of its Cayley-Neumann series; None where a `peft_version` does not tell.

    By 2 up to 0.17, by 1 since 0.18.0. Builds on the way from the one to the other may do either.
    """
    match = _RELEASE.fullmatch(version or "")
    if match is None:
        return None
    release = (int(match[1]), int(match[2]), int(match[3] or 0))
    if release_of(version) is None and (0, 17, 0) <= release <= (0, 18, 0):
        return None
    return 2.0 if release < (0, 18, 0) else 1.0


def out_projection_times(release: Release | None) -> int | None:
    """How often PEFT adds the update of `MultiheadAttention.out_proj`, when it merges and in every forward pass.

    Twice since the layer exists (0.15): once by the attention itself and once by the LoRA layer inside it. So that is
    the model which was trained. None: a release newer than the newest one whose source was read.
    """
    if MULTIHEAD_ONCE_SINCE is not None and release is not None and release >= MULTIHEAD_ONCE_SINCE:
        return 1
    return None if release is not None and release > NEWEST_KNOWN else 2
