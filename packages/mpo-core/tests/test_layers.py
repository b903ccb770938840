from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from mpo_core import MPOEmbedding, MPOLinear, MPOShape, NonFiniteError, ShapeError, UsageError, decompose
from mpo_core.testing import LayerContract


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class TestLinear(LayerContract):
    def make_pair(self):
        dense = nn.Linear(24, 36, dtype=torch.float64)
        return MPOLinear.from_dense(dense), dense


class TestPaddedLinearWithoutBias(LayerContract):
    def make_pair(self):
        dense = nn.Linear(31, 53, bias=False, dtype=torch.float64)
        shape = MPOShape(53, 31, (3, 6, 3), (4, 4, 2))
        return MPOLinear.from_dense(dense, shape, gauge="central"), dense


class TestTruncatedLinear(LayerContract):
    def make_pair(self):
        layer = MPOLinear.from_dense(nn.Linear(32, 48, dtype=torch.float64), bonds=5, n=4)
        return layer, layer.to_dense()


class TestLinearOfOneCore(LayerContract):
    def make_pair(self):
        dense = nn.Linear(6, 5, dtype=torch.float64)
        return MPOLinear.from_dense(dense, n=1), dense


class TestConv1D(LayerContract):
    def make_pair(self):
        dense = Conv1D(30, 20).to(torch.float64)
        return MPOLinear.from_dense(dense), dense


class TestEmbedding(LayerContract):
    def make_pair(self):
        dense = nn.Embedding(120, 24, dtype=torch.float64)
        return MPOEmbedding.from_dense(dense), dense


class TestPaddedEmbedding(LayerContract):
    def make_pair(self):
        dense = nn.Embedding(113, 17, padding_idx=3, dtype=torch.float64)
        # The contract looks up random ids; a row of zeros would say nothing.
        nn.init.normal_(dense.weight)
        return MPOEmbedding.from_dense(dense, n=3), dense


class TestTruncatedEmbedding(LayerContract):
    def make_pair(self):
        layer = MPOEmbedding.from_dense(nn.Embedding(90, 16, dtype=torch.float64), bonds=(2, 7, 3), n=4)
        return layer, layer.to_dense()


class TestEmbeddingOfOneCore(LayerContract):
    def make_pair(self):
        dense = nn.Embedding(9, 4, dtype=torch.float64)
        return MPOEmbedding.from_dense(dense, n=1), dense


class TestEmbeddingOfTwoCores(LayerContract):
    def make_pair(self):
        dense = nn.Embedding(24, 6, dtype=torch.float64)
        return MPOEmbedding.from_dense(dense, n=2), dense


def test_from_dense_keeps_bias_mode_and_frozen_weight():
    dense = nn.Linear(8, 12).eval()
    dense.weight.requires_grad_(False)
    layer = MPOLinear.from_dense(dense)
    assert layer.bias is dense.bias
    assert not layer.training
    assert not any(core.requires_grad for core in layer.cores)
    back = layer.to_dense()
    assert back.bias is dense.bias
    assert not back.training
    assert not dict(back.named_parameters())["weight"].requires_grad


def test_layers_share_cores_given_as_parameters():
    embedding = MPOEmbedding.from_dense(nn.Embedding(20, 12))
    head = MPOLinear(list(embedding.cores), embedding.shape)
    assert all(a is b for a, b in zip(embedding.cores, head.cores, strict=True))
    both = nn.ModuleList([embedding, head])
    assert len(list(both.parameters())) == 5


def test_building_a_dense_layer_draws_no_random_numbers():
    for layer in (
        MPOLinear.from_dense(nn.Linear(8, 12)),
        MPOEmbedding.from_dense(nn.Embedding(8, 12)),
        MPOLinear.from_dense(Conv1D(8, 12)),
    ):
        before = torch.get_rng_state()
        layer.to_dense()
        assert torch.equal(before, torch.get_rng_state())


def test_conv1d_is_the_transposed_matrix():
    dense = Conv1D(30, 20)
    layer = MPOLinear.from_dense(dense)
    assert (layer.out_features, layer.in_features) == (30, 20)
    torch.testing.assert_close(layer.weight, dense.weight.T)


def test_extra_repr_names_sizes_and_bonds():
    text = repr(MPOLinear.from_dense(nn.Linear(16, 16), bonds=3, n=3))
    assert "in_features=16, out_features=16, bias=True" in text
    assert "bonds=(3, 3)" in text
    assert repr(MPOEmbedding.from_dense(nn.Embedding(16, 4, padding_idx=0), n=3)).startswith(
        "MPOEmbedding(\n  16, 4, padding_idx=0"
    )


@pytest.mark.parametrize("bad", [-1, 120])
def test_ids_out_of_range(bad):
    layer = MPOEmbedding.from_dense(nn.Embedding(120, 8))
    with pytest.raises(ShapeError, match="expected 0 to 119"):
        layer(torch.tensor([0, bad]))


def test_an_id_in_the_padding_is_out_of_range():
    layer = MPOEmbedding.from_dense(nn.Embedding(113, 8))
    assert layer.shape.padded_rows > 113
    with pytest.raises(ShapeError):
        layer(torch.tensor([113]))


def test_ids_must_be_integers():
    with pytest.raises(ShapeError, match="float32"):
        MPOEmbedding.from_dense(nn.Embedding(10, 8))(torch.zeros(2))


@pytest.mark.parametrize("option", [{"max_norm": 1.0}, {"sparse": True}, {"scale_grad_by_freq": True}])
def test_embedding_options_without_meaning_are_refused(option):
    with pytest.raises(UsageError, match=next(iter(option))):
        MPOEmbedding.from_dense(nn.Embedding(10, 8, **option))


def test_padding_row_passes_no_gradient_on():
    layer = MPOEmbedding.from_dense(nn.Embedding(30, 8, padding_idx=2))
    layer(torch.tensor([2, 2])).sum().backward()
    assert all(core.grad is None or not core.grad.any() for core in layer.cores)
    layer(torch.tensor([2, 5])).sum().backward()
    assert all(core.grad is not None and core.grad.any() for core in layer.cores)
    assert layer.to_dense().padding_idx == 2
    assert MPOEmbedding(list(layer.cores), layer.shape, -1).padding_idx == 29
    with pytest.raises(ShapeError, match="padding_idx"):
        MPOEmbedding(list(layer.cores), layer.shape, 30)


def test_wrong_layers_and_values_are_refused():
    with pytest.raises(UsageError, match="ReLU"):
        MPOLinear.from_dense(nn.ReLU())
    with pytest.raises(UsageError, match="Linear"):
        MPOEmbedding.from_dense(nn.Linear(2, 2))  # pyright: ignore[reportArgumentType]
    dense = nn.Linear(4, 4)
    with torch.no_grad():
        dense.weight[1, 2] = torch.nan
    with pytest.raises(NonFiniteError, match="`matrix`"):
        MPOLinear.from_dense(dense)
    mpo = decompose(torch.randn(6, 4), n=3)
    with pytest.raises(ShapeError, match="bias"):
        MPOLinear(mpo.cores, mpo.shape, torch.zeros(4))
    with pytest.raises(ShapeError, match="2 cores"):
        MPOLinear(mpo.cores[:2], mpo.shape)


def test_layers_work_on_the_meta_device():
    shape = MPOShape.choose(20, 12, 3)
    layer = MPOLinear([torch.empty(size, device="meta") for size in shape.core_shapes(4)], shape)
    assert layer(torch.empty(2, 12, device="meta")).shape == (2, 20)


def test_lookup_memory_stays_small(monkeypatch):
    """One central slice per token would be 2000 x 256 x 4 x 288 numbers, the table 30720 x 768."""
    shape = MPOShape(30522, 768, (6, 8, 10, 8, 8), (4, 4, 4, 4, 3))
    cores = [torch.randn(size) / 16 for size in shape.core_shapes((16, 256, 288, 12))]
    layer = MPOEmbedding(cores, shape)
    ids = torch.randint(0, 30522, (2000,))
    saved: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = layer(ids)
    kept = sum(saved.values()) - sum(core.numel() for core in cores)
    assert kept < 30720 * 768
    assert kept < 2000 * 256 * 4 * 288 / 25
    chosen = ids[:5]
    torch.testing.assert_close(output[:5], layer.weight[chosen], rtol=1e-3, atol=1e-3)


def test_forward_never_builds_the_table(monkeypatch):
    layer = MPOEmbedding.from_dense(nn.Embedding(120, 24), strategy="lookup")

    def refuse(*_: object) -> None:
        raise AssertionError("the table was built")

    monkeypatch.setattr("mpo_core.forward.layer.contract_matrix", refuse)
    monkeypatch.setattr("mpo_core.embeddings.embedding_rows.table_of", refuse)
    layer(torch.tensor([1, 2, 3]))
    with pytest.raises(AssertionError, match="table was built"):
        _ = layer.weight


def test_training_a_copy_reduces_the_loss():
    target = nn.Linear(16, 12)
    layer = MPOLinear.from_dense(nn.Linear(16, 12), bonds=6)
    student = copy.deepcopy(layer)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    inputs = torch.randn(64, 16)

    def loss(model: nn.Module) -> torch.Tensor:
        return (model(inputs) - target(inputs).detach()).square().mean()

    for _ in range(60):
        optimizer.zero_grad()
        loss(student).backward()
        optimizer.step()
    assert loss(student) < 0.3 * loss(layer)
