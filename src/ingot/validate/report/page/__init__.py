"""One self-contained HTML page of an evaluation, for a person to read: no network, no script.

head         the verdict, what failed, all candidates in one table
scores       tasks: differences with their intervals
weights      survival of the adapter by layer, modules that were named
logits       KL divergence by sample, distance along the depth
answers      answers that differ, side by side
differences  two texts, and what differs between them
foot         tokens, what was not measured, provenance
axes         plots as SVG
markup       HTML that escapes what it shows
page.css     how it looks: light and dark, narrow and wide, printed
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from ingot.validate.report.page import answers, foot, head, logits, scores, weights
from ingot.validate.report.page.axes import definitions
from ingot.validate.report.page.markup import Html, tag
from ingot.validate.report.words import labels, verdict
from ingot.validate.result import Evaluation


def render(evaluation: Evaluation) -> str:
    """The page, as text for a UTF-8 file. The same evaluation gives the same page.

    It is bounded whatever the evaluation holds: at most `answers.MOST_SHOWN` differing answers, long texts cut to the
    piece that differs, the modules farthest from whole. Its content security policy allows nothing but its own style.
    """
    names = labels(evaluation.candidates)
    sections = {
        "failed": ("What failed", head.failures(evaluation, names)),
        "comparison": ("At a glance", head.comparison(evaluation, names)),
        "tokens": ("Tokens", foot.tokens(evaluation, names)),
        "scores": ("Scores", scores.scores(evaluation, names)),
        "weights": ("Weights", weights.weights(evaluation, names)),
        "logits": ("Predictions", logits.logits(evaluation, names)),
        "depth": ("Along the depth", logits.depth(evaluation, names)),
        "answers": ("Answers that differ", answers.answers(evaluation, names)),
        "left-out": ("Not measured", foot.left_out(evaluation, names)),
    }
    shown = {key: (title, part) for key, (title, part) in sections.items() if part is not None}
    links = [*((key, title) for key, (title, _) in shown.items()), ("provenance", "Provenance")]
    body = tag(
        "body",
        definitions(),
        tag("a", "Skip to the report", href="#report", class_="skip"),
        head.header(evaluation),
        head.contents(links),
        tag("main", *(tag("section", part, aria_labelledby=key) for key, (_, part) in shown.items()), id="report"),
        foot.provenance(evaluation),
    )
    return f"<!DOCTYPE html>\n{tag('html', _head(evaluation, names), body, lang='en')}\n"


def _head(evaluation: Evaluation, names: list[str]) -> Html:
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    style += answers.filter_rules(len(answers.task_names(evaluation)), len(names))
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    title = f"{verdict(evaluation).word.capitalize()}: {', '.join(names)} against the reference"
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("meta", name="generator", content=f"ingot {evaluation.ingot}"),
        tag("title", title),
        tag("style", Html(style)),
    )
