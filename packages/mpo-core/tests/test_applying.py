from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from mpo_core import MPOLinear, MPOShape, ShapeError, UsageError
from mpo_core.forward.applying import apply_mpo
from mpo_core.forward.backward import GradientSum
from mpo_core.forward.cost import STRATEGIES, Strategy, plan_linear
from mpo_core.forward.machine import Machine
from mpo_core.operators.contraction import contract_matrix

SMALL_CACHE = Machine(cache=2**12)
PADDED = MPOShape(53, 31, (3, 6, 3), (4, 4, 2))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def make_cores(shape: MPOShape, bonds: int | None, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    sizes = shape.core_shapes(bonds)
    return [(torch.randn(size, dtype=torch.float64) / math.sqrt(size[0] * size[2])).to(dtype) for size in sizes]


def make_layer(strategy: Strategy = "auto", dtype: torch.dtype = torch.float64, shape: MPOShape = PADDED) -> MPOLinear:
    bias = torch.randn(shape.rows, dtype=torch.float64).to(dtype)
    return MPOLinear(make_cores(shape, 5, dtype), shape, bias, strategy=strategy)


def dense_output(x: Tensor, layer: MPOLinear) -> Tensor:
    """With the matrix as one einsum in float64 would give it."""
    cores = [core.double() for core in layer.cores]
    tensor = cores[0]
    for core in cores[1:]:
        tensor = torch.tensordot(tensor, core, dims=1)
    n, shape = layer.shape.n, layer.shape
    tensor = tensor.squeeze(0).squeeze(-1).permute(*range(0, 2 * n, 2), *range(1, 2 * n, 2))
    weight = tensor.reshape(shape.padded_rows, shape.padded_cols)[: shape.rows, : shape.cols]
    return x.double() @ weight.T + (0 if layer.bias is None else layer.bias.double())


factor_lists = st.lists(st.integers(1, 5), min_size=1, max_size=5)


@given(data=st.data(), rows=factor_lists, tokens=st.integers(0, 9), bonds=st.integers(1, 40), bias=st.booleans())
@settings(max_examples=60, deadline=None)
def test_output_and_gradients_are_those_of_the_matrix(
    data: st.DataObject, rows: list[int], tokens: int, bonds: int, bias: bool
) -> None:
    cols = data.draw(st.lists(st.integers(1, 5), min_size=len(rows), max_size=len(rows)))
    padding = data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    sizes = [max(1, math.prod(factors) - less) for factors, less in zip((rows, cols), padding, strict=True)]
    shape = MPOShape(sizes[0], sizes[1], tuple(rows), tuple(cols))
    strategy = data.draw(st.sampled_from(STRATEGIES))
    machine = data.draw(st.sampled_from([None, SMALL_CACHE]))
    cores = [core.requires_grad_() for core in make_cores(shape, bonds)]
    x = torch.randn(tokens, shape.cols, dtype=torch.float64, requires_grad=True)
    b = torch.randn(shape.rows, dtype=torch.float64, requires_grad=True) if bias else None
    plan = plan_linear(shape, shape.clip_bonds(bonds), tokens, True, strategy=strategy, machine=machine)
    inputs = [x, *cores, *([] if b is None else [b])]
    layer = MPOLinear(cores, shape, b)
    found = apply_mpo(x, cores, shape, b, plan)
    expected = dense_output(x, layer) if b is None else x @ contract_matrix(cores, shape).T + b
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    probe = torch.randn_like(expected)
    gradients = torch.autograd.grad(found, inputs, probe)
    wanted = torch.autograd.grad(x @ layer_weight(cores, shape).T, [x, *cores], probe)
    for mine, theirs in zip(gradients[: len(wanted)], wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    if b is not None:
        torch.testing.assert_close(gradients[-1], probe.sum(0))
    with torch.no_grad():
        silent = plan_linear(shape, shape.clip_bonds(bonds), tokens, strategy=strategy, machine=machine)
        torch.testing.assert_close(apply_mpo(x, cores, shape, b, silent), expected, rtol=1e-10, atol=1e-10)


def layer_weight(cores: list[Tensor], shape: MPOShape) -> Tensor:
    digits = cores[0]
    for core in cores[1:]:
        digits = torch.tensordot(digits, core, dims=1)
    n = shape.n
    digits = digits.squeeze(0).squeeze(-1).permute(*range(0, 2 * n, 2), *range(1, 2 * n, 2))
    return digits.reshape(shape.padded_rows, shape.padded_cols)[: shape.rows, : shape.cols]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_large_sizes_take_the_same_values_in_blocks_and_chunks(strategy: Strategy) -> None:
    shape = MPOShape.choose(768, 512, 5)
    layer = MPOLinear(make_cores(shape, 24), shape, strategy=strategy)
    for tokens in (3, 600, 2100) if strategy != "chain" else (3, 100):
        x = torch.randn(tokens, 512, dtype=torch.float64, requires_grad=True)
        probe = torch.randn(tokens, 768, dtype=torch.float64)
        weight = layer_weight(list(layer.cores), shape)
        expected = torch.autograd.grad(x @ weight.T, [x, *layer.cores], probe)
        for mine, theirs in zip(torch.autograd.grad(layer(x), [x, *layer.cores], probe), expected, strict=True):
            assert torch.linalg.vector_norm(mine - theirs) < 1e-12 * torch.linalg.vector_norm(theirs)
        with torch.no_grad():
            torch.testing.assert_close(layer(x), x @ weight.T)


def gradient_of(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    assert tensor.grad is not None
    return tensor.grad


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_is_computed_for_frozen_parts(strategy: Strategy) -> None:
    layer, x = make_layer(strategy), torch.randn(6, 31, dtype=torch.float64, requires_grad=True)
    plan = plan_linear(PADDED, layer.bonds, 6, True, strategy=strategy)

    def flops() -> int:
        layer.zero_grad()
        with FlopCounterMode(display=False) as counter:
            apply_mpo(x, list(layer.cores), PADDED, layer.bias, plan).sum().backward()
        return counter.get_total_flops()

    everything = flops()
    x = x.detach()
    without_input = flops()
    layer.cores[1].requires_grad_(False)
    without_central = flops()
    assert layer.cores[1].grad is None
    assert gradient_of(layer.cores[0]).any()
    layer.cores.requires_grad_(False)
    only_bias = flops()
    assert torch.equal(gradient_of(layer.bias), torch.full((53,), 6.0, dtype=torch.float64))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        apply_mpo(x, list(layer.cores), PADDED, layer.bias, plan)
    assert counter.get_total_flops() == only_bias < without_central < without_input < everything


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradients_of_gradients(strategy: Strategy) -> None:
    shape = MPOShape(5, 7, (2, 3, 1), (2, 2, 2))
    cores = [core.requires_grad_() for core in make_cores(shape, 3)]
    x = torch.randn(2, 7, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(5, dtype=torch.float64, requires_grad=True)

    def function(x: Tensor, bias: Tensor, *cores: Tensor) -> Tensor:
        return apply_mpo(x, cores, shape, bias, strategy=strategy)

    assert torch.autograd.gradcheck(function, (x, bias, *cores))
    assert torch.autograd.gradgradcheck(function, (x, bias, *cores))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradients_of_gradients_where_one_core_is_made_of_another(strategy: Strategy) -> None:
    shape = MPOShape(4, 4, (2, 2), (2, 2))
    base = torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 4, dtype=torch.float64)
    results = []
    for product in (
        lambda cores: apply_mpo(x, cores, shape, strategy=strategy),
        lambda cores: x @ layer_weight(cores, shape).T,
    ):
        output = product([base, base.permute(3, 1, 2, 0) * 2])
        (first,) = torch.autograd.grad(output.sin().sum(), base, create_graph=True)
        results += [first, *torch.autograd.grad(first.square().sum(), base)]
    torch.testing.assert_close(results[0], results[2])
    torch.testing.assert_close(results[1], results[3])


def kept_bytes(layer: MPOLinear, x: Tensor) -> int:
    """Bytes that a forward pass keeps for the backward pass, besides the input and the parameters."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [x, *layer.parameters()]}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = layer(x)
    assert output.requires_grad
    return sum(saved.values())


@pytest.mark.parametrize("bonds", [4, 16, 48, None])
@pytest.mark.parametrize("tokens", [1, 24, 300, 3000])
def test_training_keeps_at_most_two_dense_weights(bonds: int | None, tokens: int) -> None:
    shape = MPOShape.choose(384, 96, 5)
    layer = MPOLinear(make_cores(shape, bonds, torch.float32), shape)
    x = torch.randn(tokens, 96, requires_grad=True)
    found = kept_bytes(layer, x)
    assert found <= 2 * 384 * 96 * 4
    assert found <= plan_linear(shape, layer.bonds, tokens, True).kept_bytes


@pytest.mark.parametrize("strategy", ["rebuild", "chain", "mixed"])
def test_what_is_kept_is_what_the_plan_says(strategy: Strategy) -> None:
    shape = MPOShape.choose(384, 96, 5)
    layer = MPOLinear(make_cores(shape, 16, torch.float32), shape, strategy=strategy)
    for tokens in (1, 24, 3000):
        plan = plan_linear(shape, layer.bonds, tokens, True, strategy=strategy)
        assert (
            0.8 * plan.kept_bytes <= kept_bytes(layer, torch.randn(tokens, 96, requires_grad=True)) <= plan.kept_bytes
        )


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_are_right_to_their_rounding(strategy: Strategy, dtype: torch.dtype) -> None:
    layer = make_layer(strategy, dtype)
    x = torch.randn(40, 31).to(dtype).requires_grad_()
    probe = torch.randn(40, 53).to(dtype)
    output = layer(x)
    assert output.dtype == dtype
    expected = dense_output(x, layer)
    tolerance = 8 * torch.finfo(dtype).eps

    def distance(found: Tensor, wanted: Tensor) -> float:
        difference = torch.linalg.vector_norm(found.detach().double() - wanted.detach())
        return float(difference / torch.linalg.vector_norm(wanted.detach()))

    assert distance(output, expected) < tolerance
    inputs = [x, *layer.parameters()]
    wanted = torch.autograd.grad(expected, inputs, probe.double())
    for found, exact in zip(torch.autograd.grad(output, inputs, probe), wanted, strict=True):
        assert found.dtype == dtype
        assert distance(found, exact.double()) < tolerance
    with torch.no_grad():
        assert distance(layer(x), expected) < tolerance


def test_sums_of_many_half_products_are_kept_in_float32() -> None:
    one = torch.ones(1, 1, dtype=torch.bfloat16)
    total, plain = GradientSum(torch.bfloat16), torch.zeros(1, 1, dtype=torch.bfloat16)
    for _ in range(1000):
        total.add(one, one)
        plain += one @ one
    found = total.total()
    assert found is not None
    assert found.item() == 1000
    assert plain.item() == 256  # what adding up in bfloat16 gives
    assert GradientSum(torch.float32).total() is None


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_autocast_computes_as_nn_linear_does(strategy: Strategy) -> None:
    layer, x = make_layer(strategy, torch.float32), torch.randn(2, 5, 31, requires_grad=True)
    dense = nn.Linear(31, 53)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(x)
        assert output.dtype == dense(x).dtype == torch.bfloat16
        output.sum().backward()  # inside, too
    gradients = [gradient_of(tensor) for tensor in (x, *layer.parameters())]
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    assert torch.linalg.vector_norm(output.double() - dense_output(x, layer)) < 0.02 * output.norm()
    exact = torch.autograd.grad(dense_output(x, layer).sum(), [x, *layer.parameters()])
    for found, wanted in zip(gradients, exact, strict=True):
        assert torch.linalg.vector_norm(found - wanted) < 0.03 * wanted.norm()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        assert layer(x).dtype == torch.bfloat16


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_backward_pass_inside_autocast_keeps_the_precision_of_the_forward_pass(strategy: Strategy) -> None:
    layer, x = make_layer(strategy, torch.float32), torch.randn(40, 31)
    gradients = []
    for autocast in (False, True):
        output = layer(x)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            gradients.append(torch.autograd.grad(output.sum(), list(layer.cores)))
    if strategy != "auto":  # the merging of cores is torch's own and follows autocast, as its linear layer does
        for plain, inside in zip(*gradients, strict=True):
            assert torch.linalg.vector_norm(plain - inside) < 0.02 * plain.norm()


def test_autocast_leaves_float64_alone() -> None:
    layer, x = make_layer(), torch.randn(3, 31, dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x), layer.cpu()(x))
        assert layer(x).dtype == nn.Linear(31, 53, dtype=torch.float64)(x).dtype == torch.float64


@pytest.mark.parametrize("size", [(), (30,), (32,), (4, 1), (31, 3)])
def test_another_last_axis_is_refused(size: tuple[int, ...]) -> None:
    for cache in (False, True):
        layer = make_layer().eval()
        layer.cache = cache
        with torch.no_grad(), pytest.raises(ShapeError, match=r"MPOLinear: .*in_features = 31"):
            layer(torch.zeros(size, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_another_dtype_is_refused(dtype: torch.dtype) -> None:
    for cache in (False, True):
        layer = make_layer().eval()
        layer.cache = cache
        with torch.no_grad(), pytest.raises(UsageError, match=f"input is {dtype}, the cores are torch.float64"):
            layer(torch.zeros(3, 31, dtype=dtype))


def test_unknown_strategies_are_refused() -> None:
    layer = make_layer()
    with pytest.raises(UsageError, match="'fast'; expected one of auto, rebuild, chain, mixed"):
        layer.strategy = "fast"  # pyright: ignore[reportAttributeAccessIssue]
    assert layer.strategy == "auto"
    with pytest.raises(UsageError, match="'fast'"):
        MPOLinear(list(layer.cores), PADDED, strategy="fast")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="cache is 1"):
        layer.cache = 1  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(UsageError, match="'fast'"):
        apply_mpo(torch.zeros(1, 31, dtype=torch.float64), list(layer.cores), PADDED, strategy="fast")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strides_of_input_and_gradient_do_not_matter(strategy: Strategy) -> None:
    layer = make_layer(strategy)
    wide = torch.randn(6, 40, dtype=torch.float64)
    for x in (wide[:, 3:34], wide[:, :31].T.contiguous().T, wide[:, 3:34].expand(2, 6, 31)):
        leaf = x.detach().clone(memory_format=torch.contiguous_format)
        results = []
        for each in (x, leaf):
            output = layer(each)
            assert output.is_contiguous()
            results.append([output, *torch.autograd.grad(output.sum(), list(layer.cores))])  # an expanded gradient
        for first, second in zip(*results, strict=True):
            torch.testing.assert_close(first, second)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_checkpointing_gives_the_same_gradients(strategy: Strategy) -> None:
    layer, x = make_layer(strategy), torch.randn(5, 31, dtype=torch.float64, requires_grad=True)
    plain = torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()])
    for reentrant in (True, False):
        output = checkpoint(layer, x, use_reentrant=reentrant)
        layer.zero_grad()
        x.grad = None
        output.square().sum().backward()
        for mine, theirs in zip((x, *layer.parameters()), plain, strict=True):
            torch.testing.assert_close(mine.grad, theirs)


@pytest.mark.parametrize("strategy", ["rebuild", "mixed"])
def test_functional_transforms(strategy: Strategy) -> None:
    layer, x = make_layer(strategy), torch.randn(4, 31, dtype=torch.float64)
    parameters: dict[str, Tensor] = dict(layer.named_parameters())

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(layer, parameters, (x,)).square().sum()

    layer(x).square().sum().backward()
    for name, gradient in grad(loss)(parameters, x).items():
        torch.testing.assert_close(gradient, parameters[name].grad)
    each = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for name, gradient in each.items():
        torch.testing.assert_close(gradient.sum(0), parameters[name].grad)


def test_inference_mode() -> None:
    layer, x = make_layer(), torch.randn(4, 31, dtype=torch.float64)
    with torch.inference_mode():
        output = layer(x)
    torch.testing.assert_close(output, dense_output(x, layer).detach())


@pytest.mark.parametrize("strategy", ["auto", "rebuild"])
def test_compiles_without_a_graph_break(strategy: Strategy) -> None:
    layer = make_layer(strategy)
    torch.compiler.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in ((3, 31), (40, 31)):  # the second makes the number of tokens dynamic
            x = torch.randn(size, dtype=torch.float64, requires_grad=True)
            output, expected = compiled(x), layer(x)
            torch.testing.assert_close(output, expected)
            probe = torch.randn_like(output)
            inputs = [x, *layer.parameters()]
            gradients = [torch.autograd.grad(result, inputs, probe) for result in (output, expected)]
            for mine, theirs in zip(*gradients, strict=True):
                torch.testing.assert_close(mine, theirs)
        layer.eval()
        layer.cache = True
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), expected)
            layer.cores[0].mul_(2.0)
            torch.testing.assert_close(compiled(x), layer(x))


SCRIPT = """
import sys, torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from mpo_core import MPOLinear

rank = int(sys.argv[1])
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
torch.manual_seed(0)
model = nn.Sequential(MPOLinear.from_dense(nn.Linear(16, 24), bonds=6), nn.Tanh(), nn.Linear(24, 3))
x, y = torch.randn(8, 16), torch.randn(8, 3)
wrapped = DistributedDataParallel(model)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(5):
    optimizer.zero_grad()
    (wrapped(x[rank::2]) - y[rank::2]).square().mean().backward()
    optimizer.step()
if rank == 0:
    torch.save(model.state_dict(), sys.argv[2])
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    environment = os.environ | settings | {"OMP_NUM_THREADS": "1"}
    target = tmp_path / "state.pt"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(rank), str(target)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    messages = [process.communicate(timeout=90)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(messages)
    torch.manual_seed(0)
    model = nn.Sequential(MPOLinear.from_dense(nn.Linear(16, 24), bonds=6), nn.Tanh(), nn.Linear(24, 3))
    x, y = torch.randn(8, 16), torch.randn(8, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
    two = torch.load(target, weights_only=True)
    assert list(two) == [*(f"0.cores.{k}" for k in range(5)), "0.bias", "2.weight", "2.bias"] or set(two) == set(
        model.state_dict()
    )
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-5)
