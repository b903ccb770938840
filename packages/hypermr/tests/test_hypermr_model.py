"""The network: curvatures that count, forms that agree, masks, heads, and the encoding that feeds them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from hypermr.answer import Answerer, make_answerer
from hypermr.config import DataConfig, ModelConfig
from hypermr.data.hierarchies import HierarchyConfig, generate_hierarchy
from hypermr.data.knowledge_base import KnowledgeBase
from hypermr.data.questions import TOPIC, Question, QuestionSet, tokenize
from hypermr.hypergraph.encoding import ABSENT, Vocabulary, relation_words
from hypermr.hypergraph.hyperedges import Hypergraphs
from hypermr.hypergraph.negatives import with_negatives
from hypermr.hypergraph.walks import WalkRules
from hypermr.inspection import look_inside
from hypermr.layers import Attention, Ledger, SharedDropout, ToSpace
from hypermr.manifold import Euclidean, Lorentz, space_of
from hypermr.method import Curvatures, there_and_back
from hypermr.model import PassedEntities
from mpo_core.errors import UsageError
from mpo_core.repro.training import Batch

SMALL: dict[str, Any] = {"d": 8, "heads": 2, "stages": 2, "dropout": 0.0}
DATA = DataConfig(name="hierarchy")


@pytest.fixture(scope="module")
def data() -> QuestionSet:
    return generate_hierarchy(HierarchyConfig(depth=3, branching=3, noise=0.2, questions=40))


def answerer_of(data: QuestionSet, seed: int = 0, **options: Any) -> Answerer:
    torch.manual_seed(seed)
    labels = sorted({question.label for question in data.questions if question.label})
    vocabulary = Vocabulary.of(data.questions, data.kb)
    return make_answerer(ModelConfig(**{**SMALL, **options}), DATA, data.kb, vocabulary, labels, hops=3)


def batch_of(answerer: Answerer, data: QuestionSet, count: int = 12, dtype: torch.dtype = torch.float64) -> Batch:
    batch = answerer.encoder.batch([answerer.encoder.encode(question) for question in data.questions[:count]])
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in batch.items()}


def curvatures_of(answerer: Answerer) -> Curvatures:
    return next(module for module in answerer.model.modules() if isinstance(module, Curvatures))


def outputs(answerer: Answerer, batch: Batch) -> torch.Tensor:
    answerer.model.double().eval()
    return answerer.model(batch)


@pytest.mark.parametrize("head", ["pointer", "closed"])
@pytest.mark.parametrize("attention", ["distance", "dot"])
def test_the_papers_form_is_the_flat_network(data, attention, head):
    """exp0 and log0 undo each other: whatever the curvatures, the tangent form computes what flat space does."""
    options: dict[str, Any] = {"attention": attention, "head": head, "stage_relu": True, "entities": "ids"}
    flat, tangent = (answerer_of(data, geometry=geometry, **options) for geometry in ("euclidean", "tangent"))
    batch = batch_of(flat, data)
    wanted = outputs(flat, batch)
    for start in (0.2, 1.0, 3.0):
        with torch.no_grad():
            curvatures_of(tangent).raw.fill_(start)
        torch.testing.assert_close(outputs(tangent, batch), wanted, rtol=1e-12, atol=1e-12)
    gradients = look_inside(tangent, data.questions).gradients
    assert max(map(abs, gradients)) < 1e-12


@pytest.mark.parametrize("curvature", ["learned-per-stage", "shared", "fixed"])
@pytest.mark.parametrize("geometry", ["lorentz", "poincare"])
@pytest.mark.parametrize("head", ["pointer", "closed"])
def test_every_curvature_counts_in_hyperbolic_space(data, geometry, curvature, head):
    answerer = answerer_of(data, geometry=geometry, curvature=curvature, head=head)
    inside = look_inside(answerer, data.questions)
    assert len(inside.gradients) == SMALL["stages"] + 1
    assert min(map(abs, inside.gradients)) > 1e-9
    assert inside.curvatures == pytest.approx([1.0] * 3)
    assert inside.clipped == 0
    assert sum(inside.radii) == pytest.approx(1, abs=1e-4)
    trained = {name for name, parameter in answerer.model.named_parameters() if "curvatures" in name}
    assert trained == (set() if curvature == "fixed" else {"network.curvatures.raw"})


def test_the_gradient_of_a_curvature_is_the_slope_of_the_loss(data):
    answerer = answerer_of(data)
    gradients = look_inside(answerer, data.questions[:12]).gradients
    batch = batch_of(answerer, data)
    answerer.model.double()
    for stage, wanted in enumerate(gradients):
        losses = []
        for shift in (-1e-5, 1e-5):
            with curvatures_of(answerer).watch() as curvatures, torch.no_grad():
                curvatures[stage] += shift
                losses.append(answerer.model.loss(outputs(answerer, batch), batch).item())
        assert (losses[1] - losses[0]) / 2e-5 == pytest.approx(wanted, rel=1e-3, abs=1e-7)


def test_hyperboloid_and_ball_give_one_network(data):
    one, two = (answerer_of(data, geometry=geometry) for geometry in ("lorentz", "poincare"))
    batch = batch_of(one, data)
    torch.testing.assert_close(outputs(one, batch), outputs(two, batch), rtol=1e-9, atol=1e-9)


def test_small_curvature_gives_the_twin_in_flat_space(data):
    hyperbolic = answerer_of(data, geometry="lorentz", start_curvature=1e-9, curvature="fixed")
    flat = answerer_of(data, geometry="euclidean")
    own = dict(flat.model.named_parameters())
    for name, parameter in hyperbolic.model.named_parameters():
        assert torch.equal(parameter, own[name])  # the same start
    batch = batch_of(flat, data)
    torch.testing.assert_close(outputs(hyperbolic, batch), outputs(flat, batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("maps", ["released-hyperboloid", "released-ball"])
def test_the_released_maps_do_not_undo_each_other(data, maps):
    c = torch.ones(1, dtype=torch.float64)
    lengths = torch.tensor([0.01, 1.0, 4.0, 16.0], dtype=torch.float64)
    u = lengths.unsqueeze(1) * torch.nn.functional.normalize(torch.ones(4, 3, dtype=torch.float64), dim=-1)
    factors = there_and_back(u, c, maps).norm(dim=-1) / lengths
    # as measured on the released code
    wanted = [0.1] * 4 if maps == "released-hyperboloid" else [1.10, 0.93, 0.32, 0.08]
    assert factors.tolist() == pytest.approx(wanted, abs=0.006)
    torch.testing.assert_close(there_and_back(u, c), u, rtol=1e-12, atol=1e-12)
    options: dict[str, Any] = {"geometry": "tangent", "attention": "dot"}
    released, exact = answerer_of(data, maps=maps, **options), answerer_of(data, **options)
    batch = batch_of(exact, data)
    assert not torch.allclose(outputs(released, batch), outputs(exact, batch), atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"geometry": "lorentz"},
        {"geometry": "euclidean", "attention": "dot", "hyperedges": "walks", "positions": "absolute"},
        {"geometry": "poincare", "head": "closed", "entities": "ids"},
        {"network": "path-scorer"},
        {"network": "hypergraph-conv"},
        {"entities": "ids", "hyperedges": "walks", "ngram": 2, "layers": 2},
    ],
    ids=str,
)
def test_padding_changes_nothing(data, options):
    """A question alone, and the same among longer ones with more hyperedges."""
    answerer = answerer_of(data, **options)
    rows = [answerer.encoder.encode(question) for question in data.questions[:12]]
    together = [chances for _, chances in answerer.probabilities(rows)]
    for row, chances in zip(rows, together, strict=True):
        ((_, alone),) = answerer.probabilities([row])
        torch.testing.assert_close(chances[: len(alone)], alone, rtol=1e-4, atol=1e-5)
        assert chances[len(alone) :].abs().sum() == 0
        assert chances.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("network", ["hypermr", "path-scorer", "hypergraph-conv"])
@pytest.mark.parametrize("head", ["pointer", "closed"])
def test_every_network_learns_a_handful_of_questions(data, network, head):
    answerer = answerer_of(data, network=network, head=head, entities="ids", d=16)
    batch = batch_of(answerer, data, 8, torch.float32)
    model = answerer.model.train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = model.loss(model(batch), batch)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_a_topic_that_leads_nowhere_gives_no_candidates():
    kb = KnowledgeBase.of([("a", "to", "b"), ("b", "to", "c")])
    asked = [Question("what is a to", tokenize("what is a to", "a"), "a", frozenset("b"), None, "b")] * 3
    answerer = answerer_of(QuestionSet("tiny", tuple(asked), kb, {}))
    assert answerer.answer("what is c to ?").reason == "nothing leads on from 'c' in the knowledge base."
    assert answerer.answer("what is c to ?").candidates == ()
    assert "no entity" in answerer.answer("what is it ?").reason
    assert "'z' is no entity" in answerer.answer("what ?", "z").reason
    answered = answerer.answer("what is a to ?")
    assert {candidate.entity for candidate in answered.candidates} == {"b", "c"}
    assert sum(candidate.probability for candidate in answered.candidates) == pytest.approx(1)  # two ways, two ends
    # one that leads on and one that does not, in one batch, where the right answer cannot be reached
    nowhere = Question("c ?", (TOPIC, "?"), "c", frozenset("a"), None, "q")
    rows = [answerer.encoder.encode(question) for question in (asked[0], nowhere)]
    batch = answerer.encoder.batch(rows)
    assert batch["label"].tolist() == [0, ABSENT]
    loss = answerer.model.loss(answerer.model(batch), batch)
    alone = answerer.encoder.batch(rows[:1])
    torch.testing.assert_close(loss, answerer.model.loss(answerer.model(alone), alone))
    unreachable = answerer.encoder.batch(rows[1:])
    loss = answerer.model.loss(answerer.model(unreachable), unreachable)
    loss.backward()
    assert loss.item() == 0


def test_the_walk_to_a_candidate_ends_at_it():
    kb = KnowledgeBase.of([("a", "r", "b"), ("a", "r", "c"), ("a", "r", "d")])
    question = Question("a ?", (TOPIC, "?"), "a", frozenset("c"), None, "c")
    pointer = answerer_of(QuestionSet("tiny", (question,) * 3, kb, {}))
    pointer.model.train()
    for candidate in pointer.answer("a ?", "a").candidates:
        walk = pointer.walk_to(candidate)
        assert walk is not None
        assert kb.entities[walk.end] == candidate.entity
    assert pointer.model.training  # answering leaves a model as it was
    closed = answerer_of(QuestionSet("tiny", (question,) * 3, kb, {}), head="closed")
    assert closed.walk_to(closed.answer("a ?", "a").candidates[0]) is None


def test_attention_takes_the_nearest_and_gathers_midpoints():
    torch.manual_seed(0)
    for space in (Lorentz(), Euclidean()):
        layer = Attention(4, 2, space).double()
        x = torch.randn(2, 3, 4, dtype=torch.float64)
        y = torch.randn(2, 5, 4, dtype=torch.float64)
        there = torch.tensor([[True] * 5, [True, True, False, False, False]])
        c = torch.tensor(0.7, dtype=torch.float64)
        got = layer(x, y, there, c)
        queries, (keys, values) = layer.queries(x), layer.keys_values(y).chunk(2, dim=-1)
        heads = []
        for head in range(2):
            part = slice(2 * head, 2 * head + 2)
            q, k, v = (space.expmap0(each[..., part], c) for each in (queries, keys, values))
            distances = space.distance(q.unsqueeze(2), k.unsqueeze(1), c)
            scores = -distances.square() / torch.nn.functional.softplus(layer.raw_tau[head])
            weights = scores.masked_fill(~there.unsqueeze(1), -torch.inf).softmax(-1)
            heads.append(space.logmap0(space.midpoint(v, weights, c), c))
        torch.testing.assert_close(got, layer.out(torch.cat(heads, dim=-1)), rtol=1e-8, atol=1e-8)


def test_what_is_beyond_the_reach_is_pulled_back_and_counted():
    enter = ToSpace(Lorentz())
    enter.ledger = Ledger()
    u = torch.tensor([[1.0, 0.0], [50.0, 0.0], [0.0, 7.0]], requires_grad=True)
    c = torch.tensor(1.0, requires_grad=True)
    x = enter(u, c)
    assert (enter.ledger.seen, enter.ledger.clipped) == (3, 2)
    assert enter.ledger.radii[0].tolist() == pytest.approx([1.0, 50.0, 7.0])
    lengths = Lorentz().logmap0(x, c).norm(dim=-1)
    assert lengths.tolist() == pytest.approx([1.0, 6.0, 6.0], rel=1e-4)
    x.square().sum().backward()
    assert u.grad is not None
    assert c.grad is not None
    assert u.grad.isfinite().all()
    assert c.grad.isfinite()
    assert u.grad[1:].norm() < 1e-1 * u.grad[0].norm()  # along the ray nothing changes any more


@pytest.mark.parametrize("geometry", ["lorentz", "poincare"])
def test_gradients_beyond_the_reach_by_finite_differences(geometry):
    space = space_of(geometry)
    u = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 6
    u.requires_grad_()
    c = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u, c: space.expmap0(u, c, within_reach=True), (u, c), rtol=1e-4)


def test_one_mask_for_all_hyperedges():
    torch.manual_seed(0)
    dropout = SharedDropout(0.5)
    u = torch.ones(3, 4, 10)
    dropped = dropout(u)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(dropped, dropped[:, :1].expand(-1, 4, -1))
    assert not torch.equal(dropped[0], dropped[1])
    assert torch.equal(dropout.eval()(u), u)


def test_curvatures():
    for kind, numbers in (("learned-per-stage", 3), ("shared", 1), ("fixed", 0)):
        curvatures = Curvatures(3, kind, 0.25)
        assert curvatures().tolist() == pytest.approx([0.25] * 3)
        assert sum(parameter.numel() for parameter in curvatures.parameters()) == numbers


def test_relations_are_called_by_their_last_part():
    assert relation_words("place_of_birth") == ("place_of_birth",)
    assert relation_words("/people/person/gender") == ("gender", "person", "people")
    assert relation_words("^__film__film__director") == ("director", "film", "film", "^")
    assert relation_words("__") == ("__",)


@pytest.mark.parametrize(
    "relation", ["place_of_birth", "/people/person/place of birth", "placeOfBirth", "Place-Of_Birth"]
)
def test_a_question_names_a_relation_in_several_words(relation):
    kb = KnowledgeBase.of([("ann", relation, "rome"), ("ann", "child", "ben")])
    asked = [
        Question(text, tokenize(text, "ann"), "ann", frozenset(["rome"]), None, "rome")
        for text in ("what is the place of birth of ann ?", "what is the birth of ann in that place ?")
    ]
    answerer = answerer_of(QuestionSet("tiny", (*asked, asked[0]), kb, {}))
    batch = answerer.encoder.batch([answerer.encoder.encode(question) for question in asked])
    named = answerer.model.embeddings.named
    assert named is not None
    places = named.named(torch.arange(2), batch["tokens"])
    assert places[0, 0].nonzero().flatten().tolist() == [3]
    assert not places[1].any()
    assert not places[0, 1].any()


def test_hyperedges_join_walks_along_the_same_relations():
    kb = KnowledgeBase.of([("a", "r", "b"), ("a", "r", "c"), ("b", "s", "d"), ("c", "s", "d"), ("a", "s", "b")])
    together = Hypergraphs(kb, WalkRules(hops=2), together=True).around(kb.entity("a"))
    apart = Hypergraphs(kb, WalkRules(hops=2), together=False).around(kb.entity("a"))
    assert len(apart.hyperedges) == len(apart.sample.walks) == 6
    names = [tuple(kb.relations[number] for number in edge.relations) for edge in together.hyperedges]
    assert names == [("r",), ("s",), ("r", "s"), ("s", "s")]
    assert [len(edge.walks) for edge in together.hyperedges] == [2, 1, 2, 1]
    assert [[kb.entities[end] for end in edge.ends] for edge in together.hyperedges] == [
        ["b", "c"],
        ["b"],
        ["d"],
        ["d"],
    ]
    assert {walk for edge in together.hyperedges for walk in edge.walks} == set(together.sample.walks)


def test_a_hyperedge_knows_the_mean_of_what_its_walks_pass():
    torch.manual_seed(0)
    passed = PassedEntities(entities=9, hops=2, d=4)
    walks = torch.tensor([[[0, 1, 2], [3, 4, ABSENT], [5, 6, 7]], [[8, 1, ABSENT], [ABSENT] * 3, [ABSENT] * 3]])
    states = passed(walks, torch.tensor([[0, 2, 0], [1, ABSENT, ABSENT]]), 3)
    each = passed.side_by_side(passed.vectors(walks + 1).flatten(2))
    none = torch.zeros(4)
    wanted = [[(each[0, 0] + each[0, 2]) / 2, none, each[0, 1]], [none, each[1, 0], none]]
    torch.testing.assert_close(states, torch.stack([torch.stack(row) for row in wanted]))
    (gradient,) = torch.autograd.grad(states.sum(), passed.vectors.weight)
    assert gradient.any(-1).tolist() == [False, *[True] * 9]


def test_batches_are_a_function_of_seed_and_epoch(data):
    answerer = answerer_of(data)
    rows = [answerer.encoder.encode(question) for question in data.questions]
    one, two, other = (answerer.encoder.batches(rows, 7, seed) for seed in (0, 0, 1))
    assert len(one) == 6
    for epoch in range(2):
        first, second = (list(batches.epoch(epoch)) for batches in (one, two))
        assert len(first) == 6
        assert sum(len(batch["tokens"]) for batch in first) == len(rows)
        for a, b in zip(first, second, strict=True):
            assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(next(one.epoch(0))["tokens"], next(other.epoch(0))["tokens"])
    width = max(batch["tokens"].shape[1] for batch in one.epoch(0))
    counts = [sum(int((t != 0).sum()) for t in (batch["tokens"],)) for batch in one.epoch(0)]
    assert sum(counts) == sum(len(row.tokens) for row in rows)
    assert width == max(len(row.tokens) for row in rows)


def test_negatives_are_paths_of_other_questions(data):
    answerer = answerer_of(data, negatives=6)
    batch = batch_of(answerer, data)
    known = {tuple(path) for row in batch["relations"].tolist() for path in row}
    torch.manual_seed(1)
    seen = [with_negatives(batch, 6) for _ in range(50)]
    width = batch["relations"].shape[1]
    counts: list[int] = []
    for found in seen:
        assert torch.equal(found["relations"][:, :width], batch["relations"])
        assert found.keys() == batch.keys()
        for own, negatives in zip(batch["relations"].tolist(), found["relations"][:, width:].tolist(), strict=True):
            there = [tuple(path) for path in negatives if path[0] != ABSENT]
            assert known.issuperset(there)
            assert len(set(there)) == len(there)
            assert not set(there) & {tuple(path) for path in own}
            counts.append(len(there))
    assert 0 in counts
    assert max(counts) > 2
    torch.manual_seed(1)
    assert torch.equal(with_negatives(batch, 6)["relations"], seen[0]["relations"])


def test_negatives_are_wrong_answers_and_there_only_while_a_model_learns(data):
    answerer = answerer_of(data, negatives=6)
    model, batch = answerer.model, batch_of(answerer, data, dtype=torch.float32)
    width = batch["relations"].shape[1]
    model.train()
    torch.manual_seed(1)
    scores = model(batch)
    torch.manual_seed(1)
    negatives = with_negatives(batch, 6)["relations"][:, width:, 0] != ABSENT
    assert torch.equal(scores[:, width:].isfinite(), negatives)
    assert scores.shape == (12, width + 6)
    loss = model.loss(scores, batch)
    likelier = torch.cat([scores[:, :width], scores[:, width:] + 1], dim=1)
    assert model.loss(likelier, batch) > loss
    assert model.loss(scores[:, :width], batch) < loss
    assert model.eval()(batch).shape == (12, width)


@pytest.mark.parametrize("network", ["path-scorer", "hypergraph-conv"])
def test_other_networks_take_negatives_too(data, network):
    answerer = answerer_of(data, network=network, negatives=4)
    batch = batch_of(answerer, data, dtype=torch.float32)
    loss = answerer.model.loss(answerer.model.train()(batch), batch)
    loss.backward()
    assert loss.isfinite()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"d": 10, "heads": 4}, "no multiple of heads"),
        ({"geometry": "lorentz", "attention": "dot"}, "dot is for flat space"),
        ({"geometry": "lorentz", "maps": "released-ball"}, "for geometry tangent"),
        ({"start_curvature": 0.0}, "greater than 0"),
        ({"negatives": 4, "head": "closed"}, "negatives are for"),
        ({"negatives": 4, "entities": "ids"}, "negatives are for"),
        ({"curvatures": "fixed"}, "Extra inputs"),
    ],
    ids=lambda each: str(each)[:20],
)
def test_models_that_cannot_be(options, says):
    with pytest.raises(ValidationError, match=says):
        ModelConfig(**options)


def test_a_network_without_curvature_cannot_be_looked_into(data):
    with pytest.raises(UsageError, match="path-scorer has no curvature"):
        look_inside(answerer_of(data, network="path-scorer"), data.questions)


def test_all_ends_of_the_likeliest_hyperedge_come_before_others():
    """An employer of twenty is as right about each as one of one."""
    kb = KnowledgeBase.of([*(("acme", "employs", f"p{n}") for n in range(20)), ("acme", "based_in", "rome")])
    people = frozenset(f"p{n}" for n in range(20))
    asked = Question("whom does acme employ ?", tokenize("whom does acme employ ?", "acme"), "acme", people, None, "p0")
    answerer = answerer_of(QuestionSet("tiny", (asked,) * 3, kb, {}))
    row = answerer.encoder.encode(asked)
    employs = next(n for n, edge in enumerate(row.hyperedges) if kb.relations[edge.relations[0]] == "employs")
    chances = torch.full((2,), 0.1)
    chances[employs] = 0.9
    candidates = answerer.candidates_of(row, chances)
    assert {each.entity for each in candidates[:20]} == people
    assert [each.probability for each in candidates] == pytest.approx([0.9] * 20 + [0.1])


def test_of_equally_likely_answers_the_share_that_is_right_counts(data):
    from hypermr.evaluate import judge

    kb = KnowledgeBase.of([("acme", "employs", f"p{n}") for n in range(4)])
    text = "whom does acme employ ?"
    asked = Question(text, tokenize(text, "acme"), "acme", frozenset(["p1"]), None, "p1")
    judged = judge(answerer_of(QuestionSet("tiny", (asked,) * 3, kb, {})), [asked])
    assert (judged.accuracy, judged.likelihood, judged.reachable) == (0.25, 0.25, 1.0)


def test_padding_is_no_point(data):
    answerer = answerer_of(data)
    together = look_inside(answerer, data.questions[:20])
    alone = [look_inside(answerer, [question]) for question in data.questions[:20]]
    assert together.points == sum(inside.points for inside in alone)
    mean = sum(inside.radius * inside.points for inside in alone) / together.points
    assert together.radius == pytest.approx(mean, rel=1e-4)
