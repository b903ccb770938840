from __future__ import annotations

import importlib.util
import math
import random
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cp_bcs.config import ModelConfig
from cp_bcs.data.pairs import Pair
from cp_bcs.encoding import Encoder
from cp_bcs.method.attention import Attention, Sizes, causal, of_distances, of_pairs
from cp_bcs.method.decoder import CopyHead
from cp_bcs.method.dropout import Dropout
from cp_bcs.method.encoders import GraphEncoder, SequenceEncoder
from cp_bcs.method.graph_backend import graph_attention, load_dgl
from cp_bcs.model import SummaryNetwork
from cp_bcs.retrieval import Neighbour
from cp_bcs.saving import new_network
from cp_bcs.tokens import (
    END_NUMBER,
    UNKNOWN_NUMBER,
    WORD_BEGINS,
    Pieces,
    Words,
    code_words,
    sentence_of,
    without_digits,
)
from mpo_core.errors import MissingPartError, UsageError

SIZES = Sizes(d=12, layers=2, heads=3, inner=20, dropout=0.0, attention_dropout=0.0, reach=3)
TINY: dict[str, Any] = {
    "d": 16,
    "heads": 2,
    "layers": 1,
    "inner": 32,
    "pieces": 300,
    "dropout": 0.0,
    "code_length": 40,
    "summary_length": 12,
    "reach": 4,
}
GRAPHS = {
    "a line": (4, [(0, 1), (1, 2), (2, 3)]),
    "a loop and an isolated node": (5, [(0, 1), (1, 2), (2, 0), (2, 3)]),
    "no edge at all": (3, []),
    "two edges between the same nodes": (3, [(0, 1), (0, 1), (1, 2)]),
}


def function(number: int, sentence: str = "copies bytes to a buffer", name: str = "f") -> Pair:
    rng = random.Random(number)
    count = rng.randrange(3, 20)
    keys = tuple(f"{rng.choice(['mov', 'add', 'cmp'])} r{rng.randrange(9)} <POSITIVE>" for _ in range(count))
    edges = (*((place, place + 1, 0) for place in range(count - 1)), (count - 1, 0, 1))
    return Pair(
        "p", "a.c", number, f"{name}{number}", "x64", "O2", number, sentence, keys, ((1, "malloc"),), edges,
        pseudo=f"int sub_{number}(int a1) {{ return malloc(a1) + {number}; }}",
    )  # fmt: skip


FUNCTIONS = [
    function(number, f"{verb} the {noun} of a list")
    for number, (verb, noun) in enumerate(
        (v, n) for v in ("frees", "reads", "sorts", "counts") for n in ("head", "nodes")
    )
]


def encoder_of(**settings: Any) -> Encoder:
    return Encoder.learn(ModelConfig(**{**TINY, **settings}), FUNCTIONS)


# -- graph attention on both libraries -----------------------------------------------------------------------------


def symmetric(count: int, edges: list[tuple[int, int]]) -> Tensor:
    both = edges + [(b, a) for a, b in edges]
    return torch.tensor(both, dtype=torch.long).view(-1, 2).T


@pytest.mark.skipif(importlib.util.find_spec("dgl") is None, reason="dgl is not installed (extra cp-bcs[dgl])")
@pytest.mark.parametrize("name", [*GRAPHS, "all of them as one batch"])
def test_dgl_and_torch_geometric_agree_with_the_same_weights(name: str) -> None:
    torch.manual_seed(0)
    first, second = graph_attention(6, 6, "pyg"), graph_attention(6, 6, "dgl")
    assert list(first.state_dict()) == list(second.state_dict())
    second.load_state_dict(first.state_dict())
    if name in GRAPHS:
        count, edges = GRAPHS[name][0], symmetric(*GRAPHS[name])
    else:
        offsets = [sum(size for size, _ in list(GRAPHS.values())[:place]) for place in range(len(GRAPHS))]
        edges = torch.cat([symmetric(*g) + o for g, o in zip(GRAPHS.values(), offsets, strict=True)], dim=1)
        count = sum(size for size, _ in GRAPHS.values())
    found = []
    for layer in (first, second):
        torch.manual_seed(1)
        states = torch.randn(count, 6, requires_grad=True)
        out = layer(states, edges, torch.zeros(edges.shape[1], dtype=torch.long))
        (out * torch.randn_like(out)).sum().backward()
        found.append([out.detach(), states.grad, *(p.grad for p in layer.parameters())])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("dgl") is None, reason="dgl is not installed (extra cp-bcs[dgl])")
def test_a_network_moves_between_the_libraries() -> None:
    encoders = [encoder_of(sources=("graph",), graph_backend=backend) for backend in ("pyg", "dgl")]
    first, second = (new_network(encoder, 0) for encoder in encoders)
    second.load_state_dict(new_network(encoders[0], 5).state_dict())
    first.load_state_dict(second.state_dict())
    batch = encoders[0].batch(encoders[0].encode(FUNCTIONS))
    torch.testing.assert_close(first(batch).chances, second(batch).chances, rtol=1e-5, atol=1e-5)


def test_without_dgl_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    load_dgl.cache_clear()
    monkeypatch.setitem(sys.modules, "dgl", None)
    with pytest.raises(MissingPartError, match=r"cp-bcs\[dgl\]"):
        graph_attention(4, 4, "dgl")
    load_dgl.cache_clear()


def test_dgl_has_no_edge_types() -> None:
    with pytest.raises(ValueError, match="no edge types"):
        ModelConfig(graph_backend="dgl", edge_types=True)
    with pytest.raises(UsageError, match="no edge types"):
        graph_attention(4, 4, "dgl", edge_types=6)


# -- attention -----------------------------------------------------------------------------------------------------


def test_relative_positions_by_hand() -> None:
    """Shaw et al. 2018, Eq. 3 to 5, written out for every pair of places."""
    torch.manual_seed(0)
    layer = Attention(SIZES, relative=True).double()
    states = torch.randn(1, 7, 12, dtype=torch.float64)
    got, weights = layer(states, states, torch.ones(1, 1, 7, dtype=torch.bool))
    query, key, value = (part(states)[0].view(7, 3, 4) for part in (layer.query, layer.key, layer.value))
    rows = torch.zeros(7, 3, 4, dtype=torch.float64)
    mean = torch.zeros(7, 7, dtype=torch.float64)
    for head in range(3):
        for i in range(7):
            near = [max(-3, min(3, j - i)) + 3 for j in range(7)]
            scores = [
                torch.dot(query[i, head], key[j, head] + layer.key_distance.weight[near[j]]) / math.sqrt(4)
                for j in range(7)
            ]
            share = torch.stack(scores).softmax(0)
            mean[i] += share / 3
            rows[i, head] = sum(share[j] * (value[j, head] + layer.value_distance.weight[near[j]]) for j in range(7))
    torch.testing.assert_close(got[0], layer.out(rows.flatten(1)))
    torch.testing.assert_close(weights[0].mean(0), mean)


@pytest.mark.parametrize("length", [1, 2, 3, 8])
def test_pairs_and_distances_are_two_orders_of_the_same(length: int) -> None:
    by_distance = torch.randn(2, length, 2 * length - 1, dtype=torch.float64, requires_grad=True)
    pairs = of_pairs(by_distance)
    for i in range(length):
        for j in range(length):
            assert torch.equal(pairs[:, i, j], by_distance[:, i, j - i + length - 1])
    assert torch.equal(of_pairs(of_distances(pairs)), pairs)
    (gradient,) = torch.autograd.grad(pairs.sum(), by_distance)
    assert torch.equal(gradient, of_distances(torch.ones_like(pairs)))  # what belongs to no pair has none


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_is_torchs_up_to_the_numbers_drawn(p: float) -> None:
    ours, states = Dropout(p), torch.ones(300, 1001, requires_grad=True)
    torch.manual_seed(0)
    dropped = ours(states)
    torch.manual_seed(0)
    assert torch.equal(ours(states), dropped)
    kept = dropped != 0
    deviation = math.sqrt(p * (1 - p) / kept.numel())
    assert abs(float(kept.float().mean()) - (1 - p)) < 4 * deviation
    # Neither rows, nor columns, nor neighbours know of each other.
    assert float((kept.float().mean(0) - (1 - p)).abs().max()) < 5 * math.sqrt(p * (1 - p) / 300)
    together = float((kept[:, 1:] & kept[:, :-1]).float().mean())
    assert together == pytest.approx((1 - p) ** 2, abs=8 * deviation)
    torch.testing.assert_close(dropped[kept], torch.full_like(dropped[kept], 1 / (1 - p)), rtol=1e-4, atol=0)
    (gradient,) = torch.autograd.grad(dropped.sum(), states)
    assert torch.equal(gradient, dropped)
    assert torch.equal(ours.eval()(states), states)
    assert torch.equal(Dropout(0.0)(states), states)
    assert not Dropout(1.0)(states).any()


def test_attention_looks_only_at_what_is_there() -> None:
    torch.manual_seed(0)
    layer = Attention(SIZES)
    states, memory = torch.randn(2, 4, 12), torch.randn(2, 5, 12)
    seen = torch.tensor([[True, True, True, False, False], [True] * 5]).unsqueeze(1)
    out, weights = layer(states, memory, seen)
    assert torch.all(weights[0, :, :, 3:] == 0)
    memory[0, 3:] = 1e3
    torch.testing.assert_close(layer(states, memory, seen)[0], out)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 4))
    assert causal(3, torch.device("cpu")).tolist() == [[[True, False, False], [True, True, False], [True, True, True]]]


# -- encoders ------------------------------------------------------------------------------------------------------


def test_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    reader = SequenceEncoder(30, SIZES)
    short, long = torch.randint(1, 30, (1, 4)), torch.randint(1, 30, (1, 9))
    padded = torch.cat([torch.cat([short, torch.zeros(1, 5, dtype=torch.long)], dim=1), long])
    both = reader(padded)
    torch.testing.assert_close(both.states[0, :4], reader(short).states[0])
    torch.testing.assert_close(both.states[1], reader(long).states[0])
    assert both.there.tolist() == [[True] * 4 + [False] * 5, [True] * 9]


def test_a_batch_of_graphs_is_the_graphs() -> None:
    torch.manual_seed(0)
    reader = GraphEncoder(30, 12, layers=2, dropout=0.0, backend="pyg", edge_types=6)
    nodes = [torch.randint(1, 30, (1, count, 2)) for count in (3, 6)]
    edges = [torch.tensor([[[0, 1, 0], [2, 1, 4]]]), torch.tensor([[[0, 5, 1], [1, 2, 0], [4, 3, 2]]])]
    together = reader(
        torch.cat([torch.nn.functional.pad(nodes[0], (0, 0, 0, 3)), nodes[1]]),
        torch.cat([torch.nn.functional.pad(edges[0], (0, 0, 0, 1), value=-1), edges[1]]),
    )
    for row, count in enumerate((3, 6)):
        torch.testing.assert_close(together.states[row, :count], reader(nodes[row], edges[row]).states[0])
    other = edges[1].clone()
    other[0, 0, 2] = 3  # another type
    assert not torch.allclose(reader(nodes[1], other).states, reader(nodes[1], edges[1]).states)


def test_a_node_of_pieces_is_their_mean() -> None:
    reader = GraphEncoder(9, 12, layers=1, dropout=0.0, backend="pyg")
    reader.layers = torch.nn.ModuleList()
    reader.norms = torch.nn.ModuleList()
    states = reader(torch.tensor([[[3, 5, 0], [4, 0, 0]]]), torch.full((1, 1, 3), -1)).states
    weight = reader.embedding.weight
    torch.testing.assert_close(states[0], reader.norm(torch.stack([(weight[3] + weight[5]) / 2, weight[4]])))


# -- vocabularies --------------------------------------------------------------------------------------------------


def test_pieces_keep_placeholders_whole_and_join_to_the_words() -> None:
    pieces = Pieces.learn([row for each in FUNCTIONS for row in code_words(each)], 300)
    numbers = pieces.numbers([["mov", "r3", "<POSITIVE>"], []])
    assert numbers[1] == []
    found = [pieces.tokenizer.id_to_token(number) for number in numbers[0]]
    assert found[-1] == "<POSITIVE>"
    assert "".join(found).replace(WORD_BEGINS, " ") == " mov r3<POSITIVE>"


def test_pieces_are_numbered_alike_each_time() -> None:
    """A training that is resumed learns its vocabulary anew."""
    rng = random.Random(0)
    rows = [
        ["".join(rng.choices("abcdefghijklmnop_0123456789", k=rng.randint(1, 7))) for _ in range(9)] for _ in range(99)
    ]
    first = Pieces.learn(rows, 400).tokenizer.to_str()
    assert all(Pieces.learn(rows, 400).tokenizer.to_str() == first for _ in range(4))


def test_code_words_hold_texts_where_they_are_used() -> None:
    rows = code_words(FUNCTIONS[0])
    assert rows[1][-1] == "malloc"
    assert "malloc" not in code_words(FUNCTIONS[0], texts=False)[1]


def test_released_texts_lose_hexadecimal_digits_and_its_vocabulary_knows_dev() -> None:
    assert without_digits("call fadd dead12 feed 12ab 123") == "call     123"
    unseen = function(99, "decades of xylophones")
    for variant, known in (("paper", False), ("released", True)):
        config = ModelConfig(**TINY, variant=variant)  # pyright: ignore[reportArgumentType]
        found = Encoder.learn(config, FUNCTIONS, [unseen])
        assert (found.words.number("xylophones") != UNKNOWN_NUMBER) == known


@pytest.mark.parametrize(
    ("variant", "order"), [("paper", ("pseudo", "code", "graph")), ("released", ("graph", "code", "pseudo"))]
)
def test_order_of_the_cross_attentions(variant: Any, order: tuple[str, ...]) -> None:
    config = ModelConfig(**TINY, variant=variant, sources=("neighbours", "graph", "pseudo", "code"))
    network = new_network(Encoder.learn(config, FUNCTIONS), 0)
    assert tuple(network.encoders) == (*order, "neighbours")
    assert tuple(new_network(encoder_of(variant=variant, sources=("code",)), 0).encoders) == ("code",)


def test_edges_go_the_ways_that_are_asked_for() -> None:
    pair = replace(FUNCTIONS[0], edges=((0, 1, 0), (1, 1, 1), (2, 0, 2), (0, 30, 0)), keys=("a", "b", "c"))
    ways = {edges: encoder_of(edges=edges).encode([pair])[0].edges for edges in ("forward", "backward", "both")}
    assert ways["forward"] == [(0, 1, 0), (2, 0, 2)]
    assert ways["backward"] == [(1, 0, 3), (0, 2, 5)]
    assert ways["both"] == ways["forward"] + ways["backward"]
    assert encoder_of(graph_length=2).encode([pair])[0].edges == [(0, 1, 0), (1, 0, 3)]


# -- the network ---------------------------------------------------------------------------------------------------


def test_no_word_depends_on_later_ones() -> None:
    encoder = encoder_of(sources=("code", "graph", "pseudo"))
    network = new_network(encoder, 0).eval()
    batch = encoder.batch(encoder.encode(FUNCTIONS[:2]))
    first = network(batch).chances
    batch["given"][:, 3:] = END_NUMBER
    second = network(batch).chances
    torch.testing.assert_close(first[:, :3], second[:, :3])
    assert not torch.allclose(first[:, 3:], second[:, 3:])
    torch.testing.assert_close(first.exp().sum(-1), torch.ones(first.shape[:2]))


def test_what_is_copied_has_chances_that_sum_to_one() -> None:
    torch.manual_seed(0)
    head = CopyHead(8, 5)
    looked = torch.rand(2, 3, 4).softmax(-1)
    copied = torch.tensor([[4, 6, 6, 2], [5, 1, 2, 3]])
    chances = head(torch.randn(2, 3, 8), looked, copied, 7).exp()
    torch.testing.assert_close(chances.sum(-1), torch.ones(2, 3))
    assert torch.all(chances[0, :, 5] < 1e-30)  # nobody knows it in this row
    assert torch.all(chances[0, :, 6] > 0)


def test_a_word_that_only_neighbours_know_can_be_learnt_and_is_lost_without_them() -> None:
    known = function(77, "releases the zeppelin of a list")
    asked = function(78, "releases the zeppelin of a list")
    encoder = encoder_of(sources=("code", "neighbours"))
    row = encoder.encode([asked], [[Neighbour(known, 0.9)]])[0]
    size = len(encoder.words)
    assert row.extra == ["releases", "zeppelin"]
    assert row.target[:3] == [size, encoder.words.number("the"), size + 1]
    alone = encoder.encode([asked], [[]])[0]
    assert alone.extra == []
    assert alone.target[0] == UNKNOWN_NUMBER
    network = new_network(encoder, 0)
    batch = encoder.batch([row, alone])
    loss = network.loss(network(batch), batch)
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_loss_is_that_of_the_released_code() -> None:
    encoder = encoder_of()
    network = new_network(encoder, 0)
    batch = encoder.batch(encoder.encode(FUNCTIONS[:3]))
    said = network(batch)
    by_hand = 0.0
    for row, target in enumerate(batch["target"].tolist()):
        by_hand -= sum(float(said.chances[row, place, word].detach()) for place, word in enumerate(target) if word != 0)
    assert float(network.loss(said, batch).detach()) == pytest.approx(by_hand / 3, rel=1e-5)


def test_batches_are_decided_by_seed_and_epoch() -> None:
    encoder = encoder_of()
    rows = encoder.encode(FUNCTIONS)

    def order(seed: int, epoch: int) -> list[list[int]]:
        return [batch["target"][:, 0].tolist() for batch in encoder.batches(rows, 3, seed).epoch(epoch)]

    assert order(0, 1) == order(0, 1)
    assert len({str(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    assert sorted(word for words in order(0, 0) for word in words) == sorted(row.target[0] for row in rows)
    assert len(encoder.batches(rows, 3, 0)) == len(order(0, 0))


def test_sentences_are_put_together_for_people() -> None:
    assert sentence_of(["returns", "1", "(", "or", "0", ")", ",", "see", "a", "."]) == "returns 1 (or 0), see a."
    assert Words.of([["b", "a"], ["a"]], least=2).known[4:] == ("a",)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sources": ()}, "at least one"),
        ({"sources": ("code", "code")}, "each once"),
        ({"d": 10, "heads": 4}, "cannot be divided"),
    ],
)
def test_settings_that_fit_no_network(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**settings)


def test_the_papers_network_has_the_released_sizes() -> None:
    """Released `configs/*/O1_test10_cszx.yaml`: d 512, ff 2048, 6 layers, 8 heads."""
    config = ModelConfig()
    sizes = (config.d, config.inner, config.layers, config.heads, config.graph_layers, config.dropout)
    assert sizes == (512, 2048, 6, 8, 2, 0.2)
    with torch.device("meta"):
        network = SummaryNetwork(config, encoder_of())
    crosses = network.decoder.layers[0].crosses
    assert len(network.decoder.layers) == 6
    assert len(crosses) == 3  # pyright: ignore[reportArgumentType]
