"""Permuted copies are those of `Tensor.permute`, to the bit, whatever way they are made."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpo_core.operators.permuting import FEW, permuted

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.complex64]


@st.composite
def cases(draw):
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    order = draw(st.permutations(range(len(sizes))))
    rows = draw(st.sampled_from([1, 7, FEW // 8]))
    return (rows, *sizes), (0, *(axis + 1 for axis in order)), draw(st.sampled_from(DTYPES))


@settings(deadline=None)
@given(cases())
def test_it_is_the_permuted_copy(case):
    sizes, order, dtype = case
    tensor = torch.randint(-100, 100, sizes).to(dtype)
    found = permuted(tensor, order)
    assert found.is_contiguous()
    assert torch.equal(found, tensor.permute(order))


@pytest.mark.parametrize("tail", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_payload_of_a_nan_is_lost(dtype, tail):
    bits = {torch.float32: torch.int32, torch.bfloat16: torch.int16}[dtype]
    numbers = torch.iinfo(bits)
    integers = torch.randint(numbers.min, numbers.max, (64, 5, 4, 6, tail), dtype=bits)
    found = permuted(integers.view(dtype), (0, 2, 1, 3, 4))
    assert torch.equal(found.view(bits), integers.permute(0, 2, 1, 3, 4))


def test_a_part_of_a_tensor_that_begins_within_a_word_is_copied_right():
    whole = torch.arange(FEW * 8 + 1, dtype=torch.float32).bfloat16()
    part = whole[1:].view(FEW, 2, 2, 2)
    assert torch.equal(permuted(part, (0, 2, 1, 3)), part.permute(0, 2, 1, 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradients_of_both_orders_and_both_modes(dtype):
    tensor = torch.randn(FEW // 8, 2, 2, 2, dtype=torch.float64, requires_grad=True)

    def product(weight: torch.Tensor) -> torch.Tensor:
        return (permuted(tensor.to(dtype) * weight, (0, 3, 2, 1))).square().sum()[None].double()

    weight = torch.randn(2, 2, 2, dtype=torch.float64, requires_grad=True)
    if dtype == torch.float64:
        assert torch.autograd.gradcheck(product, weight, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(product, weight)
    (found,) = torch.autograd.grad(product(weight), tensor)
    torch.testing.assert_close(found, 2 * tensor.detach() * weight.detach() ** 2, rtol=1e-5, atol=1e-6)


def test_it_works_under_transforms():
    tensor = torch.randn(3, FEW // 8, 2, 2, 2)
    mapped = torch.vmap(lambda one: permuted(one, (0, 2, 1, 3)))(tensor)
    assert torch.equal(mapped, tensor.transpose(2, 3))
    grad = torch.func.grad(lambda one: permuted(one, (0, 2, 1, 3)).square().sum())(tensor[0])
    torch.testing.assert_close(grad, 2 * tensor[0])
