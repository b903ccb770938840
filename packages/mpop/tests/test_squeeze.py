"""Squeezing inside a real training: sizes, optimizer state, the stopping rule, and resuming to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mpo_core import ManifestError, MPOLinear, UsageError, count_parameters, freeze_cores, mpo_layers
from mpo_core.repro.config import TrainingConfig
from mpo_core.repro.fit_result import FitResult
from mpo_core.repro.training import fit
from mpop.config import ReleasedSqueeze, Squeeze
from mpop.narrowing import layer_groups
from mpop.released import ReleasedSqueezing, structure_of
from mpop.squeeze import DimensionSqueezing

TRAINING = TrainingConfig(epochs=1, batch_size=16, checkpoint_every=5, log_every=5)
STEPS = 40
DENSE = 64 * 64 + 64 + 4 * 64 + 4


class Batches:
    """Points and which of four directions of a fixed map they lie along most."""

    def __len__(self) -> int:
        return STEPS

    def epoch(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(epoch)
        for _ in range(STEPS):
            yield examples(16, generator)


def examples(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    truth = torch.randn(64, 4, generator=torch.Generator().manual_seed(99))
    x = torch.randn(count, 64, generator=generator)
    return {"x": x, "labels": (x @ truth).argmax(1)}


class Network(nn.Module):
    """One operator at full bonds, whose central core is frozen, and a dense head."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.first = MPOLinear.from_dense(nn.Linear(64, 64), n=5)
            self.head = nn.Linear(64, 4)
        self.dropout = nn.Dropout(0.1)
        freeze_cores(self, "central")

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(torch.relu(self.first(x))))


class TiedNetwork(Network):
    """Two layers that share their cores."""

    def __init__(self) -> None:
        super().__init__()
        self.second = MPOLinear(list(self.first.cores), self.first.shape, self.first.bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.relu(self.second(x)))


def loss_of(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["labels"])


def accuracy_of(model: nn.Module) -> float:
    batch = examples(400, torch.Generator().manual_seed(1234))
    training = model.training
    model.eval()
    with torch.no_grad():
        found = float((model(batch["x"]).argmax(1) == batch["labels"]).float().mean())
    model.train(training)
    return found


class InterruptedRunError(Exception):
    pass


def run(
    folder: Path, config: Squeeze | ReleasedSqueeze, stop_at: int | None = None, epochs: int = 1
) -> tuple[Network, DimensionSqueezing | ReleasedSqueezing, FitResult]:
    model = Network()
    if isinstance(config, ReleasedSqueeze):
        squeezing = ReleasedSqueezing(model, config, DENSE)
    else:
        squeezing = DimensionSqueezing(model, config, DENSE, lambda: accuracy_of(model))

    def on_progress(step: int, _total: int) -> None:
        if step == stop_at:
            raise InterruptedRunError

    result = fit(
        model,
        Batches(),
        TRAINING.model_copy(update={"epochs": epochs}),
        learning_rate=3e-3,
        seed=0,
        folder=folder,
        loss_of=loss_of,
        on_progress=on_progress,
        intervention=squeezing,
    )
    return model, squeezing, result


def bits_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("spectra", ["current", "initial"])
@pytest.mark.parametrize("order", ["error", "relative-error", "error-per-parameter"])
def test_the_size_wanted_is_reached_in_even_steps(tmp_path, spectra, order):
    config = Squeeze(target_size=0.6, stages=4, spectra=spectra, order=order)
    model, squeezing, result = run(tmp_path, config)
    assert result.status == "completed"
    assert 0.55 < squeezing.size <= 0.6
    sizes = [point["size"] for point in squeezing.history]
    assert len(sizes) == 4
    assert sizes == sorted(sizes, reverse=True)
    steps = [point["step"] for point in squeezing.history]
    assert steps == [4, 9, 14, 19]  # from a tenth of 40 steps to six tenths
    losses = [point.values["loss"] for point in result.series]
    assert losses[-1] < losses[0]
    assert count_parameters(model).total == round(squeezing.size * DENSE)


@pytest.mark.parametrize("threshold", [None, 10.0])
def test_more_stages_than_steps_reach_the_size_and_the_last_model_is_judged(tmp_path, threshold):
    config = Squeeze(target_size=0.4, stages=3 * STEPS, begin=0.5, end=1.0, threshold=threshold)
    _, squeezing, _ = run(tmp_path, config)
    assert squeezing.size <= 0.4
    steps = [point["step"] for point in squeezing.history]
    assert steps == sorted(steps)
    assert len(squeezing.history) == 3 * STEPS + (threshold is not None)
    if threshold is not None:
        assert (steps[-1], squeezing.history[-1]["cuts"]) == (STEPS, 0)
        assert squeezing.history[-1]["metric"] is not None


def test_one_bond_at_a_time_of_the_central_tensor_as_the_paper_does(tmp_path):
    config = Squeeze(stages=6, cuts=1, bonds="central", order="error", spectra="initial")
    model, squeezing, _ = run(tmp_path, config)
    full = model.first.shape.full_bonds
    assert [point["cuts"] for point in squeezing.history] == [1] * 6
    cut = [old - new for old, new in zip(full, model.first.bonds, strict=True)]
    assert cut[0] == cut[3] == 0
    assert sum(cut) == 6


def test_the_optimizer_trains_the_new_cores_and_keeps_its_moments(tmp_path):
    model = Network()
    squeezing = DimensionSqueezing(model, Squeeze(target_size=0.5, stages=1, end=0.2), DENSE)
    seen = []

    class Watching:
        def after_step(self, step: int, total: int, loss: float, optimizer: torch.optim.Optimizer) -> None:
            before = {id(core) for core in model.first.cores}
            moments = {len(state): state for state in optimizer.state.values()}
            squeezing.after_step(step, total, loss, optimizer)
            changed = [core for core in model.first.cores if id(core) not in before]
            if changed:
                held = {id(p) for group in optimizer.param_groups for p in group["params"]}
                trained = [core for core in model.first.cores if core.requires_grad]
                assert {id(core) for core in trained} <= held
                assert not before & held - {id(core) for core in model.first.cores}
                for core in trained:
                    state = optimizer.state[core]
                    assert int(state["step"]) == step
                    assert state["exp_avg"].shape == state["exp_avg_sq"].shape == core.shape
                    assert state["exp_avg"].abs().max() > 0
                    assert (state["exp_avg_sq"] >= 0).all()
                seen.append(step)
            assert moments

        settings, state = squeezing.settings, squeezing.state
        tensors, restore = squeezing.tensors, squeezing.restore

    fit(
        model,
        Batches(),
        TRAINING,
        learning_rate=3e-3,
        seed=0,
        folder=tmp_path,
        loss_of=loss_of,
        intervention=Watching(),
    )
    assert seen == [4]


RELEASED = ReleasedSqueeze(variant="released", best_loss=10.0, steps_under=3, start={"linear": 15})
"""Any loss is low enough: a cut at every third step."""


@pytest.mark.parametrize("stop_at", [3, 7, 18, 33])
@pytest.mark.parametrize(
    "config",
    [
        Squeeze(target_size=0.5, stages=5),
        Squeeze(target_size=0.5, stages=5, threshold=0.2, patience=1),
        Squeeze(target_size=0.5, stages=5, spectra="initial"),
        RELEASED,
    ],
    ids=["plain", "threshold", "initial", "released"],
)
def test_an_interrupted_squeezing_ends_with_the_same_bits(tmp_path, stop_at, config):
    whole, squeezing, _ = run(tmp_path / "whole", config)
    with pytest.raises(InterruptedRunError):
        run(tmp_path / "cut", config, stop_at)
    again, resumed, result = run(tmp_path / "cut", config)
    assert result.resumed_from == stop_at // 5 * 5
    assert resumed.history == squeezing.history
    wanted, found = bits_of(whole), bits_of(again)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_another_configuration_does_not_resume(tmp_path):
    with pytest.raises(InterruptedRunError):
        run(tmp_path, Squeeze(target_size=0.5, stages=5), stop_at=12)
    with pytest.raises(ManifestError, match="intervention"):
        run(tmp_path, Squeeze(target_size=0.4, stages=5))


def test_it_stops_where_the_metric_falls_and_keeps_the_last_good_model(tmp_path):
    config = Squeeze(target_size=0.09, stages=10, begin=0.7, end=0.9, threshold=0.05)
    model, squeezing, _ = run(tmp_path, config, epochs=5)
    *good, last = squeezing.history
    limit = good[0]["metric"] * 0.95
    assert last["stopped"]
    assert last["metric"] < limit
    assert all(point["metric"] >= limit and not point["stopped"] for point in good)
    # The last good measurement was made before the cut that is noted with it: the size is that of the point before.
    before = good[-2]["size"] if len(good) > 1 else DimensionSqueezing(Network(), config, DENSE, lambda: 0).size
    assert squeezing.size == last["size"] == before > 0.09
    assert accuracy_of(model) > 0.9 * good[-1]["metric"]  # and trained on


def test_tied_layers_stay_tied(tmp_path):
    model = TiedNetwork()
    assert list(layer_groups(model)) == ["first"]
    squeezing = DimensionSqueezing(model, Squeeze(target_size=0.5, stages=3), DENSE)
    fit(
        model, Batches(), TRAINING, learning_rate=3e-3, seed=0, folder=tmp_path, loss_of=loss_of, intervention=squeezing
    )
    assert len(mpo_layers(model)) == 2
    assert all(one is two for one, two in zip(model.first.cores, model.second.cores, strict=True))
    assert squeezing.size <= 0.5


def test_sizes_that_cannot_be_reached_are_refused_before_training():
    model = Network()
    with pytest.raises(UsageError, match=r"what is not decomposed .* alone has 324"):
        DimensionSqueezing(model, Squeeze(target_size=0.05), DENSE)
    with pytest.raises(UsageError, match=r"\(central\) at 1"):
        DimensionSqueezing(model, Squeeze(target_size=0.09, bonds="central"), DENSE)
    with pytest.raises(UsageError, match="needs a metric"):
        DimensionSqueezing(model, Squeeze(target_size=0.5, threshold=0.1), DENSE)
    with pytest.raises(UsageError, match="no matrix product operator"):
        DimensionSqueezing(nn.Linear(4, 4), Squeeze(target_size=0.5), 20)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "target_size, or cuts"),
        ({"target_size": 0.5, "begin": 0.7}, "cannot end at 0.6"),
        ({"target_size": 1.5}, "less than 1"),
    ],
)
def test_bad_settings_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        Squeeze(**settings)


def test_the_released_callback_lowers_one_cap_where_the_loss_is_low(tmp_path):
    model, squeezing, _ = run(tmp_path, RELEASED)
    cuts = [point["cuts"] for point in squeezing.history]
    assert cuts == list(range(14))  # the start, and 13 times three steps in 40
    assert max(model.first.bonds) == 15 - 13
    assert [point["step"] for point in squeezing.history[1:]] == list(range(3, 40, 3))


def test_the_released_callback_waits_and_gives_up_where_the_loss_is_high(tmp_path):
    config = ReleasedSqueeze(variant="released", best_loss=-1.0, give_up=25, window=2)
    model, squeezing, result = run(tmp_path, config)
    assert model.first.bonds == model.first.shape.full_bonds
    assert squeezing.history[-1]["stopped"]
    assert squeezing.history[-1]["step"] == 25
    assert result.steps == STEPS  # training goes on


def test_the_released_order_may_be_a_list(tmp_path):
    config = ReleasedSqueeze(variant="released", best_loss=10.0, steps_under=2, order=("linear", "linear"))
    model, squeezing, _ = run(tmp_path, config)
    assert max(model.first.bonds) == max(model.first.shape.full_bonds) - 2
    assert squeezing.history[-1]["cuts"] == 2


def test_structures_go_by_name():
    assert structure_of("bert.embeddings.word_embeddings", True) == "embedding"
    assert structure_of("h.0.attn.c_attn", False) == "attention"
    assert structure_of("encoder.layer.0.output.dense", False) == "linear"
