"""Progress: how often it says something, and to whom."""

from __future__ import annotations

import io
import json
import threading

import pytest

from ingot.cli.output import Mode, Output
from ingot.cli.progress import Progress


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run(mode: Mode, seconds: int, total: int = 100) -> tuple[list[str], list[str]]:
    """Lines of stdout and stderr of a job that does one part in a hundred each second."""
    out, err, clock = io.StringIO(), io.StringIO(), Clock()
    with Progress(Output(mode, stdout=out, stderr=err), total * 10**7, "merging", clock=clock) as progress:
        for _ in range(seconds):
            clock.now += 1.0
            progress(10**7)
    return out.getvalue().splitlines(), err.getvalue().splitlines()


def test_without_a_terminal_a_plain_line_comes_every_ten_seconds() -> None:
    out, err = run("human", 35)
    assert out == []
    assert err == [
        "merging: 100 MB of 1.00 GB, 10.0 MB/s, 1 min 30 s left",
        "merging: 200 MB of 1.00 GB, 10.0 MB/s, 1 min 20 s left",
        "merging: 300 MB of 1.00 GB, 10.0 MB/s, 1 min 10 s left",
    ]


def test_a_short_job_says_nothing() -> None:
    assert run("human", 9) == ([], [])


def test_quiet_says_nothing() -> None:
    assert run("quiet", 60) == ([], [])


def test_json_has_an_event_a_second_at_most_and_one_at_the_end() -> None:
    out, err, clock = io.StringIO(), io.StringIO(), Clock()
    with Progress(Output("json", stdout=out, stderr=err), 400, "merging", clock=clock) as progress:
        for _ in range(400):
            clock.now += 0.01
            progress(1)
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert len(events) in (4, 5)
    assert events[-1] == {
        "type": "progress", "what": "merging", "unit": "bytes", "total": 400, "done": 400,
        "seconds": pytest.approx(4.0),
    }  # fmt: skip
    assert [event["done"] for event in events] == sorted(event["done"] for event in events)
    assert err.getvalue() == ""


def test_many_threads_are_counted_together() -> None:
    out = io.StringIO()
    with Progress(Output("json", stdout=out, stderr=io.StringIO()), 4000, "merging") as progress:
        threads = [threading.Thread(target=lambda: [progress(1) for _ in range(1000)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert json.loads(out.getvalue().splitlines()[-1])["done"] == 4000


def test_other_units_are_told_by_name() -> None:
    err, clock = io.StringIO(), Clock()
    output = Output("human", stdout=io.StringIO(), stderr=err)
    with Progress(output, 100, "scoring", unit="samples", clock=clock) as progress:
        clock.now += 10.0
        progress(50)
    assert err.getvalue() == "scoring: 50 of 100 samples, 5 a second, 10 s left\n"


def test_a_job_that_fails_tells_no_end() -> None:
    out = io.StringIO()
    progress = Progress(Output("json", stdout=out, stderr=io.StringIO()), 10, "merging")
    progress(5)
    progress.__exit__(ValueError, ValueError("stop"), None)
    assert out.getvalue() == ""
