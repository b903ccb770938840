"""`mpop squeeze` on a small model: what it writes, that it survives being killed, and what it refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification, BertModel

from mpo_core import DivergedError, UsageError, count_parameters
from mpo_core.repro.models import load_tokenizer
from mpop.commands import squeeze
from mpop.config import Arm, Compression, Squeeze
from mpop.model import load_compressed, merge_compressed
from mpop.squeeze_run import SqueezeJob, squeeze_model

SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small BERT without a head, with MiniLM's tokenizer."""
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    BertModel(BertConfig(**SIZES)).save_pretrained(path)
    load_tokenizer("minilm").save_pretrained(path)
    return path


def job(folder: Path, task: str = "doctext-pairs", **squeeze: Any) -> SqueezeJob:
    return SqueezeJob.model_validate(
        {
            "model": str(folder),
            "task": {"name": task, "max_length": 32, "train_size": 160, "select_size": 40, "eval_size": 40},
            "training": {"epochs": 2, "batch_size": 8, "checkpoint_every": 5},
            "learning_rate": 1e-3,
            "seed": 0,
            "arm": Arm(
                compression=Compression(),
                squeeze=Squeeze(**{"target_size": 0.5, "stages": 4, **squeeze}),
                trains="auxiliary",
            ).model_dump(),
        }
    )


def command(folder: Path, out: Path, *more: str) -> list[str]:
    """The command line of `job(folder)`."""
    options = ["--task", "doctext-pairs", "--target-size", "0.5", "--stages", "4", "--epochs", "2", "--batch-size", "8"]
    options += ["--max-length", "32", "--train-size", "160", "--eval-size", "40", "--checkpoint-every", "5"]
    options += ["--learning-rate", "1e-3", "--out", str(out), *more]
    return [str(Path(sys.executable).with_name("mpop")), "squeeze", str(folder), *options]


def test_a_plain_folder_becomes_a_squeezed_one_that_merges_back(folder, tmp_path):
    steps: list[int] = []
    result = squeeze_model(job(folder), tmp_path / "out", lambda step, total, squeezing: steps.append(step))
    assert steps == list(range(1, 41))
    assert result.after <= 0.5 * result.before
    assert [round(point["size"], 1) for point in result.history][-1] == 0.5
    assert set(result.metrics) >= {"accuracy"}
    assert not (tmp_path / "out.squeezing").exists()
    model = load_compressed(tmp_path / "out")
    assert count_parameters(model).total == result.after
    merge_compressed(tmp_path / "out", tmp_path / "plain")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain").eval()
    ids = torch.randint(1000, 20000, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-5)


def test_a_size_that_the_cuts_do_not_reach_is_told(folder, tmp_path, capsys):
    squeeze(job(folder, cuts=1), tmp_path / "out")
    assert "that is more than the 50 % wanted: take more --cuts per stage" in capsys.readouterr().out


@pytest.mark.slow
def test_killed_twice_it_ends_with_the_same_bits(folder, tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command(folder, tmp_path / "whole"), check=True, capture_output=True, env=environment)
    for least in (5, 20):
        process = subprocess.Popen(command(folder, tmp_path / "cut"), stderr=subprocess.PIPE, env=environment)
        checkpoints = tmp_path / "cut.squeezing" / "checkpoints"
        deadline = time.monotonic() + 120
        while not any(int(path.name[5:]) >= least for path in checkpoints.glob("step-*")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (tmp_path / "cut").exists()
    done = subprocess.run(
        command(folder, tmp_path / "cut"), check=True, capture_output=True, text=True, env=environment
    )
    assert "went on from step" in done.stdout
    one, two = (load_file(tmp_path / name / "mpo.safetensors") for name in ("whole", "cut"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_squeezing_begun_with_other_options_is_not_gone_on_with(folder, tmp_path):
    out = tmp_path / "out"

    def stop(step: int, total: int, squeezing: object) -> None:
        if step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        squeeze_model(job(folder), out, stop)
    with pytest.raises(UsageError, match=r"begun with arm.squeeze.target_size = 0.5, but now it is 0.4"):
        squeeze_model(job(folder, target_size=0.4), out)
    assert squeeze_model(job(folder), out).resumed_from == 5


def test_an_existing_folder_is_not_overwritten(folder, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        squeeze_model(job(folder), tmp_path / "out")


def test_a_size_that_what_is_not_decomposed_exceeds(folder, tmp_path):
    with pytest.raises(UsageError, match=r"target-size 0.001 is .* not decomposed .* alone has"):
        squeeze_model(job(folder, target_size=0.001), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_task_whose_labels_do_not_fit(folder, tmp_path):
    config = BertConfig(**SIZES)
    config.num_labels = 5
    model = BertForSequenceClassification(config)
    model.save_pretrained(tmp_path / "five")
    load_tokenizer("minilm").save_pretrained(tmp_path / "five")
    with pytest.raises(UsageError, match=r"fine-tuned for 5 label\(s\), but the task doctext-pairs has 2"):
        squeeze_model(job(tmp_path / "five"), tmp_path / "out")


def test_a_loss_that_is_not_finite_says_so_and_writes_nothing(folder, tmp_path):
    wild = job(folder).model_copy(update={"learning_rate": 1e30})
    with pytest.raises(DivergedError, match="no longer finite"):
        squeeze_model(wild, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--target-size", "1.5"], "--target-size: Input should be less than 1, found 1.5"),
        (["--bonds", "some"], "--bonds: Input should be 'all' or 'central', found some"),
        (["--trains", "everything"], "--trains: Input should be"),
        (["--stages", "0"], "--stages: Input should be greater than or equal to 1, found 0"),
        (["--task", "no-such-task"], "unknown task 'no-such-task'"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(folder, tmp_path, options, says):
    done = subprocess.run(command(folder, tmp_path / "out", *options), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
