"""Every experiment file is valid at every scale; those of the quickstart run here, with real weights."""

import json
import os
from pathlib import Path

import pytest

from mpo_core.repro.claims import load_claims
from mpo_core.repro.compare import compare
from mpo_core.repro.config import SCALES
from mpo_core.repro.experiment import check_paper, list_experiments, load_experiment, resolve
from mpo_core.repro.record import ParameterCount
from mpo_core.repro.runner import execute_run, start_run
from mpop.config import Config
from mpop.paper import PAPER

EXPERIMENTS = sorted(list_experiments(PAPER))
DATA = Path(os.environ.get("MPO_DATA", Path(__file__).parents[4] / "shared" / "data"))

STORIES = DATA.parent / "models" / "stories260k"


def parameters(record, arm) -> ParameterCount:
    (trial,) = record.final(arm)
    return trial.parameters


def run(name, tmp_path, **choices):
    return execute_run(start_run(PAPER, name, "smoke", runs=tmp_path, **choices), workers=1)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_valid_at_every_scale(name, scale):
    config, _ = resolve(PAPER, load_experiment(PAPER, name), scale)
    assert isinstance(config, Config)
    if scale == "small" and config.study == "finetune":
        assert len(config.seeds) >= 5
        sweeps = {len(arm.learning_rates) for arm in config.arms.values() if arm.trains != "nothing"}
        assert len(sweeps) == 1, "every arm has the same sweep budget"


def test_every_claim_names_an_experiment_and_arms_that_exist():
    check_paper(PAPER)


def test_parameters_of_the_paper_are_recounted(tmp_path):
    record = run("parameters", tmp_path)
    assert parameters(record, "albert-mpo-lfa") == ParameterCount(total=12_693_748, trained=1_186_036)
    verdicts = {verdict.claim.id: verdict.verdict for verdict in compare(load_claims(PAPER), [record])}
    assert verdicts["albert-mpo-total"] == verdicts["albert-lfa-trained"] == "reproduced"
    assert verdicts["albert-squeezed-total"] == "not seen"


def test_truncation_claims_hold_on_a_real_model(tmp_path):
    record = run("truncation", tmp_path)
    verdicts = {verdict.claim.id: verdict.verdict for verdict in compare(load_claims(PAPER), [record])}
    assert verdicts["error-bound"] == verdicts["error-bound-as-printed"] == verdicts["central-entropy"] == "reproduced"


@pytest.mark.slow
def test_fine_tuning_lowers_the_loss_and_trains_what_the_arm_says(tmp_path):
    record = run("doctext", tmp_path, overrides=["training.max_steps=12", "training.batch_size=8"])
    assert record.status == "completed"
    for trial in record.trials:
        losses = [point.values["loss"] for point in trial.series]
        assert sum(losses[-3:]) < sum(losses[:3])
    dense, lfa, direct = (parameters(record, arm) for arm in ("dense", "lfa", "direct"))
    assert dense.trained == dense.total
    assert lfa.trained < 0.3 * lfa.total
    assert direct.total < 0.79 * dense.total < lfa.total


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "glue").is_dir(), reason=f"no GLUE files in {DATA.name} (set MPO_DATA)")
@pytest.mark.parametrize("name", ["mrpc", "last-layers", "squeezing-mrpc"])
def test_the_glue_experiments_run_on_real_data(name, tmp_path, monkeypatch):
    monkeypatch.setenv("MPO_DATA", str(DATA))
    choices = ["training.max_steps=2", "training.batch_size=4", "task.eval_size=16"]
    record = run(name, tmp_path, overrides=choices)
    assert all(trial.metrics["accuracy"].n == 16 for trial in record.trials)
    assert {trial.stage for trial in record.trials} == {"final"}


@pytest.mark.data
@pytest.mark.skipif(not STORIES.is_dir(), reason="no stories260k beside the data sets (set MPO_DATA)")
def test_a_trained_decoder_is_compressed_squeezed_and_tuned_on_running_text(tmp_path, monkeypatch):
    monkeypatch.setenv("MPO_DATA", str(DATA))  # the models stand beside it
    record = run("decoder", tmp_path, overrides=["task.eval_size=8"])
    perplexities = {trial.arm: trial.metrics["perplexity"].value for trial in record.trials}
    sizes = {trial.arm: trial.metrics["size"].value for trial in record.trials}
    assert all(value > 1 for value in perplexities.values())
    assert perplexities["original"] < min(perplexities["mpo-60"], perplexities["svd-60"])
    assert max(perplexities["dense"], perplexities["lfa"]) < perplexities["original"]
    assert perplexities["svd-60-tuned"] < perplexities["svd-60"]
    assert all(0.54 < size <= 0.6 for arm, size in sizes.items() if "60" in arm)
    assert perplexities["mpo-60-lfa"] < perplexities["mpo-60"]
    lfa = parameters(record, "lfa")
    assert lfa.trained < 0.2 * lfa.total


@pytest.mark.slow
def test_the_trials_of_a_run_start_from_one_tuned_model(tmp_path):
    start = "start={learning_rate: 1.0e-4, training: {max_steps: 6, batch_size: 8, log_every: 1}}"
    arms = ["arms.tuned={trains: nothing}", "arms.lfa=null", "arms.direct=null"]
    record = run("doctext", tmp_path, overrides=[start, *arms, "training.max_steps=1"])
    (folder,) = tmp_path.glob("*/*/*/trials/tuned")
    assert {"log.jsonl", "model", "start.json"} == {path.name for path in folder.iterdir() if path.name[0] != "."}
    tuned, dense = (next(trial for trial in record.trials if trial.arm == arm) for arm in ("tuned", "dense"))
    first = json.loads((folder / "log.jsonl").read_text().splitlines()[0])["loss"]
    assert dense.series[0].values["loss"] < first  # it goes on where the start ended
    assert tuned.metrics["accuracy"].n == dense.metrics["accuracy"].n
    assert not tuned.series
