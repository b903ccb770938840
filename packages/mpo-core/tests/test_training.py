from __future__ import annotations

import importlib
import json
import logging
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn

from mpo_core.errors import ManifestError, UsageError
from mpo_core.repro.checkpoint import list_checkpoints
from mpo_core.repro.config import TrainingConfig
from mpo_core.repro.fit_result import FitResult
from mpo_core.repro.optimization import default_parameter_groups, learning_rate_factor
from mpo_core.repro.training import fit

TOYS = Path(__file__).parent / "toys"
TRAINING = TrainingConfig(epochs=3, batch_size=8, log_every=4, checkpoint_every=5)
STEPS = 18  # 43 rows in batches of 8 are 6 steps per epoch

SCRIPT = """
import json, os, signal, sys
from pathlib import Path
sys.path.insert(0, {toys!r})
from safetensors.torch import save_file
from toypaper.train import ToyBatches, make_model
from mpo_core.repro.config import TrainingConfig
from mpo_core.repro.training import fit

class Stop(Exception):
    pass

for spec in json.loads(sys.argv[1]):
    def on_progress(step, total):
        if step == spec["kill_at"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == spec["stop_at"]:
            raise Stop

    model = make_model(3, dropout=spec["dropout"])
    training = TrainingConfig.model_validate(spec["training"])
    batches = ToyBatches(3, training.batch_size)
    folder = Path(spec["folder"])
    try:
        fit(model, batches, training, learning_rate=0.01, seed=3, folder=folder, on_progress=on_progress)
    except Stop:
        continue
    if os.environ.get("RANK", "0") == "0":
        save_file(model.state_dict(), spec["out"])
"""


def fit_spec(
    folder: Path,
    training: TrainingConfig,
    dropout: float = 0.2,
    kill_at: int | None = None,
    stop_at: int | None = None,
) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "training": training.model_dump(),
        "dropout": dropout,
        "kill_at": kill_at,
        "stop_at": stop_at,
        "out": f"{folder}.safetensors",
    }


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(TOYS))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes that the tests start: sums over threads differ in the last bit
    yield importlib.import_module("toypaper.train")
    torch.set_num_threads(threads)


def train(toy: Any, folder: Path, training: TrainingConfig = TRAINING, **options: Any) -> tuple[nn.Module, FitResult]:
    model = options.pop("model", None) or toy.make_model(3)
    batches = options.pop("batches", None) or toy.ToyBatches(3, training.batch_size)
    seed = options.pop("seed", 3)
    learning_rate = options.pop("learning_rate", 0.01)
    result = fit(model, batches, training, learning_rate=learning_rate, seed=seed, folder=folder, **options)
    return model, result


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor.detach().numpy().tobytes() for name, tensor in model.state_dict().items()}


def log_without_times(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


class StopError(Exception):
    pass


def stop_at(wanted: int) -> Any:
    def on_progress(step: int, total: int) -> None:
        if step == wanted:
            raise StopError

    return on_progress


def test_same_seed_same_bits_other_seed_other_bits(toy: Any, tmp_path: Path) -> None:
    first, result = train(toy, tmp_path / "a")
    torch.rand(5)  # generators moved in between must not matter
    second, _ = train(toy, tmp_path / "b")
    other, _ = train(toy, tmp_path / "c", seed=4)
    assert bits(first) == bits(second)
    assert bits(first) != bits(other)
    assert (result.status, result.steps, result.resumed_from) == ("completed", STEPS, 0)
    assert [point.step for point in result.series] == [4, 8, 12, 16, 18]
    assert [row["step"] for row in log_without_times(tmp_path / "a")] == [4, 8, 12, 16, 18]
    assert result.series[-1].values["loss"] < result.series[0].values["loss"]


# 7: within an epoch, mid log window; 12: right behind an epoch's end; 3: before any checkpoint
@pytest.mark.parametrize(("stop", "resumed"), [(3, 0), (7, 5), (12, 10), (17, 15)])
def test_interrupted_fit_ends_bit_equal(toy: Any, tmp_path: Path, stop: int, resumed: int) -> None:
    straight, expected = train(toy, tmp_path / "straight")
    with pytest.raises(StopError):
        train(toy, tmp_path / "stopped", on_progress=stop_at(stop))
    seen: list[int] = []
    model, result = train(toy, tmp_path / "stopped", on_progress=lambda step, total: seen.append(step))
    assert seen == list(range(resumed + 1, STEPS + 1))
    assert result.resumed_from == resumed
    assert bits(model) == bits(straight)
    assert result.series == expected.series
    assert log_without_times(tmp_path / "stopped") == log_without_times(tmp_path / "straight")


def test_checkpoint_at_an_epochs_end_resumes_bit_equal(toy: Any, tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"checkpoint_every": 6})

    class Drawing(toy.ToyBatches):  # like a DataLoader, draws from the global generator when an epoch starts
        def epoch(self, epoch: int) -> Any:
            torch.rand(3)
            return super().epoch(epoch)

    straight, _ = train(toy, tmp_path / "straight", training, batches=Drawing(3, 8))
    with pytest.raises(StopError):
        train(toy, tmp_path / "stopped", training, batches=Drawing(3, 8), on_progress=stop_at(13))
    model, result = train(toy, tmp_path / "stopped", training, batches=Drawing(3, 8))
    assert result.resumed_from == 12
    assert bits(model) == bits(straight)


def test_finished_fit_returns_at_once_with_the_weights(toy: Any, tmp_path: Path) -> None:
    trained, expected = train(toy, tmp_path, TRAINING.model_copy(update={"checkpoint_every": 0}))
    seen: list[int] = []
    model, result = train(toy, tmp_path, on_progress=lambda step, total: seen.append(step))
    assert seen == []
    assert bits(model) == bits(trained)
    assert result.series == expected.series
    assert result.resumed_from == STEPS


def test_damaged_newest_checkpoint_is_skipped_and_the_end_is_bit_equal(
    toy: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    straight, _ = train(toy, tmp_path / "straight")
    with pytest.raises(StopError):
        train(toy, tmp_path / "stopped", on_progress=stop_at(11))
    newest = list_checkpoints(tmp_path / "stopped" / "checkpoints")[-1]
    assert newest.name == "step-00000010"
    (newest / "model.safetensors").write_bytes(b"junk")
    with caplog.at_level(logging.WARNING):
        model, result = train(toy, tmp_path / "stopped")
    assert "skipped a checkpoint" in caplog.text
    assert result.resumed_from == 5
    assert bits(model) == bits(straight)


def run_script(tmp_path: Path, *specs: dict[str, Any], **environment: str) -> subprocess.Popen[str]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(toys=str(TOYS)))
    clean = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return subprocess.Popen(
        [sys.executable, str(script), json.dumps(specs)],
        env=clean | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"} | environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_with_sigkill_and_resumed_ends_bit_equal(toy: Any, tmp_path: Path) -> None:
    straight, _ = train(toy, tmp_path / "straight")
    folder = tmp_path / "killed"
    process = run_script(tmp_path, fit_spec(folder, TRAINING, kill_at=9))
    process.communicate(timeout=60)
    assert process.returncode == -9
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')  # as a kill within a write would leave it
    model, result = train(toy, folder)
    assert result.resumed_from == 5
    assert bits(model) == bits(straight)
    assert log_without_times(folder) == log_without_times(tmp_path / "straight")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several fits on two real gloo processes, started with what `torchrun --nproc-per-node 2` sets."""
    folder = tmp_path_factory.mktemp("two")
    specs = (
        fit_spec(folder / "uneven", UNEVEN, dropout=0.0),
        fit_spec(folder / "straight", SHORT),
        fit_spec(folder / "stopped", SHORT, stop_at=3),
        fit_spec(folder / "stopped", SHORT),
    )
    common = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    common["GLOO_SOCKET_IFNAME"] = "lo"
    started = [run_script(folder, *specs, RANK=str(rank), LOCAL_RANK=str(rank), **common) for rank in range(2)]
    messages = [process.communicate(timeout=90)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(messages)
    return folder


# 43 rows in batches of 7: parts of 4 and 3, and a last batch of one row, of which one process gets none
UNEVEN = TrainingConfig(epochs=2, batch_size=7, log_every=4, checkpoint_every=5)
SHORT = TRAINING.model_copy(update={"epochs": 1, "checkpoint_every": 2})


def test_two_processes_give_the_weights_of_one(toy: Any, tmp_path: Path, two_processes: Path) -> None:
    single, expected = train(toy, tmp_path, UNEVEN, model=toy.make_model(3, dropout=0.0))
    two = load_file(two_processes / "uneven.safetensors")
    for name, tensor in single.state_dict().items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-6)
    rows = log_without_times(two_processes / "uneven")
    assert [row["step"] for row in rows] == [point.step for point in expected.series]
    for key in ("loss", "grad_norm"):
        wanted = [point.values[key] for point in expected.series]
        assert [row[key] for row in rows] == pytest.approx(wanted, abs=1e-6)


def test_two_processes_resume_bit_equal(two_processes: Path) -> None:
    assert log_without_times(two_processes / "stopped") == log_without_times(two_processes / "straight")
    straight = (two_processes / "straight.safetensors").read_bytes()
    assert (two_processes / "stopped.safetensors").read_bytes() == straight


def test_another_number_of_processes_does_not_resume(toy: Any, two_processes: Path) -> None:
    with pytest.raises(ManifestError, match="processes = 2, but this run has 1"):
        train(toy, two_processes / "straight", SHORT)


def test_token_weights_split_a_batch_rightly(toy: Any) -> None:
    from mpo_core.repro.training import _own_rows

    batch = {"x": torch.arange(10).reshape(5, 2), "y": torch.arange(5)}
    parts = [_own_rows(batch, index, 2) for index in range(2)]
    assert [len(part["y"]) for part in parts] == [3, 2]
    assert torch.equal(torch.cat([part["x"] for part in parts]), batch["x"])
    with pytest.raises(UsageError, match=r"'z' has shape \(2,\)"):
        _own_rows(batch | {"z": torch.zeros(2)}, 0, 2)


def test_infinite_loss_diverges_and_saves_nothing_more(toy: Any, tmp_path: Path) -> None:
    calls = []

    def loss_of(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        calls.append(1)
        return model(**batch).loss * (float("inf") if len(calls) == 8 else 1.0)

    at_seven, _ = train(toy, tmp_path / "seven", TRAINING.model_copy(update={"log_every": 7}), on_progress=None)
    model, result = train(toy, tmp_path / "run", loss_of=loss_of)
    assert (result.status, result.steps) == ("diverged", 7)
    assert [point.step for point in result.series] == [4]
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step-00000005"]
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    assert bits(model) != bits(at_seven)


def test_non_finite_gradient_diverges_though_the_loss_is_finite(toy: Any, tmp_path: Path) -> None:
    def loss_of(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return (model(**batch).loss * 0).sqrt()  # 0, with an infinite derivative

    model = toy.make_model(3)
    before = bits(model)
    _, result = train(toy, tmp_path, model=model, loss_of=loss_of)
    assert (result.status, result.steps, result.series) == ("diverged", 0, [])
    assert bits(model) == before
    assert not (tmp_path / "checkpoints").exists()


def test_frozen_weights_stay_and_are_checked_on_resume(toy: Any, tmp_path: Path) -> None:
    model = toy.make_model(3, freeze=True)
    before = model.first.weight.detach().clone()
    train(toy, tmp_path, model=model)
    assert torch.equal(model.first.weight, before)
    with pytest.raises(ManifestError, match="started from other weights"):
        train(toy, tmp_path, model=toy.make_model(4, freeze=True))


@pytest.mark.parametrize(
    ("change", "word"),
    [({"epochs": 4}, "epochs = 3, but this run has 4"), ({"max_grad_norm": None}, "max_grad_norm = 1.0")],
)
def test_other_settings_do_not_resume(toy: Any, tmp_path: Path, change: dict[str, Any], word: str) -> None:
    train(toy, tmp_path)
    with pytest.raises(ManifestError, match=word):
        train(toy, tmp_path, TRAINING.model_copy(update=change))
    with pytest.raises(ManifestError, match="seed = 3"):
        train(toy, tmp_path, seed=5)


def test_bfloat16_rounds_the_passes_and_not_the_weights(toy: Any, tmp_path: Path) -> None:
    exact, _ = train(toy, tmp_path / "a", TRAINING.model_copy(update={"precision": "float32"}))
    model, _ = train(toy, tmp_path / "b", TRAINING.model_copy(update={"precision": "bfloat16"}))
    assert bits(exact) == bits(train(toy, tmp_path / "c")[0])
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert bits(model) != bits(exact)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, exact.state_dict()[name], rtol=0.2, atol=0.05)


def test_bfloat16_resumes_bit_equal_and_only_with_its_own(toy: Any, tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"precision": "bfloat16"})
    whole, _ = train(toy, tmp_path / "whole", training)
    with pytest.raises(StopError):
        train(toy, tmp_path / "stopped", training, on_progress=stop_at(12))
    with pytest.raises(ManifestError, match="precision = 'bf16'"):
        train(toy, tmp_path / "stopped")
    model, result = train(toy, tmp_path / "stopped", training)
    assert result.resumed_from == 10
    assert bits(model) == bits(whole)


def test_a_precision_that_accelerate_does_not_have_here_is_refused(toy: Any, tmp_path: Path) -> None:
    Accelerator(mixed_precision="no")  # the caller's own: its state is the process's
    with pytest.raises(UsageError, match="accelerate already has another precision"):
        train(toy, tmp_path, TRAINING.model_copy(update={"precision": "bfloat16"}))


def test_max_steps_ends_training_and_the_schedule(toy: Any, tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"max_steps": 4, "warmup_share": 0.0, "log_every": 1})
    _, result = train(toy, tmp_path, training)
    assert result.steps == 4
    assert [point.values["learning_rate"] for point in result.series] == pytest.approx([0.01, 0.0075, 0.005, 0.0025])


def test_schedule() -> None:
    factors = [learning_rate_factor(step, 10, 0.2) for step in range(10)]
    assert factors == pytest.approx([0.5, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])
    assert learning_rate_factor(3, 4, 1.0) == 1.0


def test_clipping_limits_the_step(toy: Any, tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"max_steps": 1, "warmup_share": 0.0, "max_grad_norm": 1e-3})
    model = toy.make_model(3)
    seen: list[float] = []
    parameters = list(model.parameters())
    handle = parameters[0].register_post_accumulate_grad_hook(lambda p: seen.append(float(p.grad.norm())))
    _, result = train(toy, tmp_path, training, model=model)
    handle.remove()
    assert result.series[0].values["grad_norm"] > 1e-3  # reported before clipping
    assert seen


def test_decay_only_on_matrices(toy: Any) -> None:
    model = toy.make_model(3, freeze=True)
    decayed, plain = default_parameter_groups(model, TRAINING)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.01, 0.0)
    assert [p is model.head.weight for p in decayed["params"]] == [True]
    assert {id(p) for p in plain["params"]} == {id(p) for p in (model.norm.weight, model.norm.bias, model.head.bias)}


def test_own_groups_keep_their_rates(toy: Any, tmp_path: Path) -> None:
    model = toy.make_model(3)
    groups = [{"params": [model.head.weight], "lr": 0.0}, {"params": [model.first.weight]}]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(toy, tmp_path, TRAINING.model_copy(update={"weight_decay": 0.0}), model=model, parameter_groups=groups)
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"first.weight"}


def test_nothing_to_train_is_refused(toy: Any, tmp_path: Path) -> None:
    model = toy.make_model(3)
    model.requires_grad_(False)
    with pytest.raises(UsageError, match="nothing to train"):
        train(toy, tmp_path, model=model)


def test_batches_that_end_early_are_refused(toy: Any, tmp_path: Path) -> None:
    class Short(toy.ToyBatches):
        def __len__(self) -> int:
            return 9

    with pytest.raises(UsageError, match="epoch 0 of the batch source ended before the 9 batches"):
        train(toy, tmp_path, batches=Short(3, 8))


def test_no_warning_is_given(toy: Any, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(toy, tmp_path)
