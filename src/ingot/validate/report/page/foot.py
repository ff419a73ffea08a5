"""What could not be measured and why, and where every figure comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator

from ingot.validate.report.page.markup import Child, Html, join, name_of, table, tag
from ingot.validate.result import Evaluation, Subject

_MODEL_HEAD = ("Model", "Role", "Kind", "Dtype", "Digest")


def left_out(evaluation: Evaluation, names: list[str]) -> Html | None:
    """A list for each candidate."""
    lists = [
        tag("div", tag("h3", name), tag("ul", *(tag("li", text) for text in candidate.left_out)))
        for name, candidate in zip(names, evaluation.candidates, strict=True)
        if candidate.left_out
    ]
    return join((tag("h2", "Not measured", id="left-out"), *lists)) if lists else None


def tokens(evaluation: Evaluation, names: list[str]) -> Html | None:
    """Where candidate and reference do not read the samples alike."""
    rows = [
        (name, f"{one.tokens.same:,} of {one.tokens.samples:,}", one.tokens.first_difference or "–")
        for name, one in zip(names, evaluation.candidates, strict=True)
        if one.tokens is not None and (one.tokens.same != one.tokens.samples or one.tokens.first_difference)
    ]
    if not rows:
        return None
    caption = "Candidates whose tokenizer or chat template reads samples in another way"
    whole = table(caption, ("Candidate", "Same tokens", "First difference"), rows, numbers=frozenset({1}))
    return join((tag("h2", "Tokens", id="tokens"), whole))


def provenance(evaluation: Evaluation) -> Html:
    """Digests of models and samples, settings, and ingot's version."""
    models = [_subject("reference", evaluation.reference)]
    models += [_subject("candidate", candidate.subject) for candidate in evaluation.candidates]
    files = [
        (samples.name, f"{samples.count:,}", samples.metric, _digest(samples.digest)) for samples in evaluation.samples
    ]
    return tag(
        "footer",
        tag("h2", "Provenance", id="provenance"),
        table("Models; a digest is sha256 over the files' digests", _MODEL_HEAD, models),
        table("Samples; a digest is the file's sha256", ("Samples", "Count", "Metric", "Digest"), files,
              numbers=frozenset({1})) if files else None,
        _settings(evaluation),
        tag("p", f"Made by ingot {evaluation.ingot}. This page is one file: it loads nothing and runs no script."),
    )  # fmt: skip


def _subject(role: str, subject: Subject) -> tuple[Child, ...]:
    return (name_of(subject.name), role, subject.kind, subject.dtype or "–", _digest(subject.digest))


def _digest(digest: str | None) -> Html:
    return tag("code", digest, class_="digest") if digest else tag("span", "none", class_="muted")


def _settings(evaluation: Evaluation) -> Html | None:
    if not evaluation.settings:
        return None
    return join((tag("h3", "Settings"), tag("dl", *_pairs(evaluation.settings), class_="settings")))


def _pairs(settings: dict[str, object]) -> Iterator[Html]:
    for name, value in settings.items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        yield tag("div", tag("dt", name), tag("dd", shown))
