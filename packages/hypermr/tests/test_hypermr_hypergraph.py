"""Hyperedges of questions and of knowledge."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypermr.data.knowledge_base import KnowledgeBase
from hypermr.hypergraph.ngrams import ngrams
from hypermr.hypergraph.walks import Walk, WalkRules, walks_from
from mpo_core.errors import UsageError

TRIPLES = st.lists(
    st.tuples(st.sampled_from("abcde"), st.sampled_from("xyz"), st.sampled_from("abcde")), min_size=1, max_size=14
)


def all_walks(kb: KnowledgeBase, start: int, rules: WalkRules) -> list[Walk]:
    """By trying every sequence of edges of the whole knowledge base."""
    edges = [(subject, relation, target) for subject, out in enumerate(kb.edges) for relation, target in out]
    found = []
    for hops in range(rules.least_hops, rules.hops + 1):
        for steps in product(edges, repeat=hops):
            joined = all(one[2] == two[0] for one, two in pairwise(steps))
            back = any(one[0] == two[2] for one, two in pairwise(steps))
            if steps[0][0] == start and joined and (rules.turn_back or not back):
                found.append(Walk((start, *(step[2] for step in steps)), tuple(step[1] for step in steps)))
    return found


@given(TRIPLES, st.booleans(), st.sampled_from([(1, 1), (1, 2), (2, 2), (1, 3)]))
def test_walks_are_those_of_a_search_through_everything(triples, turn_back, hops):
    kb = KnowledgeBase.of(triples)
    rules = WalkRules(least_hops=hops[0], hops=hops[1], turn_back=turn_back)
    for start in range(len(kb.entities)):
        sample = walks_from(kb, start, rules)
        assert sorted(sample.walks, key=str) == sorted(all_walks(kb, start, rules), key=str)
        assert sample.total == len(sample.walks) == len(set(sample.walks))
        assert [len(walk.relations) for walk in sample.walks] == sorted(len(walk.relations) for walk in sample.walks)


@given(TRIPLES, st.booleans(), st.integers(1, 6), st.integers(0, 50))
def test_a_capped_sample_is_part_of_all_walks_at_its_places(triples, turn_back, cap, seed):
    kb = KnowledgeBase.of(triples)
    whole = walks_from(kb, 0, WalkRules(turn_back=turn_back))
    sample = walks_from(kb, 0, WalkRules(turn_back=turn_back, cap=cap, seed=seed))
    assert len(sample.walks) == min(cap, whole.total) == len(set(sample.places))
    assert sample.total == whole.total
    assert sample.walks == tuple(whole.walks[place] for place in sample.places)


def test_every_walk_is_as_likely_as_any_other():
    kb = KnowledgeBase.of([("a", "x", "b"), ("a", "x", "c"), ("b", "y", "a"), ("b", "y", "c"), ("b", "z", "b")])
    total = walks_from(kb, 0, WalkRules()).total
    drawn = Counter(place for seed in range(3000) for place in walks_from(kb, 0, WalkRules(cap=2, seed=seed)).places)
    expected = 2 * 3000 / total
    chi_square = sum((drawn[place] - expected) ** 2 / expected for place in range(total))
    assert total == 10
    assert chi_square < 34  # 9 degrees of freedom, p < 1e-4


def test_many_more_walks_than_can_be_listed_are_sampled():
    names = [f"n{number}" for number in range(40)]
    kb = KnowledgeBase.of((one, "to", two) for one in names for two in names)
    sample = walks_from(kb, 0, WalkRules(hops=12, cap=20))
    assert sample.total == sum(40**hops for hops in range(1, 13))
    assert len(sample.walks) == 20
    assert sample.reason().startswith("20 of 17")
    assert sample.reason().endswith("walks of 1 to 12 relations, drawn with seed 0")


def test_reasons_and_names():
    kb = KnowledgeBase.of([("ann", "child", "ben"), ("ben", "spouse", "ann")])
    sample = walks_from(kb, 0, WalkRules(hops=2, turn_back=False))
    assert sample.reason() == "all 1 walks of 1 to 2 relations, none straight back"
    assert sample.walks[0].text(kb) == "ann -child-> ben"
    assert sample.walks[0].end == kb.entity("ben")
    nowhere = KnowledgeBase.of([("ann", "child", "ben")])
    assert walks_from(nowhere, 1, WalkRules()).walks == ()


@pytest.mark.parametrize("choices", [{"hops": 0}, {"least_hops": 3, "hops": 2}, {"cap": 0}])
def test_rules_that_cannot_be(choices):
    with pytest.raises(UsageError):
        WalkRules(**choices)


@given(st.lists(st.text(min_size=1), max_size=12), st.integers(1, 5))
def test_ngrams_cover_every_token(tokens, n):
    found = ngrams(tokens, n)
    assert [token for gram in found for token in gram[:1]] == tokens[: max(0, len(tokens) - n + 1)] or len(tokens) < n
    assert {token for gram in found for token in gram} == set(tokens)
    assert all(len(gram) == min(n, len(tokens)) for gram in found)
