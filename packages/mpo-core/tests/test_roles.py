from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AlbertConfig, AlbertModel, BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

from mpo_core.errors import UsageError
from mpo_core.models.roles import ParameterCount, core_role, count_parameters, freeze_cores, freeze_dense
from mpo_core.models.surgery import find_targets, mpo_layers, replace_modules
from mpo_core.shapes import MPOShape


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 24), nn.LayerNorm(24), nn.Linear(24, 8))
    replace_modules(net, find_targets(net, ["0"]), n=3)
    return net


def trains(net: nn.Module) -> dict[str, bool]:
    return {name: p.requires_grad for name, p in net.named_parameters()}


def test_lfa_freezes_the_central_core_and_nothing_else() -> None:
    net = two_layers()
    count = freeze_cores(net, "central")
    assert {name for name, on in trains(net).items() if not on} == {"0.cores.1"}
    layer = mpo_layers(net)["0"]
    assert count.central == layer.cores[1].numel()
    assert count.auxiliary == layer.cores[0].numel() + layer.cores[2].numel()
    assert count.other == 24 + 2 * 24 + 24 * 8 + 8
    assert count.total == count.central + count.auxiliary + count.other == sum(p.numel() for p in net.parameters())
    assert count.trained == count.total - count.central


def test_the_other_roles() -> None:
    net = two_layers()
    freeze_cores(net, "auxiliary")
    assert {name for name, on in trains(net).items() if not on} == {"0.cores.0", "0.cores.2"}
    assert freeze_cores(net, "none").trained == count_parameters(net).total
    freeze_dense(net)
    assert {name for name, on in trains(net).items() if on} == {"0.cores.0", "0.cores.1", "0.cores.2"}
    freeze_cores(net, "central")
    assert {name for name, on in trains(net).items() if on} == {"0.cores.0", "0.cores.2"}


def test_a_frozen_central_core_does_not_move() -> None:
    net = two_layers()
    freeze_cores(net, "central")
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    net(torch.randn(5, 16)).square().sum().backward()
    optimizer.step()
    moved = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    assert moved == before.keys() - {"0.cores.1"}


def test_roles_by_index() -> None:
    layer = mpo_layers(two_layers())["0"]
    assert [core_role(layer, k) for k in range(3)] == ["auxiliary", "central", "auxiliary"]
    with pytest.raises(UsageError, match=r"0 to 2, not 3"):
        core_role(layer, 3)
    with pytest.raises(UsageError, match="not -1"):
        core_role(layer, -1)


def test_unknown_role_is_refused() -> None:
    with pytest.raises(UsageError, match="'centre'"):
        freeze_cores(two_layers(), "centre")  # pyright: ignore[reportArgumentType]


def test_shared_cores_count_once() -> None:
    net = GPT2LMHeadModel(GPT2Config(vocab_size=48, n_positions=8, n_embd=16, n_layer=1, n_head=2))
    replace_modules(net, find_targets(net, ["transformer.wte"]), n=3)
    layers = mpo_layers(net)
    assert set(layers) == {"transformer.wte", "lm_head"}
    cores = sum(core.numel() for core in layers["lm_head"].cores)
    count = count_parameters(net)
    assert count.central + count.auxiliary == cores
    assert count.total == sum(p.numel() for p in net.parameters())


def test_a_core_central_in_one_layer_and_auxiliary_in_another_counts_as_central() -> None:
    net = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    replace_modules(net, find_targets(net), n=3)
    first, second = (mpo_layers(net)[name] for name in ("0", "1"))
    shared = nn.Parameter(torch.zeros_like(first.cores[0]))
    first.cores[0] = shared
    second.cores[1] = shared
    freeze_cores(net, "central")
    assert not shared.requires_grad


def test_albert_recount_of_the_mpop_digest() -> None:
    """ALBERT-base, everything decomposed at the shapes of MPOP's appendix: 12.695M, LFA trains 1.188M."""
    config = AlbertConfig(
        vocab_size=30000,
        embedding_size=128,
        hidden_size=768,
        num_attention_heads=12,
        intermediate_size=3072,
        num_hidden_layers=12,
    )
    with torch.device("meta"):
        net = AlbertModel(config)
    shapes = {
        (30000, 128): MPOShape(30000, 128, (5, 10, 10, 10, 6), (2, 2, 4, 4, 2)),
        (768, 768): MPOShape(768, 768, (3, 4, 4, 4, 4), (4, 4, 4, 4, 3)),
        (3072, 768): MPOShape(3072, 768, (4, 4, 8, 6, 4), (3, 4, 4, 4, 4)),
        (768, 3072): MPOShape(768, 3072, (3, 4, 4, 4, 4), (4, 4, 8, 6, 4)),
    }
    targets = find_targets(
        net, exclude=["*position_embeddings", "*token_type_embeddings", "*embedding_hidden_mapping_in"]
    )
    assert len(targets) == 8
    assert round(count_parameters(net).total / 1e6, 2) == 11.68
    replace_modules(net, targets, shapes=lambda rows, cols: shapes[rows, cols])
    count = freeze_cores(net, "central")
    assert round(count.auxiliary / 1e6, 3) == 1.010
    assert round(count.total / 1e6, 2) == 12.69
    assert round(count.trained / 1e6, 2) == 1.19
    assert all(p.is_meta for p in net.parameters())


def test_a_model_without_cores_is_all_other() -> None:
    net = BertModel(BertConfig(vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    total = sum(p.numel() for p in net.parameters())
    assert freeze_cores(net, "central") == ParameterCount(total, total, 0, 0, total)
