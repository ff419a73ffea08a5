"""An evaluation whose every text is out to break the page."""

from __future__ import annotations

from dataclasses import replace

from ingot.validate.result import Answer, Evaluation, SampleSet, Subject, Tokens
from tests.validate import example

#: Each would take effect if it were markup, leave its element, or turn the page around.
PLANTED = (
    "<script>document.title = 'planted'</script>",
    "<img src=x onerror=\"document.title = 'planted'\">",
    "</textarea></style></title></svg><script src=https://example.invalid/x.js></script>",
    "\" onmouseover=\"document.title = 'planted'\" x='",
    "&lt;b&gt; &amp; &#60;i&#62;",
    "bell\x07 nul\x00 escape\x1b[31m next-line\x85 \ud800 lone surrogate",
    "\u202eright to left\u202c \u2066isolated\u2069 zero\u200bwidth \ufeff mark",
    "x" * 5000,
    "\u0301" * 400 + " marks on marks",
    "".join(f"word{number} " for number in range(12_000)),
)


def evaluation() -> Evaluation:
    whole = example.evaluation(4)
    return Evaluation(
        reference=_subject(whole.reference, 0),
        candidates=tuple(
            replace(
                one,
                subject=_subject(one.subject, number),
                tokens=Tokens(200, 199, PLANTED[number]),
                weights=one.weights
                and replace(
                    one.weights,
                    dtype=PLANTED[0],
                    modules=tuple(
                        replace(module, said=PLANTED[number], module=f"{PLANTED[1]}.{module.module}")
                        for module in one.weights.modules
                    ),
                    missing=PLANTED[:6],
                ),
                tasks=tuple(replace(task, samples=_set(task.samples), differing=_answers()) for task in one.tasks),
                harness=tuple(replace(score, task=PLANTED[0], metric=PLANTED[3]) for score in one.harness),
                gates=tuple(
                    replace(gate, name=f"{gate.name} {PLANTED[0]}", limit=PLANTED[1], found=PLANTED[3], said=PLANTED[5])
                    for gate in one.gates
                ),
                left_out=PLANTED[:8],
            )
            for number, one in enumerate(whole.candidates)
        ),
        samples=tuple(_set(samples) for samples in whole.samples),
        settings={PLANTED[0]: PLANTED[1], "list": [PLANTED[0]]},
        ingot=PLANTED[1],
    )


def _subject(subject: Subject, number: int) -> Subject:
    return replace(subject, name=PLANTED[number], kind=PLANTED[0], digest=PLANTED[3], dtype=PLANTED[1])


def _set(samples: SampleSet) -> SampleSet:
    return replace(samples, name=f"{samples.name} {PLANTED[0]}", metric=PLANTED[1])


def _answers() -> tuple[Answer, ...]:
    long = PLANTED[-1]
    return tuple(
        Answer(number, text, text, text, other, bool(number % 2), bool(number % 3))
        for number, (text, other) in enumerate(
            [(text, f"{text} no") for text in PLANTED]
            + [(PLANTED[0], PLANTED[1]), ("", "<b>"), ("a b " * 25_000, "b a " * 25_000), (long, long[:60_000] + "!")]
            * 20
        )
    )
