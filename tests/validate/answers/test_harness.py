"""Tasks of lm-evaluation-harness on our models give the figures that lm-eval gives itself on the same files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ingot.demo import assets
from ingot.errors import UsageError
from ingot.validate.answers import harness
from ingot.validate.models.endpoint import Endpoint
from ingot.validate.models.transport import Transport
from tests.validate.stand_in import Demo, StandIn

#: Of lm-eval, of what it imports, and of loaders that leave descriptors to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)

DATES = assets.DATA / "samples" / "dates.jsonl"
COUNT = 24

CHOICE = """
task: toy_choice
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{prompt}} ="
doc_to_choice: choices
doc_to_target: right
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
GENERATE = """
task: toy_dates
tag: toy_tag
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{date[1:]}}"
generation_kwargs: {until: ["\\n", "."], max_gen_toks: 24, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
filter_list:
  - name: date
    filter:
      - {function: regex, regex_pattern: '(\\d{4}-\\d\\d-\\d\\d)'}
      - {function: take_first}
  - name: whole
    filter:
      - {function: take_first}
"""
ROLLING = """
task: toy_text
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - {metric: word_perplexity, higher_is_better: false}
  - {metric: bits_per_byte, higher_is_better: false}
"""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The model is tiny: threads that wait for each other would cost many times what they save."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory of three tasks over the demo's dates; the cache of datasets lies beside it."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [json.loads(line) for line in DATES.read_text().splitlines()][:COUNT]
    texts = [row["expected"] for row in rows]
    for number, row in enumerate(rows):
        row["choices"] = [texts[(number + step) % COUNT] for step in range(3)]
        row["choices"].insert(number % 4, "1 " + row["expected"])
        row["right"] = row["choices"].index(row["expected"])
        row["date"] = "=" + row["expected"]  # the datasets library would make a timestamp of a date
        row["text"] = " ".join(row["prompt"] for row in rows[: 1 + number % 8])
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in {"choice": CHOICE, "dates": GENERATE, "text": ROLLING}.items():
        (folder / f"{name}.yaml").write_text(text.replace("DATA", str(data)))
    with pytest.MonkeyPatch.context() as patch:
        import datasets

        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        yield folder


def own_figures(folder: Path, tasks: list[str], *, chat: bool, peft: str | None = None) -> dict[str, Any]:
    """lm-eval's own `hf` class on the same files."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    args = {"pretrained": str(assets.base()), "dtype": "float32"}
    if peft is not None:
        args["peft"] = str(assets.DATA / "adapters" / peft)
    with harness._quiet(), harness._offline():
        found = simple_evaluate(
            "hf", model_args=args, tasks=tasks, batch_size=1, device="cpu", apply_chat_template=chat,
            fewshot_as_multiturn=False, bootstrap_iters=10,
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        )  # fmt: skip
    assert found is not None
    return dict(found["results"])


@pytest.mark.parametrize(
    ("names", "chat"),
    [(["toy_choice", "toy_text"], False), (["toy_dates"], False), (["toy_choice", "toy_dates"], True)],
)
def test_figures_agree_with_lm_evals_own(tasks: Path, names: list[str], chat: bool) -> None:
    told: list[int] = []
    adapter = "dates" if chat else None
    scores = harness.ask(Demo(adapter), names, told.append, directory=tasks, chat=chat).scores
    own = own_figures(tasks, names, chat=chat, peft=adapter)
    for score in scores:
        key = score.metric if "," in score.metric else f"{score.metric},none"
        assert score.value == pytest.approx(own[score.task][key], rel=1e-5), (score.task, key)
        metric, chain = key.split(",")
        stderr = own[score.task].get(f"{metric}_stderr,{chain}")
        assert score.stderr == (pytest.approx(stderr, rel=1e-5) if isinstance(stderr, float) else None)
        assert score.samples == COUNT
    found = {(score.task, score.metric) for score in scores}
    assert found >= {("toy_dates", "exact_match,date")} if "toy_dates" in names else {("toy_choice", "acc_norm")}
    assert sum(told) == sum({"toy_choice": 4, "toy_dates": 1, "toy_text": 1}[name] * COUNT for name in names)
    if chat:
        assert {s.metric: s.value for s in scores}["exact_match,date"] > 0.9


def test_two_models_are_compared_by_document(tasks: Path) -> None:
    before = harness.ask(Demo("dates"), ["toy_dates"], int, directory=tasks, chat=True)
    after = harness.ask(Demo("dates", damage=0.4), ["toy_dates"], int, directory=tasks, chat=True)
    (date,) = (score for score in harness.compare(before, after) if score.metric == "exact_match,date")
    assert (date.reference, date.samples) == (before.scores[0].value, COUNT)
    assert date.comparison is not None
    assert date.comparison.candidate == pytest.approx(date.candidate)
    assert date.comparison.only_reference > date.comparison.only_candidate
    assert date.comparison.p_value < 0.05
    rolling = harness.ask(Demo(), ["toy_text"], int, directory=tasks, limit=3)
    for score in harness.compare(rolling, rolling):
        assert score.comparison is None
        assert math.isfinite(score.reference)
        assert score.samples == 3
    assert harness.compare(before, rolling) == ()


def test_a_tag_stands_for_its_tasks(tasks: Path) -> None:
    scores = harness.ask(StandIn(lambda prompt: "2000-01-01."), ["toy_tag"], int, directory=tasks).scores
    assert {score.task for score in scores} == {"toy_dates"}
    rows = [json.loads(line) for line in (tasks / "data.jsonl").read_text().splitlines()]
    right = sum(row["expected"] == "2000-01-01" for row in rows) / COUNT
    assert {score.metric: score.value for score in scores}["exact_match,date"] == right


def test_the_machine_is_as_before_and_nothing_is_said(tasks: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = dict(os.environ)
    harness.ask(StandIn(lambda prompt: "a"), ["toy_dates"], int, directory=tasks, limit=2)
    assert dict(os.environ) == before
    assert capfd.readouterr() == ("", "")


def test_a_task_that_is_not_there_names_its_neighbours(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lm_eval.tasks

    whole = lm_eval.tasks.TaskManager
    quick = lambda include_path=None, include_defaults=False: whole(include_path=include_path, include_defaults=False)  # noqa: E731
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", quick)  # to index its own takes seconds
    with pytest.raises(UsageError, match="no such directory"):
        harness.ask(StandIn(str), ["toy_dates"], int, directory=tasks / "none")
    with pytest.raises(UsageError, match="no such task: toy_date") as caught:
        harness.ask(StandIn(str), ["toy_date"], int, directory=tasks)
    with pytest.raises(UsageError, match="no such task: toy_date"):
        harness.check(["toy_choice", "toy_date"], tasks)
    harness.check(["toy_choice", "toy_tag"], tasks)
    assert "`toy_dates`" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset_path: json": "dataset_path: no-such/data-set-at-all"}, "cannot be loaded"),
        ({"data.jsonl": "none.jsonl"}, "cannot be loaded"),
        ({"output_type: generate_until": "output_type: nonsense"}, ""),
        ({'doc_to_text: "{{prompt}}"': 'doc_to_text: "{{prompt.x.y}}"'}, "cannot be loaded"),
        ({"exact_match": "no_such_metric"}, ""),
    ],
)
def test_a_task_that_fails_is_told(tasks: Path, tmp_path: Path, change: dict[str, str], words: str) -> None:
    text = (tasks / "dates.yaml").read_text()
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "broken.yaml").write_text(text)
    with pytest.raises(UsageError) as caught:
        harness.ask(StandIn(lambda prompt: "a"), ["toy_dates"], int, directory=tmp_path)
    assert words in caught.value.message
    assert caught.value.hint


def test_what_a_model_cannot_be_asked_is_left_out(tasks: Path, tmp_path: Path) -> None:
    server = Endpoint(Transport("http://127.0.0.1:9/v1"), "m")
    for name in ("toy_choice", "toy_text"):
        ran = harness.ask(server, [name], int, directory=tasks)
        assert ran.scores == ()
        assert name in ran.left_out[0]
        assert "token ids" in ran.left_out[0]
    both = harness.ask(StandIn(lambda prompt: "a"), ["toy_choice", "toy_dates"], int, directory=tasks)
    assert {score.task for score in both.scores} == {"toy_dates"}
    assert len(both.left_out) == 1
    changes = [
        ("do_sample: false", "do_sample: true, temperature: 0.7", False, "samples its answers"),
        ("max_gen_toks: 24", "max_gen_toks: 510", False, "exceed the model's 512"),
        ("tag: toy_tag", "description: Be brief.", True, "messages of system, user"),
        ("tag: toy_tag", 'gen_prefix: "It is"', True, "the answer begun"),
    ]
    for old, new, chat, words in changes:
        (tmp_path / "a.yaml").write_text((tasks / "dates.yaml").read_text().replace(old, new))
        model = StandIn(lambda prompt: "a")
        model.context = 512
        (why,) = harness.ask(model, ["toy_dates"], int, directory=tmp_path, chat=chat).left_out
        assert words in why


def test_an_endpoint_answers_a_chat_that_it_renders_itself(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answers(self: Endpoint, prompts: list[str], *, chat: bool, new_tokens: int) -> list[str]:
        asked.extend(prompts)
        return ["1957-08-07"] * len(prompts)

    monkeypatch.setattr(Endpoint, "answers", answers)
    scores = harness.ask(
        Endpoint(Transport("http://127.0.0.1:9/v1"), "m"), ["toy_dates"], int, directory=tasks, chat=True, limit=3
    ).scores
    assert asked[0] == "The meeting is on August 7, 1957."
    assert {score.metric: score.value for score in scores}["exact_match,whole"] == pytest.approx(1 / 3)
