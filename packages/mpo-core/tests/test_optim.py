from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from mpo_core.errors import UsageError
from mpo_core.models.optim import swap_parameters

Factory = Callable[..., torch.optim.Optimizer]

OPTIMIZERS: dict[str, Factory] = {
    "sgd-momentum": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9, dampening=0.1, weight_decay=0.01),
    "adam": lambda params: torch.optim.Adam(params, lr=0.01),
    "adamw-amsgrad": lambda params: torch.optim.AdamW(params, lr=0.01, amsgrad=True),
}


def parameter(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype))


def descend(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], steps: int) -> None:
    """Minimise a sum over single entries (random curvature and target): slices evolve independently."""
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.zeros(())
        for p in params:
            full = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(9))
            part = full[(slice(None), *(slice(n) for n in p.shape))]
            loss = loss + (part[0].square() * (p - part[1]).square()).sum()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_same_shape_carry_continues_to_the_bit(make: Factory) -> None:
    undisturbed = parameter(4, 5)
    reference = make([undisturbed])
    descend(reference, [undisturbed], 7)

    old = parameter(4, 5)
    optimizer = make([old])
    descend(optimizer, [old], 3)
    new = nn.Parameter(old.detach().clone())
    swap_parameters(optimizer, {old: [new]})
    before = old.detach().clone()
    descend(optimizer, [new], 4)

    assert torch.equal(new, undisturbed)
    assert torch.equal(old, before)
    assert old not in optimizer.state


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_slice_carry_continues_as_the_slice_of_the_whole(make: Factory) -> None:
    whole = parameter(6, 8)
    reference = make([whole])
    descend(reference, [whole], 7)

    old = parameter(6, 8)
    optimizer = make([old])
    descend(optimizer, [old], 3)
    new = nn.Parameter(old.detach()[:4, :5].clone())
    swap_parameters(optimizer, {old: [new]}, carry="slice")
    descend(optimizer, [new], 4)

    torch.testing.assert_close(new, whole[:4, :5], rtol=0, atol=1e-6)
    moments = [v for v in optimizer.state[new].values() if isinstance(v, Tensor) and v.dim()]
    assert moments
    assert all(m.shape == (4, 5) and m.untyped_storage().nbytes() == 4 * 20 for m in moments)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
@pytest.mark.parametrize("carry", ["same", "none"])
def test_other_shapes_start_as_in_a_fresh_optimizer(make: Factory, carry: str) -> None:
    old = parameter(6, 8)
    optimizer = make([old])
    descend(optimizer, [old], 3)
    a, b = parameter(3, 4, seed=1), parameter(2, 8, seed=2)
    swap_parameters(optimizer, {old: [a, b]}, carry=carry)  # pyright: ignore[reportArgumentType]

    fresh_a, fresh_b = parameter(3, 4, seed=1), parameter(2, 8, seed=2)
    fresh = make([fresh_a, fresh_b])
    descend(optimizer, [a, b], 3)
    descend(fresh, [fresh_a, fresh_b], 3)
    assert torch.equal(a, fresh_a)
    assert torch.equal(b, fresh_b)
    assert not torch.equal(a, parameter(3, 4, seed=1))


def test_only_the_heir_with_the_old_shape_inherits() -> None:
    old = parameter(4, 4)
    optimizer = torch.optim.Adam([old], lr=0.1)
    descend(optimizer, [old], 2)
    moment = optimizer.state[old]["exp_avg"].clone()
    alike, smaller = parameter(4, 4, seed=1), parameter(2, 2, seed=2)
    swap_parameters(optimizer, {old: [alike, smaller]})
    assert torch.equal(optimizer.state[alike]["exp_avg"], moment)
    assert optimizer.state[alike]["step"] == 2
    assert smaller not in optimizer.state


def test_two_heirs_do_not_share_their_moments() -> None:
    old = parameter(3, 3)
    optimizer = torch.optim.Adam([old], lr=0.1)
    descend(optimizer, [old], 2)
    first, second = parameter(3, 3, seed=1), parameter(3, 3, seed=2)
    swap_parameters(optimizer, {old: [first, second]})
    untouched = optimizer.state[second]["exp_avg"].clone()
    descend(optimizer, [first], 1)
    assert torch.equal(optimizer.state[second]["exp_avg"], untouched)
    assert optimizer.state[second]["step"] == 2


def test_groups_keep_order_options_and_the_other_parameters() -> None:
    a, b, c, d = (parameter(2, 2, seed=s) for s in range(4))
    optimizer = torch.optim.AdamW([{"params": [a, b, c], "lr": 0.5, "weight_decay": 0.0}, {"params": [d], "lr": 0.25}])
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    x, y, z = (parameter(1, 2, seed=s) for s in range(5, 8))
    swap_parameters(optimizer, {b: [x, y], d: [z]})
    first, second = optimizer.param_groups
    assert [id(p) for p in first["params"]] == [id(p) for p in (a, x, y, c)]
    assert [id(p) for p in second["params"]] == [id(z)]
    assert (first["lr"], first["weight_decay"], second["lr"]) == (0.5, 0.0, 0.25)

    descend(optimizer, [a, x, y, c, z], 1)
    scheduler.step()
    assert (first["lr"], second["lr"]) == (0.25, 0.125)


def test_parameter_names_stay_parallel() -> None:
    net = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(net.named_parameters(), lr=0.1)
    x, y = parameter(1, 2), parameter(2, 1)
    swap_parameters(optimizer, {net.weight: [x, y]})
    (group,) = optimizer.param_groups
    assert group["param_names"] == ["weight.0", "weight.1", "bias"]
    assert [id(p) for p in group["params"]] == [id(x), id(y), id(net.bias)]


def test_shared_heirs_are_added_once_and_the_first_state_wins() -> None:
    a, b, held = parameter(2, 2), parameter(2, 2, seed=1), parameter(3)
    optimizer = torch.optim.Adam([a, b, held], lr=0.1)
    descend(optimizer, [a, b], 1)
    moment = optimizer.state[a]["exp_avg"].clone()
    shared = parameter(2, 2, seed=3)
    swap_parameters(optimizer, {a: [shared, held], b: [shared]})
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(shared), id(held)]
    assert torch.equal(optimizer.state[shared]["exp_avg"], moment)
    optimizer.add_param_group({"params": [parameter(1)]})


def test_a_frozen_heir_enters_and_trains_once_unfrozen() -> None:
    old, new = parameter(2, 2), parameter(2, 2, seed=1).requires_grad_(False)
    other = parameter(2, 2, seed=2)
    optimizer = torch.optim.SGD([old, other], lr=0.1)
    swap_parameters(optimizer, {old: [new]})
    start = new.detach().clone()
    descend(optimizer, [new, other], 1)  # type: ignore[list-item]
    assert torch.equal(new, start)
    new.requires_grad_(True)
    descend(optimizer, [new, other], 1)  # type: ignore[list-item]
    assert not torch.equal(new, start)


def test_moments_follow_the_dtype_of_the_heir() -> None:
    old = parameter(3, 3)
    optimizer = torch.optim.Adam([old], lr=0.1)
    descend(optimizer, [old], 1)
    new = nn.Parameter(old.detach().double())
    swap_parameters(optimizer, {old: [new]})
    assert optimizer.state[new]["exp_avg"].dtype == torch.float64
    assert optimizer.state[new]["step"].dtype == torch.float32
    before = new.detach().clone()
    descend(optimizer, [new], 1)
    assert not torch.equal(new, before)


def test_factored_moments_start_afresh_under_slicing() -> None:
    old = parameter(6, 8)
    optimizer = torch.optim.Adafactor([old], lr=0.1)
    descend(optimizer, [old], 2)
    new = nn.Parameter(old.detach()[:4, :4].clone())
    swap_parameters(optimizer, {old: [new]}, carry="slice")
    assert new not in optimizer.state
    before = new.detach().clone()
    descend(optimizer, [new], 1)
    assert not torch.equal(new, before)


def test_the_state_round_trips_after_a_swap() -> None:
    old = parameter(6, 8)
    optimizer = torch.optim.Adam([old], lr=0.1)
    descend(optimizer, [old], 2)
    new = nn.Parameter(old.detach()[:3].clone())
    swap_parameters(optimizer, {old: [new]}, carry="slice")
    twin = nn.Parameter(new.detach().clone())
    restored = torch.optim.Adam([twin], lr=0.1)
    restored.load_state_dict(deepcopy(optimizer.state_dict()))
    descend(optimizer, [new], 2)
    descend(restored, [twin], 2)
    assert torch.equal(new, twin)


def test_an_unknown_parameter_is_named_and_nothing_changes() -> None:
    held, stranger = parameter(2, 2), parameter(3, 7)
    optimizer = torch.optim.SGD([held], lr=0.1)
    with pytest.raises(UsageError, match=r"number 1 of shape \(3, 7\)"):
        swap_parameters(optimizer, {held: [parameter(1)], stranger: [parameter(1)]})
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(held)]


def test_bad_calls_are_refused() -> None:
    held = parameter(2, 2)
    with pytest.raises(UsageError, match="no leaf tensor"):
        swap_parameters(torch.optim.SGD([held], lr=0.1), {held: [held * 2]})
    with pytest.raises(UsageError, match="'all'"):
        swap_parameters(torch.optim.SGD([held], lr=0.1), {held: []}, carry="all")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="LBFGS"):
        swap_parameters(torch.optim.LBFGS([held]), {held: []})


def test_a_parameter_can_be_taken_out() -> None:
    a, b = parameter(2), parameter(2)
    optimizer = torch.optim.SGD([a, b], lr=0.1)
    swap_parameters(optimizer, {a: []})
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(b)]
