from __future__ import annotations

import io

import pytest

from mpo_core.repro.progress import Progress, StepProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run_through(progress: Progress) -> None:
    with progress:
        progress.begin("sweep", 0)
        progress.begin("final", 3, done=1)
        progress.steps({"final-a-seed1": (3, 10)})
        progress.trial_done("final-a-seed1", "completed")
        progress.steps({"final-a-seed2": (10, 10)})
        progress.trial_done("final-a-seed2", "diverged")


def test_plain_lines_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    run_through(Progress("run", stream=stream, interval=0.0))
    assert stream.getvalue().splitlines() == [
        "run final: 3 trials (1 done earlier)",
        "run final: 1 of 3 trials; final-a-seed1 at step 3 of 10",
        "run final: 2 of 3 trials: final-a-seed1 completed, about 0 s left",
        "run final: 2 of 3 trials; final-a-seed2 at step 10 of 10, about 0 s left",
        "run final: 3 of 3 trials: final-a-seed2 diverged",
    ]


def test_lines_about_steps_are_rate_limited() -> None:
    stream = io.StringIO()
    progress = Progress("run", stream=stream, interval=60.0)
    with progress:
        progress.begin("final", 1)
        for step in range(100):
            progress.steps({"trial": (step, 100)})
    assert stream.getvalue().splitlines() == ["run final: 1 trials"]


def test_bars_on_a_terminal() -> None:
    stream = Terminal()
    progress = Progress("run", stream=stream)
    assert progress.mode == "bars"
    run_through(progress)
    text = stream.getvalue()
    assert "final-a-seed2 diverged" in text
    assert "3/3" in text


def test_none_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    run_through(Progress("run", mode="none"))
    assert capsys.readouterr() == ("", "")


def test_stdout_stays_clean(capsys: pytest.CaptureFixture[str]) -> None:
    run_through(Progress("run", mode="lines"))
    out, err = capsys.readouterr()
    assert out == ""
    assert "final-a-seed2 diverged" in err


def test_steps_of_a_job_in_plain_lines() -> None:
    stream = io.StringIO()
    with StepProgress("train", stream=stream, interval=60.0) as progress:
        for step in range(1, 6):
            progress(step, 5, "size 90 %" if step >= 3 else "")
    assert stream.getvalue().splitlines() == [
        "train: step 1 of 5",
        "train: step 3 of 5; size 90 %",
        "train: step 5 of 5; size 90 %",
    ]


def test_steps_of_a_job_as_a_bar() -> None:
    stream = Terminal()
    with StepProgress("train", stream=stream) as progress:
        for step in range(1, 6):
            progress(step, 5)
    assert "train" in stream.getvalue()
    assert "5/5" in stream.getvalue()
