from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mpo_core.errors import ManifestError, UsageError
from mpo_core.repro.checkpoint import (
    TrainingState,
    frozen_hash,
    list_checkpoints,
    load_latest_checkpoint,
    model_tensors,
    restore_model,
    save_checkpoint,
)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


def empty_state(**progress: Any) -> TrainingState:
    return TrainingState({"w": torch.ones(3)}, {}, {"torch": torch.get_rng_state()}, progress)


def steps(folder: Path) -> list[str]:
    return [path.name for path in list_checkpoints(folder)]


def assert_equal_bits(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_equal_bits(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            assert_equal_bits(left, right)
    else:
        assert a == b


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW([{"params": p[:1], "lr": 0.1 + 0.2}, {"params": p[1:], "weight_decay": 0.0}]),
        lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
        lambda p: torch.optim.Adam(p, amsgrad=True),
    ],
    ids=["adamw", "sgd", "amsgrad"],
)
def test_optimizer_state_round_trips_to_the_bit(tmp_path: Path, make: Any) -> None:
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(4, dtype=torch.bfloat16))]
    optimizer = make(parameters)
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    saved = optimizer.state_dict()
    save_checkpoint(tmp_path, 1, TrainingState({}, saved, {}, {"inf": float("inf"), "list": [1, (2.5, None)]}))
    latest = load_latest_checkpoint(tmp_path)
    assert latest is not None
    step, state = latest
    assert step == 1
    assert_equal_bits(state.optimizer, saved)
    assert state.progress == {"inf": float("inf"), "list": [1, (2.5, None)]}
    fresh = make(parameters)
    fresh.load_state_dict(dict(state.optimizer))
    assert_equal_bits(fresh.state_dict(), saved)


def test_no_file_is_a_pickle(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 7, empty_state())
    assert path.name == "step-00000007"
    assert sorted(file.name for file in path.iterdir()) == [
        "manifest.json",
        "model.safetensors",
        "optimizer.safetensors",
        "rng.safetensors",
        "state.json",
    ]
    assert set(json.loads((path / "manifest.json").read_text())["sha256"]) == {
        "model.safetensors",
        "optimizer.safetensors",
        "rng.safetensors",
        "state.json",
    }


def test_tied_tensors_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    model = Tied()
    tensors = model_tensors(model)
    assert "scratch" not in tensors
    assert "norm.running_mean" in tensors
    assert ("embedding.weight" in tensors) != ("head.weight" in tensors)
    save_checkpoint(tmp_path, 1, TrainingState(tensors, {}, {}))
    expected = model.embedding.weight.detach().clone()
    with torch.no_grad():
        model.embedding.weight.zero_()
    latest = load_latest_checkpoint(tmp_path)
    assert latest is not None
    restore_model(model, latest[1].model)
    assert model.head.weight is model.embedding.weight
    assert torch.equal(model.head.weight, expected)


def test_frozen_parameters_are_hashed_not_stored() -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    model = nn.Sequential(first, second)
    first.requires_grad_(False)
    assert set(model_tensors(model)) == {"1.weight", "1.bias"}
    before = frozen_hash(model)
    with torch.no_grad():
        second.weight.add_(1)
    assert frozen_hash(model) == before
    with torch.no_grad():
        first.weight[0, 0] += 1e-6
    assert frozen_hash(model) != before


def test_only_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        save_checkpoint(tmp_path, step, empty_state())
    assert steps(tmp_path) == ["step-00000002", "step-00000010"]


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda folder: flip_a_byte(folder / "model.safetensors"), "model.safetensors"),
        (lambda folder: (folder / "rng.safetensors").unlink(), "lacks the file rng.safetensors"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json"),
        (lambda folder: (folder / "state.json").write_text("{}"), "state.json"),
    ],
    ids=["flipped", "missing", "no-manifest", "bad-manifest", "other-state"],
)
def test_damaged_newest_is_skipped_with_a_log_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Any, word: str
) -> None:
    save_checkpoint(tmp_path, 1, empty_state(mark="old"))
    damage(save_checkpoint(tmp_path, 2, empty_state(mark="new")))
    with caplog.at_level(logging.WARNING):
        latest = load_latest_checkpoint(tmp_path)
    assert latest is not None
    assert latest[0] == 1
    assert latest[1].progress["mark"] == "old"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert word in caplog.text


def test_a_damaged_one_is_replaced_when_its_step_comes_again(tmp_path: Path) -> None:
    flip_a_byte(save_checkpoint(tmp_path, 2, empty_state(mark="damaged")) / "state.json")
    assert load_latest_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, 2, empty_state(mark="again"))
    latest = load_latest_checkpoint(tmp_path)
    assert latest is not None
    assert latest[1].progress["mark"] == "again"


def test_no_folder_is_no_checkpoint(tmp_path: Path) -> None:
    assert load_latest_checkpoint(tmp_path / "absent") is None


def test_restore_names_what_differs() -> None:
    model = nn.Linear(2, 3)
    saved = {name: tensor.detach().clone() for name, tensor in model_tensors(model).items()}
    with pytest.raises(ManifestError, match="'bias'"):
        restore_model(nn.Linear(2, 3, bias=False), saved)
    with pytest.raises(ManifestError, match=r"'weight'.*\(3, 2\).*\(3, 4\)"):
        restore_model(nn.Linear(4, 3), saved)


def test_what_is_no_tensor_or_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot hold a set"):
        save_checkpoint(tmp_path, 1, TrainingState({}, {"state": {1}}, {}))
    assert steps(tmp_path) == []
