"""The page as a document: well-formed, closed in itself, escaped, bounded, and whole where parts are missing."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from ingot.validate.report.page import render
from ingot.validate.report.page.answers import MOST_SHOWN
from ingot.validate.result import Evaluation, Logits
from tests.validate import example
from tests.validate.report.page import hostile

VOID = {"meta", "input", "wbr"}
EVALUATIONS = {
    "failing": example.evaluation(4),
    "passing": example.evaluation(4, failing=False),
    "one": example.evaluation(1, failing=False),
    "endpoint": example.bare(),
    "empty": example.empty(),
    "hostile": hostile.evaluation(),
}
PAGES = {name: render(evaluation) for name, evaluation in EVALUATIONS.items()}
every_page = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())


class Document(HTMLParser):
    """Elements with their attributes, and the text of each; asserts that every element is closed in its turn."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), "an attribute comes twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open[-1] if self._open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self) -> str:
        return "".join(data for tag, data in self.texts if tag != "style")


@every_page
def test_elements_are_closed_in_their_turn_and_ids_are_unique_and_known(page: str) -> None:
    document = Document(page)
    ids = [attributes["id"] for _, attributes in document.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = [attributes["href"] for _, attributes in document.elements if "href" in attributes]
    wanted += [f"#{attributes['aria-labelledby']}" for attributes in document.all("section")]
    assert wanted
    assert {name for name in wanted if name is not None} <= {f"#{name}" for name in ids}


@every_page
def test_nothing_outside_the_page_is_referred_to_and_nothing_runs(page: str) -> None:
    document = Document(page)
    names = {tag for tag, _ in document.elements}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "image", "foreignobject"}
    for _, attributes in document.elements:
        assert not attributes.keys() & {"src", "srcset", "style", "action", "xlink:href"}
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("href") or "#").startswith("#")
    [style] = [data for tag, data in document.texts if tag == "style"]
    assert "url(" not in style
    assert "@import" not in style


@every_page
def test_the_policy_allows_the_pages_own_style_and_nothing_else(page: str) -> None:
    document = Document(page)
    [policy] = [meta["content"] for meta in document.all("meta") if meta.get("http-equiv")]
    [style] = [data for tag, data in document.texts if tag == "style"]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    # A policy holds for what stands after it.
    assert page.index("Content-Security-Policy") < page.index("<style>")


@every_page
def test_what_has_no_shape_or_turns_the_writing_is_not_in_the_page(page: str) -> None:
    page.encode("utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]", page)


def test_planted_markup_is_text_that_is_read_as_it_was_written() -> None:
    text = Document(PAGES["hostile"]).text()
    for planted in hostile.PLANTED[:5]:
        assert planted in text
    assert "bell⟨U+0007⟩ nul⟨U+0000⟩ escape⟨U+001B⟩[31m next-line⟨U+0085⟩ ⟨U+D800⟩ lone surrogate" in text
    assert "⟨U+202E⟩right to left⟨U+202C⟩" in text


def test_the_page_is_bounded_however_much_differs_and_says_so() -> None:
    started = time.perf_counter()
    page = render(EVALUATIONS["hostile"])
    assert time.perf_counter() - started < 10
    assert len(page.encode()) < 3_000_000
    document = Document(page)
    assert sum(attributes.get("class") == "sample" for attributes in document.all("article")) == MOST_SHOWN
    assert f"{MOST_SHOWN} of 720 are on this page" in document.text()


def test_the_worst_sample_is_named_by_its_file_though_some_were_not_compared() -> None:
    one = example.evaluation(1)
    logits = one.candidates[0].logits
    assert logits is not None
    few = replace(logits, sample_kl=(1e-4, 3e-3, 2e-4), samples=(7, 121, 190))
    page = render(replace(one, candidates=(replace(one.candidates[0], logits=few),)))
    assert "Worst sample ▼: sample 1 of dates, 0.00300." in page


def test_many_experts_are_drawn_as_one_mark_a_kind_and_layer() -> None:
    one = example.evaluation(1)
    weights = one.candidates[0].weights
    assert weights is not None
    experts = tuple(
        replace(module, module=f"model.layers.{module.layer}.experts.{expert}.{module.module.rpartition('.')[2]}")
        for module in weights.modules
        for expert in range(64)
    )
    candidate = replace(one.candidates[0], weights=replace(weights, modules=experts))
    page = render(replace(one, candidates=(candidate,)))
    assert "12,544 tensors changed" in page
    assert len(page) < 200_000


def test_the_verdict_comes_first_and_names_what_failed() -> None:
    text = Document(PAGES["failing"]).text()
    assert text.index("Failed") < text.index("1 of 4 candidates is outside its limits: merged-8b-int4")
    assert text.index("1 of 4 candidates") < text.index("At a glance") < text.index("Provenance")
    failed = [gate.said for gate in EVALUATIONS["failing"].candidates[3].gates if not gate.ok]
    assert len(failed) == 6
    for said in failed:
        assert said.replace(" %", "\u00a0%") in text


def test_a_passing_page_has_no_failure_in_it() -> None:
    document = Document(PAGES["one"])
    assert "What failed" not in document.text()
    assert "merged-8b is within all 6 limits when held against the reference on 200 samples." in document.text()
    assert not [attributes for _, attributes in document.elements if attributes.get("class") == "fail"]


def test_parts_that_were_not_measured_are_left_out_and_the_reason_is_told() -> None:
    text = Document(PAGES["endpoint"]).text()
    for absent in ("Survival", "Mean KL", "Along the depth", "What failed", "lm-evaluation-harness"):
        assert absent not in text
    assert "Weights: an endpoint has none to read." in text
    assert "Scores" in text
    empty = Document(PAGES["empty"])
    assert [section["aria-labelledby"] for section in empty.all("section")] == []
    assert "Not judged" in empty.text()


def test_every_table_has_a_caption_and_heads_and_every_plot_a_name() -> None:
    document = Document(PAGES["failing"])
    tables = len(document.all("table"))
    assert tables == len(document.all("caption")) > 5
    assert all(head.get("scope") in ("col", "row", "rowgroup") for head in document.all("th"))
    pictures = document.all("svg")
    assert all(
        svg.get("aria-label") or svg.get("aria-hidden") or svg.get("viewbox") == "0 0 100 100" for svg in pictures
    )
    # 3 survival plots, 4 histograms, the depth, 4 candidates' intervals on 2 tasks
    assert sum(svg.get("role") == "img" for svg in pictures) == 3 + 4 + 1 + 8
    for landmark in ("header", "nav", "main", "footer", "h1"):
        assert len(document.all(landmark)) == 1


def test_every_candidate_has_its_column_and_figures_stand_in_it() -> None:
    text = re.sub(r"<[^>]*>", "|", PAGES["failing"])
    row = next(part for part in text.split("Largest |Δlogit|")[0].split("Perplexity")[1:])
    assert [figure for figure in row.split("|") if re.fullmatch(r"\d\.\d+", figure)] == ["7.41"] * 3 + ["7.43", "7.73"]


def test_provenance_has_digests_settings_and_version() -> None:
    text = Document(PAGES["failing"]).text()
    evaluation = EVALUATIONS["failing"]
    digests = [candidate.subject.digest for candidate in evaluation.candidates]
    for digest in (evaluation.reference.digest, *digests, *(samples.digest for samples in evaluation.samples)):
        assert digest is not None
        assert digest in text
    assert "bootstrap resamples" in text
    assert "Made by ingot 0.1.0." in text


def test_the_same_evaluation_gives_the_same_page() -> None:
    assert render(example.evaluation(4)) == PAGES["failing"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 0.0, 5e-324, 1e300])
def test_figures_that_are_not_finite_or_out_of_range_do_not_stop_the_page(value: float) -> None:
    page = render(_with(value))
    assert "nan%" not in page.lower()
    assert "inf%" not in page.lower()
    Document(page)


def _with(value: float) -> Evaluation:
    whole = example.evaluation(1)
    one = whole.candidates[0]
    assert one.weights is not None
    found = Logits(1, value, value, 0, value, value, value, value, 999, (value, 0.0, 1e-4))
    modules = tuple(
        replace(module, survival=value, delta_ulps=value, subspace_error=value, equal=value, said="off")
        for module in one.weights.modules
    )
    tasks = tuple(
        replace(task, comparison=replace(task.comparison, interval=(value, value), candidate=value, p_value=value))
        for task in one.tasks
    )
    broken = replace(
        one,
        logits=found,
        weights=replace(one.weights, modules=modules, survival=value, equal=value),
        depth=tuple(replace(step, distance=value) for step in one.depth),
        tasks=tasks,
        harness=tuple(replace(score, candidate=value, candidate_stderr=value) for score in one.harness),
    )
    return replace(whole, candidates=(broken,))
