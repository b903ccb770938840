from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import pytest

from mpo_core.errors import InputFileError
from mpo_core.repro.claims import Claim, ClaimsFile
from mpo_core.repro.compare import compare, find_records, select_records
from mpo_core.repro.config import Scale
from mpo_core.repro.record import (
    Environment,
    Measurement,
    ParameterCount,
    RunRecord,
    TrialRecord,
    write_record,
)
from mpo_core.repro.summary import format_mean_sd, format_number, summarize

ENVIRONMENT = Environment(git_revision=None, packages={}, python="3.11", machine="x", cores=2, threads_per_worker=1)
BETTER = [0.80, 0.82, 0.81, 0.83, 0.82]
WORSE = [0.75, 0.78, 0.76, 0.77, 0.78]


def trial(arm: str, seed: int, value: float | None, total: int = 100, trained: int = 10, **changes: Any) -> TrialRecord:
    content: dict[str, Any] = {
        "arm": arm,
        "seed": seed,
        "learning_rate": 1e-3,
        "stage": "final",
        "status": "completed" if value is not None else "diverged",
        "seconds": 1.0,
        "peak_memory_bytes": 1,
        "parameters": ParameterCount(total=total, trained=trained),
        "metrics": {} if value is None else {"accuracy": Measurement(value=value, n=40, split="eval")},
    }
    return TrialRecord.model_validate(content | changes)


def record(
    arms: dict[str, list[float]],
    scale: Scale = "small",
    started: str = "2025-01-01T00:00:00+00:00",
    status: Literal["completed", "diverged"] = "completed",
    experiment: str = "tiny",
    **trial_changes: Any,
) -> RunRecord:
    trials = [trial(arm, seed, v, **trial_changes) for arm, values in arms.items() for seed, v in enumerate(values)]
    return RunRecord(
        paper="demo", experiment=experiment, scale=scale, started=started, seconds=1.0, status=status,
        config={"arms": {arm: {} for arm in arms}}, environment=ENVIRONMENT, trials=trials,
    )  # fmt: skip


def claims(test: str = "direction", /, **check: Any) -> ClaimsFile:
    claim = {"id": "c", "text": "t", "place": "T1", "test": test, "experiment": "tiny", "check": check}
    return ClaimsFile.model_validate({"paper": "demo", "title": "t", "citation": "c", "claims": [claim]})


GREATER: dict[str, Any] = {"kind": "greater", "arm": "a", "than": "b", "quantity": "accuracy"}
NOT_WORSE: dict[str, Any] = {
    "kind": "not-worse",
    "arm": "a",
    "than": "b",
    "quantity": "accuracy",
    "margin": 0.02,
}


def verdict_of(file: ClaimsFile, *records: RunRecord) -> str:
    return compare(file, records)[0].verdict


def test_a_direction_with_sign_and_significance_is_the_same_direction() -> None:
    (verdict,) = compare(claims(**GREATER), [record({"a": BETTER, "b": WORSE})])
    assert verdict.verdict == "same direction"
    assert verdict.p is not None
    assert verdict.p < 0.05
    assert verdict.paper_text == "a > b in accuracy"
    assert verdict.ours_text == "a 0.816 ± 0.011, b 0.768 ± 0.013 (5 seeds)"
    assert verdict.difference_text.startswith("+0.0480 (95 % CI +0.0376 to +0.0584), one-sided p < 0.001")
    assert (verdict.experiment, verdict.scale) == ("tiny", "small")


def test_the_other_sign_and_an_undecided_one_are_not_seen() -> None:
    (other,) = compare(claims(**GREATER), [record({"a": WORSE, "b": BETTER})])
    assert (other.verdict, other.note) == ("not seen", "the sign is the other one")
    assert other.difference_text.startswith("−0.0480")
    (undecided,) = compare(claims(**GREATER), [record({"a": [0.80, 0.70, 0.90], "b": [0.79, 0.75, 0.80]})])
    assert (undecided.verdict, undecided.note) == ("not seen", "the sign fits, the test does not")
    assert undecided.p is not None
    assert undecided.p > 0.05


def test_lower_is_better_turns_the_sign() -> None:
    lower = GREATER | {"lower_is_better": True}
    assert verdict_of(claims(**lower), record({"a": WORSE, "b": BETTER})) == "same direction"
    assert verdict_of(claims(**lower), record({"a": BETTER, "b": WORSE})) == "not seen"


def test_seeds_are_paired_and_one_pair_is_too_few() -> None:
    (verdict,) = compare(claims(**GREATER), [record({"a": BETTER, "b": [0.1]})])
    assert (verdict.verdict, verdict.note, verdict.p) == ("not seen", "too few seeds", None)
    assert verdict.ours_text == "a 0.816 ± 0.011 (5 seeds), b 0.1 (1 seed)"
    apart = record({"a": BETTER, "b": []})
    apart = apart.model_copy(update={"trials": [*apart.trials, trial("b", 77, 0.1), trial("b", 78, 0.1)]})
    (verdict,) = compare(claims(**GREATER), [apart])
    assert (verdict.verdict, verdict.note, verdict.difference_text) == (
        "not seen",
        "too few seeds",
        "no seed in common",
    )


def test_equal_differences_need_five_seeds() -> None:
    four = {"a": [0.5] * 4, "b": [0.4] * 4}
    five = {"a": [0.5] * 5, "b": [0.4] * 5}
    assert verdict_of(claims(**GREATER), record(four)) == "not seen"
    assert verdict_of(claims(**GREATER), record(five)) == "same direction"
    assert verdict_of(claims(**GREATER), record({"a": [0.5] * 5, "b": [0.5] * 5})) == "not seen"


def with_cases(better: float, seeds: int = 2) -> RunRecord:
    """Two arms judged on 50 cases a seed, the first better by so much in the mean, with large noise."""
    base, found = [0.01 * (k % 7) for k in range(50)], []
    for arm, gain in (("a", better), ("b", 0.0)):
        cases = [value + gain + (0.1 if k % 2 and arm == "a" else 0.0) for k, value in enumerate(base)]
        found += [trial(arm, seed, sum(cases) / 50, arrays={"each": cases}) for seed in range(seeds)]
    return record({"a": [], "b": []}).model_copy(update={"trials": found})


def test_a_claim_over_cases_is_decided_by_the_bootstrap() -> None:
    check = GREATER | {"cases": "each"}
    (verdict,) = compare(claims(**check), [with_cases(better=0.0, seeds=1)])
    assert verdict.verdict == "same direction", "one seed will do: the cases are many"
    assert "50 cases" in verdict.difference_text
    assert verdict_of(claims(**check), with_cases(better=-0.05)) == "not seen"
    assert verdict_of(claims(**check | {"lower_is_better": True}), with_cases(better=-0.1)) == "same direction"
    assert verdict_of(claims(**check | {"lower_is_better": True}), with_cases(better=0.0)) == "not seen"


def test_a_claim_over_cases_needs_them() -> None:
    (verdict,) = compare(claims(**GREATER, cases="each"), [record({"a": BETTER, "b": WORSE})])
    assert verdict.verdict == "not run"
    assert verdict.note == "the record has no each of a"
    torn = with_cases(better=0.1)
    torn.trials[0].arrays["each"].pop()
    (verdict,) = compare(claims(**GREATER, cases="each"), [torn])
    assert verdict.verdict == "not seen"
    with pytest.raises(ValueError, match="cannot name cases"):
        claims("exact", **GREATER, cases="each")


def test_not_worse_within_the_margin() -> None:
    slightly = [value - 0.005 + 0.001 * (i % 2) for i, value in enumerate(BETTER)]
    assert verdict_of(claims(**NOT_WORSE), record({"a": slightly, "b": BETTER})) == "same direction"
    assert verdict_of(claims(**NOT_WORSE), record({"a": WORSE, "b": BETTER})) == "not seen"
    assert verdict_of(claims(**NOT_WORSE | {"margin": 0.001}), record({"a": slightly, "b": BETTER})) == "not seen"
    lower = NOT_WORSE | {"lower_is_better": True}
    assert verdict_of(claims(**lower), record({"a": BETTER, "b": slightly})) == "same direction"
    assert verdict_of(claims(**lower), record({"a": BETTER, "b": WORSE})) == "not seen"


def test_a_smoke_run_never_decides_a_direction() -> None:
    for arms in ({"a": BETTER, "b": WORSE}, {"a": WORSE, "b": BETTER}):
        (verdict,) = compare(claims(**GREATER), [record(arms, scale="smoke")])
        assert verdict.verdict == "not run"
        assert verdict.p is None
        assert verdict.ours_text.endswith("(5 seeds); smoke only")
        assert "p " not in verdict.difference_text


def test_a_diverged_run_decides_nothing() -> None:
    (verdict,) = compare(claims(**GREATER), [record({"a": BETTER, "b": WORSE}, status="diverged")])
    assert (verdict.verdict, verdict.ours_text) == ("not run", "")
    assert "diverged" in verdict.note


@pytest.mark.parametrize(
    ("total", "verdict"),
    [
        (12_650_001, "reproduced"),
        (12_749_999, "reproduced"),
        (12_649_999, "not seen"),
        (12_750_001, "not seen"),
    ],
)
def test_a_value_must_agree_to_the_printed_place(total: int, verdict: str) -> None:
    check = {"kind": "value", "arm": "a", "quantity": "parameters.total", "paper": 12.7e6, "round": 1e5}
    (found,) = compare(claims("exact", **check), [record({"a": [0.5]}, scale="smoke", total=total)])
    assert found.verdict == verdict
    assert found.paper_text == "12,700,000"
    assert found.ours_text == f"{total:,} (1 seed)"


def test_a_value_within_a_tolerance() -> None:
    check = {"kind": "value", "arm": "a", "quantity": "parameters.trained", "paper": 100, "tolerance": 0.02}
    assert verdict_of(claims("exact", **check), record({"a": [0.5]}, trained=98)) == "reproduced"
    (off,) = compare(claims("exact", **check), [record({"a": [0.5]}, trained=97)])
    assert (off.verdict, off.difference_text) == ("not seen", "−3 (−3.00 %)")


def test_limits_hold_in_every_seed_when_exact() -> None:
    check = {"kind": "at-most", "arm": "a", "quantity": "accuracy", "limit": 0}
    assert verdict_of(claims("exact", **check), record({"a": [0.0, 0.0]})) == "reproduced"
    assert verdict_of(claims("exact", **check), record({"a": [0.0, 1.0, -9.0]})) == "not seen"
    check = {"kind": "at-least", "arm": "a", "quantity": "accuracy", "limit": 0.5}
    assert verdict_of(claims("exact", **check), record({"a": [0.5, 0.6]})) == "reproduced"
    assert verdict_of(claims("exact", **check), record({"a": [0.5, 0.4]})) == "not seen"
    assert verdict_of(claims("direction", **check), record({"a": [0.6, 0.61, 0.62]})) == "same direction"
    assert verdict_of(claims("direction", **check), record({"a": [0.5, 0.7, 0.4]})) == "not seen"


def test_an_exact_order_holds_in_every_seed() -> None:
    assert verdict_of(claims("exact", **GREATER), record({"a": [0.5, 0.6], "b": [0.4, 0.5]})) == "reproduced"
    assert verdict_of(claims("exact", **GREATER), record({"a": [0.5, 0.9], "b": [0.5, 0.1]})) == "not seen"


def test_what_was_not_run_says_why() -> None:
    (verdict,) = compare(claims(**GREATER), [])
    assert (verdict.verdict, verdict.note, verdict.scale) == ("not run", "no record of tiny", None)
    (verdict,) = compare(claims(**GREATER), [record({"a": BETTER})])
    assert (verdict.verdict, verdict.note) == ("not run", "the record has no arm b")
    (verdict,) = compare(claims(**GREATER | {"quantity": "f1"}), [record({"a": BETTER, "b": WORSE})])
    assert (verdict.verdict, verdict.note) == ("not run", "the record has no f1 of a")
    foreign = record({"a": BETTER, "b": WORSE}).model_copy(update={"paper": "other"})
    assert verdict_of(claims(**GREATER), foreign) == "not run"


def test_what_is_not_testable_gives_its_reason() -> None:
    claim = Claim(id="c", text="t", place="p", test="not-testable", reason="no weights", printed="80 against 79")
    file = ClaimsFile(paper="demo", title="t", citation="c", claims=(claim,))
    (verdict,) = compare(file, [record({"a": BETTER})])
    assert (verdict.verdict, verdict.note, verdict.paper_text) == (
        "not testable here",
        "no weights",
        "80 against 79",
    )


def test_sweep_trials_are_not_judged() -> None:
    swept = record({"a": WORSE, "b": BETTER})
    sweep = [trial("a", seed, 0.99, stage="sweep") for seed in range(5)]
    swept = swept.model_copy(update={"trials": [*swept.trials, *sweep]})
    assert verdict_of(claims(**GREATER), swept) == "not seen"


def test_the_best_record_is_completed_then_large_then_new() -> None:
    old = record({"a": BETTER}, started="2025-01-01T00:00:00+00:00")
    new = record({"a": BETTER}, started="2025-02-01T00:00:00+00:00")
    smoke = record({"a": BETTER}, scale="smoke", started="2025-03-01T00:00:00+00:00")
    diverged = record({"a": BETTER}, scale="paper", status="diverged", started="2025-04-01T00:00:00+00:00")
    assert select_records([old, smoke, new, diverged]) == [new]
    assert select_records([smoke, diverged]) == [smoke]
    assert select_records([diverged]) == [diverged]


def test_records_are_found_in_runs_and_results(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tmp_path / "runs" / "demo" / "tiny" / "2025-01-01-abc"
    inner = run / "trials" / "final-a-seed0"
    inner.mkdir(parents=True)
    write_record(record({"a": BETTER}), run / "record.json")
    write_record(trial("a", 0, 0.5), inner / "record.json")
    unfinished = tmp_path / "runs" / "demo" / "tiny" / "2025-01-02-abc" / "trials" / "final-a-seed0"
    unfinished.mkdir(parents=True)
    (unfinished.parents[1] / "config.yaml").write_text("{}")
    write_record(trial("a", 0, 0.5), unfinished / "record.json")
    results = tmp_path / "results"
    results.mkdir()
    write_record(record({"a": WORSE}, experiment="other"), results / "other.json")
    (results / "broken.json").write_text('{"schema_version": 1, ')
    with caplog.at_level(logging.WARNING):
        found = find_records([tmp_path / "runs" / "demo", results, tmp_path / "absent"])
    assert [r.experiment for r in found] == ["other", "tiny"]
    assert len(caplog.records) == 1, "only the broken file is reported; trial records are not mistaken for runs"
    assert "broken.json" in caplog.text
    for folder in (tmp_path / "runs", run.parent, run, run / "record.json"):
        assert [r.experiment for r in find_records([folder])] == ["tiny"]
    with pytest.raises(InputFileError, match=r"broken.json"):
        find_records([results / "broken.json"])
    with pytest.raises(InputFileError, match=r"absent.json"):
        find_records([results / "absent.json"])


def test_the_summary_of_arms() -> None:
    made = record({"a": BETTER, "b": []})
    others = [trial("a", 5, None), trial("b", 0, None), trial("a", 100, 0.9, stage="sweep")]
    made = made.model_copy(update={"trials": [*made.trials, *others], "chosen_learning_rates": {"a": 0.5}})
    a, b = summarize(made)
    assert (a.arm, a.n, a.diverged, a.learning_rate) == ("a", 5, 1, 0.5)
    assert a.parameters == ParameterCount(total=100, trained=10)
    metric = a.metrics["accuracy"]
    assert metric.mean == pytest.approx(0.816)
    assert (metric.n, metric.examples, metric.split, metric.text) == (5, 40, "eval", "0.816 ± 0.011")
    assert (b.arm, b.n, b.diverged, b.metrics, b.parameters, b.learning_rate) == ("b", 0, 1, {}, None, 1e-3)


def test_numbers_as_text() -> None:
    assert format_number(12_695_040.0) == "12,695,040"
    assert format_number(0.123456) == "0.1235"
    assert format_number(1234.56) == "1,234.6"
    assert format_number(-3.0) == "-3"
    assert format_mean_sd(0.8123, 0.0124) == "0.812 ± 0.012"
    assert format_mean_sd(123.4, 15.0) == "123 ± 15"
    assert format_mean_sd(1234567.0, 2345.0) == "1,234,567 ± 2,345"
    assert format_mean_sd(0.5, 0.0) == "0.5 ± 0"
    assert format_mean_sd(0.5, None) == "0.5"
    assert format_mean_sd(0.5, 1e-17) == "0.5 ± 1e-17"
