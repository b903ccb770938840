from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mpo_core import MPOEmbedding, MPOLinear, MPOShape, decompose
from mpo_core.forward.layer import MPOLayer
from mpo_core.forward.weight_cache import WeightCache
from mpo_core.operators.contraction import contract_matrix


def make_layer(**options) -> MPOLinear:
    torch.manual_seed(0)
    return MPOLinear.from_dense(nn.Linear(24, 36), bonds=8, cache=True, **options).eval()


def kept(layer: MPOLinear) -> WeightCache:
    return layer._kept


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 24, generator=torch.Generator().manual_seed(1))


def check(layer: MPOLinear, x: Tensor) -> None:
    """The output is that of the present cores."""
    dtype = layer.cores[0].dtype
    plain = MPOLinear(list(layer.cores), layer.shape, layer.bias, strategy="rebuild").eval()
    with torch.no_grad():
        torch.testing.assert_close(layer(x.to(dtype)), plain(x.to(dtype)))


def test_the_weight_is_built_once_and_used_again(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, built = make_layer(), []
    monkeypatch.setattr(
        "mpo_core.forward.layer.contract_matrix", lambda *given: built.append(1) or contract_matrix(*given)
    )
    with torch.no_grad():
        outputs = [layer(x) for _ in range(4)]
        assert layer.weight.data_ptr() == layer.weight.data_ptr()
    assert len(built) == 1
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    check(layer, x)


def test_training_and_gradients_do_not_use_it(x: Tensor) -> None:
    layer = make_layer()
    assert layer(x).requires_grad  # gradients may reach the cores: nothing is kept
    assert not kept(layer)
    with torch.no_grad():
        layer(x)
        assert kept(layer)
        layer.train()
        assert not kept(layer)
        layer(x)
        assert not kept(layer)
    layer.eval()
    layer(x).sum().backward()
    assert all(core.grad is not None for core in layer.cores)


def test_the_input_gets_its_gradient_through_the_kept_weight(x: Tensor) -> None:
    layer = make_layer()
    layer.cores.requires_grad_(False)
    x.requires_grad_()
    for mode in (torch.inference_mode, torch.no_grad):  # a weight made there must serve here
        layer.drop_cache()
        with mode():
            layer(x)
        assert kept(layer)
        (found,) = torch.autograd.grad(layer(x).sum(), x)
        torch.testing.assert_close(found, layer.weight.sum(0).expand_as(x))


def step(layer: MPOLayer, optimizer: torch.optim.Optimizer) -> None:
    for core in layer.cores:
        core.grad = torch.ones_like(core)
    optimizer.step()


def scale_in_place(layer: MPOLinear) -> None:
    with torch.no_grad():
        layer.cores[2].mul_(3.0)


def write_a_slice(layer: MPOLinear) -> None:
    with torch.no_grad():
        layer.cores[1][0, 0] = 5.0


def load_other_values(layer: MPOLinear, assign: bool) -> None:
    layer.load_state_dict({name: value + 1.0 for name, value in layer.state_dict().items()}, assign=assign)


def exchange(layer: MPOLinear) -> None:
    layer.cores[3] = nn.Parameter(layer.cores[3].detach() * 2)


def exchange_all(layer: MPOLinear) -> None:
    layer.cores = nn.ParameterList([nn.Parameter(core.detach() * 2) for core in layer.cores])


def new_data(layer: MPOLinear) -> None:
    layer.cores[0].data = layer.cores[0].data * 2


def new_data_twice(layer: MPOLinear) -> None:
    """The allocator may give the second tensor the memory of the first."""
    layer.cores[0].data = layer.cores[0].data * 2
    layer.cores[0].data = layer.cores[0].data * 2


def round_and_back(layer: MPOLinear) -> None:
    layer.to(torch.bfloat16).to(torch.float32)


CHANGES: dict[str, Callable[[MPOLinear], object]] = {
    "sgd": lambda layer: step(layer, torch.optim.SGD(layer.parameters(), lr=0.1)),
    "adam-foreach": lambda layer: step(layer, torch.optim.Adam(layer.parameters(), lr=0.1, foreach=True)),
    "adam-fused": lambda layer: step(layer, torch.optim.Adam(layer.parameters(), lr=0.1, fused=True)),
    "sgd-fused": lambda layer: step(layer, torch.optim.SGD(layer.parameters(), lr=0.1, fused=True)),
    "one-core": lambda layer: step(layer, torch.optim.SGD([layer.cores[4]], lr=0.1)),
    "in-place": scale_in_place,
    "slice": write_a_slice,
    "load": lambda layer: load_other_values(layer, assign=False),
    "load-assign": lambda layer: load_other_values(layer, assign=True),
    "exchange": exchange,
    "exchange-all": exchange_all,
    "data": new_data,
    "data-twice": new_data_twice,
    "to-double": lambda layer: layer.to(torch.float64),
    "to-bfloat16": lambda layer: layer.to(torch.bfloat16),
    "round-and-back": round_and_back,
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_recorded_change_of_a_core_is_seen(change: str, x: Tensor) -> None:
    layer = make_layer()
    with torch.no_grad():
        before = layer(x)
        assert torch.equal(layer(x), before)
    CHANGES[change](layer)
    check(layer, x)
    if not change.startswith("to-"):
        with torch.no_grad():
            assert not torch.equal(layer(x), before)


@pytest.mark.parametrize("fused", [False, True])
def test_a_kept_table_sees_the_steps_of_optimizers(fused: bool) -> None:
    layer = MPOEmbedding.from_dense(nn.Embedding(30, 12), bonds=8, cache=True).eval()
    ids = torch.arange(30)
    with torch.no_grad():
        before = layer(ids)
        step(layer, torch.optim.Adam(layer.parameters(), lr=0.1, fused=fused))
        after = layer(ids)
    assert not torch.equal(after, before)
    torch.testing.assert_close(after, MPOEmbedding(list(layer.cores), layer.shape)(ids).detach())


def test_a_change_that_is_not_recorded_needs_drop_cache(x: Tensor) -> None:
    layer = make_layer()
    with torch.no_grad():
        before = layer(x)
        layer.cores[0].data.mul_(2.0)
        assert torch.equal(layer(x), before)  # as documented
        layer.drop_cache()
        assert not torch.equal(layer(x), before)
    check(layer, x)


def test_writing_to_the_weight_does_not_change_the_layer(x: Tensor) -> None:
    layer = make_layer()
    with torch.no_grad():
        before = layer(x)
        layer.weight.zero_()
        assert torch.equal(layer(x), before)
        dict(layer.to_dense().named_parameters())["weight"].zero_()
        assert torch.equal(layer(x), before)


def test_writing_to_the_weight_of_one_core_does_not_change_it(x: Tensor) -> None:
    layer = MPOLinear.from_dense(nn.Linear(24, 36), n=1, cache=True).eval()
    core = layer.cores[0].detach().clone()
    with torch.no_grad():
        layer(x)
        layer.weight.zero_()
    assert torch.equal(layer.cores[0], core)
    check(layer, x)


def test_the_bias_is_read_afresh(x: Tensor) -> None:
    layer = make_layer()
    with torch.no_grad():
        before = layer(x)
        dict(layer.named_parameters())["bias"].add_(1.0)
        torch.testing.assert_close(layer(x), before + 1)


def test_copies_and_states_do_not_hold_it(x: Tensor) -> None:
    layer = make_layer()
    with torch.no_grad():
        layer(x)
    assert sorted(layer.state_dict()) == ["bias", *(f"cores.{k}" for k in range(5))]
    twin = copy.deepcopy(layer)
    assert twin.cache
    assert kept(layer)
    assert not kept(twin)
    with torch.no_grad():
        twin.cores[0].mul_(2.0)
        assert not torch.equal(twin(x), layer(x))
    check(twin, x)
    check(layer, x)
    stream = io.BytesIO()
    torch.save(layer, stream)
    stream.seek(0)
    loaded = torch.load(stream, weights_only=False)
    assert not kept(loaded)
    check(loaded, x)


def test_switching_it_off_and_dropping(x: Tensor) -> None:
    layer = make_layer()
    with torch.no_grad():
        layer(x)
        layer.cache = False
        assert not kept(layer)
        layer(x)
        assert not kept(layer)
        layer.cache = True
        layer(x)
        assert kept(layer)
        layer.drop_cache()
        assert not kept(layer)


def test_layers_that_share_cores_see_the_change(x: Tensor) -> None:
    first = make_layer()
    second = MPOLinear(list(first.cores), first.shape, first.bias, cache=True).eval()
    with torch.no_grad():
        assert torch.equal(first(x), second(x))
        first.cores[2].mul_(2.0)
        assert torch.equal(first(x), second(x))
    check(first, x)


def test_autocast(x: Tensor) -> None:
    layer = make_layer()
    dense = layer.to_dense()
    with torch.no_grad():
        layer(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = layer(x)
            assert found.dtype == torch.bfloat16
            assert torch.equal(found, dense(x))
    check(layer, x)


def test_padding(x: Tensor) -> None:
    shape = MPOShape(35, 24, (3, 4, 3), (3, 3, 3))
    mpo = decompose(torch.randn(35, 24), shape, 4)
    layer = MPOLinear(mpo.cores, shape, cache=True).eval()
    check(layer, x)
    with torch.no_grad():
        assert layer.weight.is_contiguous()
