from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from mpo_core.errors import InputFileError, UsageError
from mpo_core.repro.config import ArmConfig, StudyConfig
from mpo_core.repro.lock import folder_lock
from mpo_core.repro.paper import Paper
from mpo_core.repro.plan import choose_learning_rates, diverged_arms, plan_final, plan_sweep
from mpo_core.repro.record import Measurement, RunRecord, TrialRecord, read_record, read_trial_record
from mpo_core.repro.runner import TrialJob, execute_run, execute_trial, start_run
from mpo_core.repro.trial import Trial

TOYS = Path(__file__).parent / "toys"
TOY = Paper("toy", "toypaper", "A toy", "Nobody, 2026")


@pytest.fixture
def _toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOYS))
    importlib.import_module("toypaper.train")


def study(**change: Any) -> StudyConfig[Any]:
    arms = {
        "a": ArmConfig(learning_rates=(0.1, 0.2, 0.3)),
        "single": ArmConfig(learning_rates=(0.5,)),
        "nothing": ArmConfig(),
    }
    return StudyConfig(**({"arms": arms, "seeds": (0, 1), "sweep_seeds": (7, 8), "select_metric": "acc"} | change))


def swept(arm: str, rate: float, seed: int, value: float | None, split: str | None = "select") -> TrialRecord:
    return TrialRecord(
        arm=arm,
        seed=seed,
        learning_rate=rate,
        stage="sweep",
        status="diverged" if value is None else "completed",
        seconds=1.0,
        peak_memory_bytes=1,
        metrics={} if value is None else {"acc": Measurement(value=value, n=3, split=split)},
    )


def sweep_of(values: dict[float, tuple[float | None, float | None]]) -> list[TrialRecord]:
    return [swept("a", rate, 7 + i, value) for rate, pair in values.items() for i, value in enumerate(pair)]


def test_only_arms_with_several_rates_are_swept() -> None:
    planned = plan_sweep(study())
    assert [(trial.arm, trial.learning_rate, trial.seed) for trial in planned] == [
        ("a", rate, seed) for rate in (0.1, 0.2, 0.3) for seed in (7, 8)
    ]
    assert {trial.split for trial in planned} == {"select"}


def test_final_trials_run_seed_by_seed_with_the_chosen_rate() -> None:
    planned = plan_final(study(), {"a": 0.2, "single": 0.5})
    assert [trial.key for trial in planned] == [
        f"final-{name}-seed{seed}" for seed in (0, 1) for name in ("a-lr0.2", "single-lr0.5", "nothing")
    ]
    assert {trial.split for trial in planned} == {"eval"}


def test_the_best_mean_over_sweep_seeds_wins() -> None:
    records = sweep_of({0.1: (0.9, 0.1), 0.2: (0.6, 0.6), 0.3: (0.7, 0.4)})
    assert choose_learning_rates(study(), records) == {"a": 0.2, "single": 0.5}
    assert choose_learning_rates(study(select_lower=True), records)["a"] == 0.1


def test_ties_go_to_the_rate_that_stands_first() -> None:
    assert choose_learning_rates(study(), sweep_of({0.1: (0.5, 0.5), 0.2: (0.5, 0.5)}))["a"] == 0.1


def test_a_second_metric_decides_ties() -> None:
    from mpo_core.repro.record import Measurement

    records = sweep_of({0.1: (0.5, 0.5), 0.2: (0.5, 0.5), 0.3: (0.4, 0.4)})
    fits = dict(zip((0.1, 0.2, 0.3), (0.2, 0.3, 0.9), strict=True))
    told = [
        record.model_copy(
            update={
                "metrics": record.metrics | {"fit": Measurement(value=fits[record.learning_rate or 0], split="select")}
            }
        )
        for record in records
    ]
    assert choose_learning_rates(study(select_tie="fit"), told)["a"] == 0.2
    with pytest.raises(UsageError, match="select_tie 'fit' is not what arm 'a' measures"):
        choose_learning_rates(study(select_tie="fit"), records)


def test_diverged_trials_lose() -> None:
    records = sweep_of({0.1: (0.2, 0.2), 0.2: (0.9, None), 0.3: (None, None)})
    assert choose_learning_rates(study(), records)["a"] == 0.1
    records = sweep_of({0.1: (None, None), 0.2: (0.9, None), 0.3: (None, None)})
    assert choose_learning_rates(study(), records)["a"] == 0.2


def test_an_arm_that_always_diverges_has_no_final_trial() -> None:
    chosen = choose_learning_rates(study(), sweep_of(dict.fromkeys((0.1, 0.2, 0.3), (None, None))))
    assert chosen == {"single": 0.5}
    assert diverged_arms(study(), chosen) == ["a"]
    assert {trial.arm for trial in plan_final(study(), chosen)} == {"single", "nothing"}


def test_final_records_do_not_take_part_in_the_choice() -> None:
    records = sweep_of({0.1: (0.5, 0.5), 0.2: (0.4, 0.4)})
    final = swept("a", 0.2, 0, 1.0).model_copy(update={"stage": "final"})
    assert choose_learning_rates(study(), [*records, final])["a"] == 0.1


def test_wrong_metric_or_split_is_refused() -> None:
    with pytest.raises(UsageError, match=r"select_metric 'f1' is not what arm 'a' measures \(acc\)"):
        choose_learning_rates(study(select_metric="f1"), sweep_of({0.1: (0.5, 0.5)}))
    with pytest.raises(UsageError, match="on the split 'eval'"):
        choose_learning_rates(study(), [swept("a", 0.1, 7, 0.5, split="eval")])


def test_trials_that_would_share_a_folder_are_refused() -> None:
    with pytest.raises(UsageError, match="final-nothing-seed0 2 times"):
        plan_final(study(arms={"nothing": ArmConfig()}, seeds=(0, 0)), {})


def comparable(record: RunRecord | TrialRecord) -> Any:
    """A record without what may differ between two equal runs."""
    if isinstance(record, TrialRecord):
        return record.model_dump(exclude={"seconds", "peak_memory_bytes"})
    return [comparable(trial) for trial in record.trials]


def weights(folder: Path) -> dict[str, str]:
    """Trial -> sha256 of the final weights."""
    found = {}
    for manifest in sorted(folder.glob("trials/*/checkpoints/step-*/manifest.json")):
        hashes = json.loads(manifest.read_text())["sha256"]
        found[manifest.parents[2].name] = hashes["model.safetensors"] + hashes["rng.safetensors"]
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("_toys")
def test_run_records_everything_and_bits_do_not_depend_on_workers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = start_run(TOY, "toy", "smoke", runs=tmp_path / "runs")
    assert folder.parent == tmp_path / "runs" / "toy" / "toy"
    content = yaml.safe_load((folder / "config.yaml").read_text())
    assert (content["paper"], content["experiment"], content["scale"]) == ("toy", "toy", "smoke")
    assert content["config"]["training"]["warmup_share"] == 0.1

    record = execute_run(folder, paper=TOY, workers=2)
    assert record == read_record(folder / "record.json")
    assert record.status == "completed"
    assert record.chosen_learning_rates == {"swept": 0.01, "frozen": 0.01}
    assert [(t.stage, t.arm, t.seed) for t in record.trials] == [
        ("sweep", "swept", 100),
        ("sweep", "swept", 100),
        *(("final", arm, seed) for seed in (0, 1) for arm in ("swept", "frozen", "untrained")),
    ]
    assert {m.split for t in record.trials for m in t.metrics.values() if t.stage == "sweep"} == {"select"}
    assert record.environment.threads_per_worker == 1
    assert record.environment.packages["torch"] == metadata.version("torch")
    assert record.seconds >= max(trial.seconds for trial in record.trials)
    assert not list(folder.rglob("checkpoints"))
    assert len(list(folder.glob("trials/*/record.json"))) == 8

    again = execute_run(folder, paper=TOY)
    assert again == record

    (folder / "record.json").unlink()
    damaged = folder / "trials" / "final-untrained-seed0" / "record.json"
    damaged.write_text("{")
    mended = execute_run(folder, paper=TOY, workers=1)
    assert caplog.text.count("a trial is done again") == 1
    assert comparable(mended) == comparable(record)
    assert read_trial_record(damaged) in mended.trials
    assert mended.seconds > record.seconds

    other = start_run(TOY, "toy", "smoke", runs=tmp_path / "runs")
    assert other != folder
    single = execute_run(other, paper=TOY, workers=1, keep_checkpoints=True)
    assert comparable(single) == comparable(record)
    assert len(weights(other)) == 6  # not the untrained


KILLED_RUN = """
import sys
from pathlib import Path
from mpo_core.repro.paper import Paper
from mpo_core.repro.runner import execute_run

if __name__ == "__main__":
    execute_run(Path(sys.argv[1]), paper=Paper("toy", "toypaper", "A toy", "Nobody"), workers=1, keep_checkpoints=True)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("_toys")
def test_killed_run_resumes_bit_equal_and_keeps_finished_trials(tmp_path: Path) -> None:
    folder = start_run(TOY, "toy", "smoke", overrides=["arms.untrained=null", "delay=0.03"], seeds=1, runs=tmp_path)
    copy = tmp_path / "straight"
    shutil.copytree(folder, copy)
    script = tmp_path / "script.py"
    script.write_text(KILLED_RUN)
    environment = os.environ | {"PYTHONPATH": str(TOYS)}
    process = subprocess.Popen([sys.executable, str(script), str(folder)], env=environment, start_new_session=True)
    second = folder / "trials" / "sweep-swept-lr0.01-seed100"
    deadline = time.monotonic() + 60
    while not list(second.glob("checkpoints/step-*")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    with pytest.raises(UsageError, match="another process is working on"):
        execute_run(folder, paper=TOY)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "record.json").exists()
    first = folder / "trials" / "sweep-swept-lr1e-05-seed100" / "record.json"
    made = first.stat().st_mtime_ns
    resumed = execute_run(folder, paper=TOY, workers=1, keep_checkpoints=True)
    assert first.stat().st_mtime_ns == made
    straight = execute_run(copy, paper=TOY, workers=1, keep_checkpoints=True)
    assert comparable(resumed) == comparable(straight)
    assert weights(folder) == weights(copy)
    assert len(weights(copy)) == 4


@pytest.mark.usefixtures("_toys")
def test_diverged_arms_are_marked_and_report_nothing(tmp_path: Path) -> None:
    overrides = [
        "arms.swept.learning_rates=[1e+30, 1e+35]",
        "arms.frozen.learning_rates=[1e+30]",
        "training.max_grad_norm=null",
    ]
    folder = start_run(TOY, "toy", "smoke", overrides=overrides, seeds=1, runs=tmp_path)
    record = execute_run(folder, paper=TOY, workers=1)
    assert record.status == "diverged"
    assert record.chosen_learning_rates == {"frozen": 1e30}
    states = {(trial.stage, trial.arm): (trial.status, bool(trial.metrics)) for trial in record.trials}
    assert states == {
        ("sweep", "swept"): ("diverged", False),
        ("final", "frozen"): ("diverged", False),
        ("final", "untrained"): ("completed", True),
    }


@pytest.mark.usefixtures("_toys")
@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"schema_version": 0}, "schema_version 0, but this mpo-core reads 1"),
        ({"colour": "red"}, "colour"),
        ({"config": {"arms": {}}}, "at least one arm"),
        ({"config": {"arms": {"a": {}}, "droput": 0.1}}, "droput"),
        ({"paper": "other"}, "run of the paper 'other'"),
    ],
)
def test_config_that_no_longer_fits_is_refused(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    folder = start_run(TOY, "toy", "smoke", runs=tmp_path)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    with pytest.raises(InputFileError, match=word):
        execute_run(folder, paper=TOY)
    assert not (folder / "trials").exists()


def test_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match=r"it has no config\.yaml"):
        execute_run(tmp_path)


def test_unknown_paper_is_refused(tmp_path: Path) -> None:
    content = {
        "schema_version": 1,
        "paper": "absent",
        "experiment": "e",
        "scale": "smoke",
        "started": "",
        "config": {},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match="no paper package 'absent'"):
        execute_run(tmp_path)


@pytest.mark.usefixtures("_toys")
def test_unknown_experiment_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="toyy"):
        start_run(TOY, "toyy", "smoke", runs=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_toys")
def test_locked_run_is_refused(tmp_path: Path) -> None:
    folder = start_run(TOY, "toy", "smoke", runs=tmp_path)
    with folder_lock(folder), pytest.raises(UsageError, match="another process is working on"):
        execute_run(folder, paper=TOY)


@pytest.mark.usefixtures("_toys")
def test_a_trial_writes_its_record_last(tmp_path: Path) -> None:
    config = TOY.config_type.model_validate({"arms": {"untrained": {}}})
    trial = Trial("untrained", 3, None, "final")
    record = execute_trial(TrialJob(TOY, trial, config, tmp_path / trial.key, keep_checkpoints=False))
    assert (record.arm, record.seed) == ("untrained", 3)
    assert read_trial_record(tmp_path / "final-untrained-seed3" / "record.json") == record


@pytest.mark.usefixtures("_toys")
def test_a_run_under_a_launcher_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = start_run(TOY, "toy", "smoke", runs=tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="launched on 2 processes"):
        start_run(TOY, "toy", "smoke", runs=tmp_path)
    with pytest.raises(UsageError, match="launched on 2 processes"):
        execute_run(folder, paper=TOY)
    assert len(list((tmp_path / "toy" / "toy").iterdir())) == 1
