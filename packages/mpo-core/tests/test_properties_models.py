"""Whole models: 500 drawn cases each keep what the dense model computed, or are refused and leave it unchanged."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mpo_core import (
    ManifestError,
    MPOConfig,
    MPOError,
    MPOLinear,
    UsageError,
    collect_covariances,
    count_parameters,
    find_targets,
    freeze_cores,
    freeze_dense,
    get_mpo_model,
    load_mpo,
    merge_modules,
    mpo_layers,
    plan_bonds,
    read_manifest,
    replace_modules,
    save_mpo,
    swap_parameters,
)

often = settings(deadline=None, max_examples=500)
SIZES = st.integers(1, 9)
SEEDS = st.integers(0, 2**16)
SCALES = st.integers(-15, 15)
BAD_NUMBERS: list[Any] = [0, -1, -(2**70), True, 1.5, math.nan, math.inf, "3", 1j, torch.tensor(1.5)]


def _refused(call: Any) -> bool:
    try:
        call()
    except MPOError as error:
        return len(str(error)) > 20
    return False


class _Tied(nn.Module):
    """An embedding, a hidden layer, and a head that may be tied to the embedding."""

    def __init__(self, rows: int, cols: int, tied: bool, seed: int, exponent: int) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, cols, dtype=torch.float64)
        self.hidden = nn.Linear(cols, cols, dtype=torch.float64)
        self.head = nn.Linear(cols, rows, dtype=torch.float64)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        self.table.weight.data *= 10.0**exponent
        if tied:
            self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.hidden(self.table(ids)))


MODELS = st.builds(_Tied, SIZES, SIZES, st.booleans(), SEEDS, SCALES)


def _ids(model: _Tied) -> Tensor:
    return torch.arange(model.table.num_embeddings)


def _same(found: Tensor, expected: Tensor, exact: bool = False) -> None:
    assert found.shape == expected.shape
    assert torch.isfinite(found).all()
    limit = 0.0 if exact else 1e-10 * float(expected.detach().abs().max())
    assert float((found - expected).detach().abs().max()) <= limit


@often
@given(
    MODELS, st.integers(1, 4), st.one_of(st.none(), st.integers(1, 40), st.sampled_from(BAD_NUMBERS)), st.integers(1, 9)
)
def test_replace_and_merge(model, n, bonds, min_size):
    """At full bonds there and back to rounding; a bad bond or another model's targets change nothing."""
    before, state = model(_ids(model)).detach(), copy.deepcopy(model.state_dict())
    targets = find_targets(model, min_size=min_size)
    assert all(min(target.rows, target.cols) >= min_size for target in targets)
    fine = bonds is None or (type(bonds) is int and bonds > 0)
    refused = _refused(lambda: replace_modules(model, targets, bonds=bonds, n=n))
    assert refused != (fine or not targets)
    if refused:
        assert not mpo_layers(model)
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        return
    layers = mpo_layers(model)
    assert len(layers) == len(targets) or model.head.weight is model.table.weight or not targets
    if bonds is None:
        _same(model(_ids(model)), before)
    now = model(_ids(model)).detach()
    assert torch.isfinite(now).all()
    assert merge_modules(model) == list(layers)
    _same(model(_ids(model)), now)
    assert not mpo_layers(model)
    assert _refused(lambda: find_targets(model, ["nothing.*"]))
    if targets:
        assert _refused(lambda: replace_modules(nn.Sequential(), targets))


@often
@given(MODELS, st.integers(1, 4), st.integers(1, 5), st.sampled_from(["central", "auxiliary", "none", "other"]))
def test_roles(model: _Tied, n: int, bonds: int, role: Any):
    """All entries are counted once, and what a role says is frozen."""
    replace_modules(model, find_targets(model), bonds=bonds, n=n)
    if role == "other":
        assert _refused(lambda: freeze_cores(model, role))  # pyright: ignore[reportArgumentType]
        return
    count = freeze_cores(model, role)
    assert count == count_parameters(model)
    assert count.total == sum(p.numel() for p in model.parameters()) == count.central + count.auxiliary + count.other
    assert count.trained == count.total - {"central": count.central, "auxiliary": count.auxiliary, "none": 0}[role]
    assert freeze_dense(model).trained == count.trained - count.other


@often
@given(
    MODELS,
    st.sampled_from(["same", "slice", "none", "other"]),
    st.sampled_from(["SGD", "Adam", "AdamW"]),
    st.booleans(),
)
def test_swap_parameters(model: _Tied, carry: Any, name: str, stepped: bool):
    """The optimizer holds every new parameter once and goes on; strangers are refused without a change."""
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=1e-3)
    if stepped:
        model(_ids(model)).mean().backward()
        optimizer.step()
    old = [id(p) for group in optimizer.param_groups for p in group["params"]]
    done = replace_modules(model, find_targets(model), n=3)
    swaps: dict[Tensor, list[Tensor]] = {each.weight: list(each.cores) for each in done}
    strange: list[dict[Tensor, list[Tensor]]] = [{nn.Parameter(torch.ones(1)): []}]
    strange += [{each.weight: [2 * each.weight]} for each in done[:1]]  # pyright: ignore[reportAssignmentType]
    for wrong in strange:
        assert _refused(lambda wrong=wrong: swap_parameters(optimizer, wrong))
    if carry == "other":
        assert _refused(lambda: swap_parameters(optimizer, swaps, carry=carry))  # pyright: ignore[reportArgumentType]
        assert old == [id(p) for group in optimizer.param_groups for p in group["params"]]
        return
    swap_parameters(optimizer, swaps, carry=carry)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted({id(p) for p in model.parameters()})
    optimizer.zero_grad()
    model(_ids(model)).mean().backward()
    optimizer.step()
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


@often
@given(
    MODELS, st.integers(1, 3), st.integers(1, 9), st.sampled_from(["keep", "cut", "flip", "json", "key", "none"]), SEEDS
)
def test_files(model, n, bonds, damage, seed):
    """Loaded to the bit; a folder that is damaged anywhere is refused with a ManifestError."""
    fresh = copy.deepcopy(model)
    replace_modules(model, find_targets(model), bonds=bonds, n=n)
    with TemporaryDirectory() as name:
        folder = save_mpo(model, Path(name), extra={"seed": seed})
        manifest, weights = folder / "mpo.json", folder / "mpo.safetensors"
        content = weights.read_bytes()
        if damage == "cut":
            weights.write_bytes(content[: seed % len(content)])
        elif damage == "flip":
            weights.write_bytes(content[: (k := seed % len(content))] + bytes([content[k] ^ 1]) + content[k + 1 :])
        elif damage == "json":
            text = manifest.read_text(encoding="utf-8")
            manifest.write_text(text[: seed % (len(text) - 2)], encoding="utf-8")
        elif damage == "key":
            data = json.loads(manifest.read_text(encoding="utf-8"))
            keys = ["schema_version", "weights", "layers", "tensors", "extra"]
            data[keys[seed % 5]] = [None, 3.5, "text", True, [None]][seed // 5 % 5]
            manifest.write_text(json.dumps(data), encoding="utf-8")
        elif damage == "none":
            manifest.unlink()
        try:
            if damage == "keep":
                assert read_manifest(folder).extra == {"seed": seed}
            loaded = load_mpo(fresh, folder)
        except ManifestError:
            assert damage != "keep"
            return
        assert damage == "keep"
        _same(loaded(_ids(model)), model(_ids(model)))
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())
        assert _refused(lambda: save_mpo(model, folder, extra={"x": math.nan}))


@often
@given(MODELS, st.integers(2, 4), st.sampled_from([None, 1, 3]), st.sampled_from(["auxiliary", "central", "all"]))
def test_adopt_and_undo(model, n, bonds, train):
    """The wrapper computes what the model did; `merge_and_unload` keeps it, and `unload` brings it back to the bit."""
    before, plain = model(_ids(model)).detach(), copy.deepcopy(model)
    config = MPOConfig(n=n, bonds=bonds, train=train, min_size=1)
    adapted = get_mpo_model(model, config)
    assert _refused(lambda: get_mpo_model(model, config))
    assert _refused(lambda: get_mpo_model(plain, None))  # type: ignore[arg-type]
    now = adapted(_ids(model)).detach()
    assert torch.isfinite(now).all()
    trained, total = adapted.get_nb_trainable_parameters()
    assert 0 < trained <= total
    if bonds is None:
        _same(now, before)
        if train == "auxiliary" and n > 1 and not _refused(adapted.unload):
            _same(model(_ids(model)), before, exact=True)
            return
    _same(adapted.merge_and_unload()(_ids(model)), now)


@often
@given(
    st.sampled_from(
        ["n", "bonds", "ratio", "tolerance", "min_size", "train", "gauge", "bias", "target_modules", "cache"]
    ),
    st.one_of(
        st.sampled_from([*BAD_NUMBERS, None, [], [3, 3, 3, 3], [0] * 4, {}]), st.integers(1, 99), st.floats(0, 2)
    ),
)
def test_configurations(name, value):
    """Taken and written as JSON, or refused; nothing else."""
    options: Any = {name: value}
    try:
        config = MPOConfig(**options)
    except MPOError:
        return
    data = json.loads(json.dumps(config.to_dict(), allow_nan=False))
    assert MPOConfig.from_dict(data) == config
    assert _refused(lambda: MPOConfig.from_dict({**data, "other": 1}))
    assert _refused(lambda: MPOConfig.from_dict(value)) or isinstance(value, dict)


@often
@given(MODELS, st.integers(0, 2), st.one_of(st.none(), st.integers(1, 20), st.sampled_from(BAD_NUMBERS)), st.booleans())
def test_covariances(model, count, max_tokens, nan):
    """``E[x x^T]`` by hand; no token, NaN in the inputs, or a limit that is none is refused."""
    targets = find_targets(model, min_size=1)
    training = model.training
    if nan:
        model.table.weight.data[0, 0] = math.nan
    batches = [_ids(model)] * count
    fine = max_tokens is None or (type(max_tokens) is int and max_tokens > 0)
    found: Any = None

    def collect() -> None:
        nonlocal found
        found = collect_covariances(model, targets, batches, max_tokens=max_tokens)

    assert _refused(collect) != (fine and count > 0 and not nan)
    assert model.training == training
    assert not any(module._forward_pre_hooks for module in model.modules())
    if found is not None:
        inputs = {"hidden": model.table(_ids(model)), "head": model.hidden(model.table(_ids(model)))}
        for name, x in inputs.items():
            torch.testing.assert_close(found[name], (x.T @ x / len(x)).detach(), rtol=1e-10, atol=0.0)


@often
@given(
    MODELS,
    st.one_of(st.floats(0.01, 3), st.sampled_from(BAD_NUMBERS)),
    st.sampled_from(["none", "norm", "activation", "other"]),
    st.sampled_from(["error-per-parameter", "error", "other"]),
)
def test_plan_bonds(model, ratio, importance, order):
    """Within the share of the dense parameters, or refused."""
    targets = find_targets(model, min_size=1)
    covariances = collect_covariances(model, targets, [_ids(model)]) if importance == "activation" else None
    result: Any = None

    def plan() -> None:
        nonlocal result
        result = plan_bonds(
            model, targets, ratio=ratio, n=2, importance=importance, covariances=covariances, order=order
        )

    if _refused(plan):
        return
    assert type(ratio) in (int, float)
    assert ratio > 0
    assert "other" not in (importance, order)
    weights = {id(target.weight): target for target in targets}
    done = replace_modules(model, targets, bonds=result, n=2)
    assert sum(core.numel() for each in done for core in each.cores) <= ratio * sum(
        target.rows * target.cols for target in weights.values()
    )


def test_a_layer_alone_is_no_model() -> None:
    """Nothing can be put in its place."""
    layer = MPOLinear.from_dense(nn.Linear(4, 4))
    for call in (merge_modules, lambda model: save_mpo(model, "folder")):
        assert _refused(lambda call=call: call(layer))


def test_weights_that_are_no_real_matrices_are_no_targets() -> None:
    """The message says what they are."""
    for weight in (torch.ones(2, 2, 2), torch.ones(2, 2, dtype=torch.complex64)):
        model = nn.Sequential(nn.Linear(2, 2))
        model[0].weight = nn.Parameter(weight)
        with pytest.raises(UsageError, match="not a real matrix"):
            find_targets(model)
