from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cp_bcs.binary.program import Program
from cp_bcs.config import DataConfig
from cp_bcs.data.compiling import Twins
from cp_bcs.data.pairs import Pair
from cp_bcs.metrics import sentence_bleu, words
from cp_bcs.retrieval import Index, Neighbour, features
from cp_bcs.summaries.answering import answer
from cp_bcs.summaries.calibrating import calibrate, default_calibration, hold_out, judge_trust, lowest_threshold
from cp_bcs.summaries.calibration import SIGNALS, Calibration, copies_of, fit, signals
from cp_bcs.summaries.call_order import bottom_up
from cp_bcs.summaries.consensus import RetrievalSummarizer, agree
from cp_bcs.summaries.survey import survey
from cp_bcs.summaries.trust_study import measure_trust
from mpo_core.errors import InputFileError, UsageError

RNG = random.Random(1)
OPCODES = [f"op{n}" for n in range(60)]


def pair(project: str, number: int, keys: tuple[str, ...], sentence: str, *texts: tuple[int, str]) -> Pair:
    exact = " ".join(keys)
    return Pair(
        project, f"{number}.c", number, f"f{number}", "x64", "O2", number, sentence, keys, texts, (), exact=exact
    )


def keys(count: int = 30) -> tuple[str, ...]:
    return tuple(RNG.choice(OPCODES) for _ in range(count))


WORDS = (
    "reads",
    "writes",
    "frees",
    "sorts",
    "a",
    "the",
    "list",
    "tree",
    "file",
    "header",
    "of",
    "all",
    "every",
    "node",
)
SHARED = [(keys(), " ".join(RNG.choice(WORDS) for _ in range(8))) for _ in range(10)]
PROJECTS = [
    pair(project, n, body, sentence)
    for project in "abcdef"
    for n, (body, sentence) in enumerate(
        [*SHARED, *((keys(), f"{project} " + " ".join(RNG.choice(WORDS) for _ in range(8))) for _ in range(15))]
    )
]
"""Six projects, each with ten functions that all have and fifteen of its own: code that tells nothing."""


# -- drafts --------------------------------------------------------------------------------------------------------


def test_neighbours_agree_on_the_sentence_of_least_risk() -> None:
    said = ["frees the list", "sorts every node of a tree", "frees the whole list", "frees the list of nodes"]
    near = [
        Neighbour(pair("a", n, keys(), s), similarity)
        for n, (s, similarity) in enumerate(zip(said, (0.5, 0.6, 0.5, 0.4), strict=True))
    ]
    gains = [
        sum(each.similarity**2 * sentence_bleu(words(one), words(each.pair.sentence)) for each in near) for one in said
    ]
    total = sum(each.similarity**2 for each in near)
    chosen, agreement = agree(near, 2)
    assert chosen is near[int(np.argmax(gains))]
    assert chosen is not near[1]
    assert agreement == pytest.approx(max(gains) / total, abs=1e-12)
    assert agree(near, 200)[0] is near[1]
    assert agree([replace(each, similarity=0.0) for each in near]) == (None, 0.0)
    assert agree([]) == (None, 0.0)


def test_functions_known_by_name_alone_are_evidence_and_no_source() -> None:
    bare = pair("named", 99, SHARED[0][0], "")
    index = Index([*PROJECTS[:25], bare])
    (draft,) = RetrievalSummarizer(index).summarize([replace(bare, project="asked")])
    assert bare in [near.pair for near in draft.neighbours if near.similarity > 0.99]
    assert draft.sentence == SHARED[0][1]
    assert all(near.pair.sentence for near in index.search([bare], 40, documented=True)[0])
    (nothing,) = RetrievalSummarizer(Index([bare])).summarize([bare])
    assert nothing.sentence == ""
    assert nothing.source is not None
    (said,) = answer(RetrievalSummarizer(Index([bare])), default_calibration(), [bare], {})
    assert (said.summary, said.confidence, said.shown) == (None, None, False)


def test_highlights_are_the_parts_of_the_cosine() -> None:
    """Undone from their scale they add up to the similarity, and what the other lacks gets nothing."""
    known = pair("a", 1, ("x", "y", "x", "z"), "s", (1, "text"))
    asked = pair("b", 2, ("x", "y", "unseen", "x"), "", (1, "text"))
    index = Index([known, pair("a", 3, ("q", "r"), "t")])
    shares = index.shared(asked, known)
    assert shares[2] == 0
    assert max(shares) == shares[1] == 1  # y, x ; y and the text
    both = index._vectorizer.transform([features(asked), features(known)])
    products = both[0].multiply(both[1]).toarray().ravel()
    part = dict(zip(index._feature_names, products, strict=True))
    at_y = part["y"] + part["x ; y"] / 2 + part["text text"]
    assert shares[0] == pytest.approx((part["x"] / 2 + part["x ; y"] / 2) / at_y)
    assert sum(shares) * at_y == pytest.approx(index.search([asked], 1)[0][0].similarity)


# -- confidence ----------------------------------------------------------------------------------------------------


def test_signals_of_a_copy_and_of_nothing() -> None:
    known = pair("a", 1, ("x", "y", "z", "z"), "s", (0, "one"), (1, "two"))
    seen = dict(zip(SIGNALS, signals(replace(known, sentence=""), Neighbour(known, 1.0), 0.75, 2), strict=True))
    assert seen == {
        "similarity": 1.0,
        "common instructions": 1.0,
        "size": math.log(4),
        "same code": 1.0,
        "common texts": 2.0,
        "copies": math.log(2),
        "agreement": 0.75,
    }
    assert signals(known, None, 0.0, 1) == (0.0, 0.0, math.log(4), 0.0, 0.0, 0.0, 0.0)


def test_the_threshold_is_the_lowest_that_reaches_the_target() -> None:
    rng = np.random.default_rng(3)
    for _ in range(60):
        confidences = np.round(rng.uniform(0.5, 1, 60), 2)  # with ties
        right, own = rng.uniform(size=60) < confidences**2, rng.uniform(size=60) < 0.4

        def fits(limit: float) -> bool:
            shown = confidences >= limit  # noqa: B023 (called at once)
            return bool(
                right[shown].mean() >= 0.8  # noqa: B023
                and (not (shown & own).any() or right[shown & own].mean() >= 0.8)  # noqa: B023
            )

        expected = [limit for limit in sorted(set(confidences.tolist())) if limit >= 0.8 and fits(limit)]
        assert lowest_threshold(confidences, right, own, fewest=1) == (expected[0] if expected else None)
    assert lowest_threshold(np.full(9, 0.9), np.zeros(9, bool), np.zeros(9, bool), fewest=1) is None
    few, none = np.array([0.95, 0.6, 0.5, 0.4]), np.zeros(4, bool)
    assert lowest_threshold(few, np.array([True, False, False, False]), none) is None
    assert lowest_threshold(np.full(20, 0.9), np.ones(20, bool), np.zeros(20, bool)) == 0.9
    assert lowest_threshold(np.full(19, 0.9), np.ones(19, bool), np.zeros(19, bool)) is None


def test_the_fit_is_that_of_the_logistic_function_itself() -> None:
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(20_000, len(SIGNALS)))
    truth = np.linspace(-1, 1, len(SIGNALS))
    right = rng.uniform(size=20_000) < 1 / (1 + np.exp(-(seen @ truth + 0.5)))
    weights, bias = fit(seen, right, np.ones(20_000))
    assert [weights[name] for name in SIGNALS] == pytest.approx(truth, abs=0.08)
    assert bias == pytest.approx(0.5, abs=0.08)
    learned = Calibration(weights, bias, 0.8, ("a",), 9)
    assert learned.confidence(seen[0]) == pytest.approx(1 / (1 + math.exp(-(seen[0] @ truth + 0.5))), abs=0.08)
    never, bias = fit(seen[:8], np.zeros(8, bool), np.ones(8))
    assert Calibration(never, bias, None, (), 8).confidence(seen[0]) == pytest.approx(0.1)


def test_a_calibration_is_written_and_read_back() -> None:
    own = default_calibration()
    assert own.functions > 4000
    assert len(own.projects) == 12
    assert own.threshold is not None
    assert own.threshold >= 0.8
    assert Calibration.from_json(own.to_json(), "x") == own
    without = replace(own, threshold=None)
    assert Calibration.from_json(without.to_json(), "x") == without
    copy, other = (1.0, 1, 3, 1, 0, 0, 1), (0.99, 1, 3, 0, 0, 0, 1)
    assert without.shows(copy, 0.1)
    assert not without.shows(other, 0.99)
    for damage in ({"weights": {}}, {"bias": "much"}, {"bias": math.nan}, {"threshold": []}, {"projects": None}):
        with pytest.raises(InputFileError, match="calibration"):
            Calibration.from_json(own.to_json() | damage, "the file")


def test_shared_functions_are_trusted_and_own_ones_are_not() -> None:
    known = [each for each in PROJECTS if each.project != "f"]
    asked = [each for each in PROJECTS if each.project == "f"]
    judged = judge_trust(known, asked)
    assert judged.n == 25
    assert judged.own_n == 15
    assert judged.shown == 10 / 25
    assert judged.right == 1
    assert judged.own_shown == 0
    assert judged.own_right is None
    assert [shown for _, _, shown in judged.each] == [True] * 10 + [False] * 15
    answers = answer(RetrievalSummarizer(Index(known)), calibrate(hold_out(Index(known))), asked, copies_of(asked))
    assert [each.summary for each in answers[:10]] == [sentence for _, sentence in SHARED]


def test_held_out_functions_never_see_their_own_project() -> None:
    held = hold_out(Index(PROJECTS))
    assert len(held) == len(PROJECTS)
    place = SIGNALS.index("same code")
    assert all(each.own != (each.signals[place] == 1) for each in held)
    assert not any(each.own for number, each in enumerate(held) if number % 25 < 10)


def test_the_study_holds_out_projects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cp_bcs.summaries.trust_study.load_pairs", lambda config: PROJECTS)
    with pytest.raises(UsageError, match="not by the split 'random'"):
        measure_trust(DataConfig(), 0)
    with pytest.raises(UsageError, match="no project 'z' to hold out; there are a, b, c"):
        measure_trust(DataConfig(split="project-z"), 0)
    outcome = measure_trust(DataConfig(split="project-f"), 0)
    assert outcome.metrics["shown"].value == 10 / 25
    assert outcome.metrics["right"].n == 10


# -- the order -----------------------------------------------------------------------------------------------------


def test_callees_come_before_callers() -> None:
    calls = {1: [2, 3], 2: [4], 3: [4, 3], 4: [], 5: [6], 6: [7, 4], 7: [5, 99], 8: []}
    levels = bottom_up(calls)
    assert levels == [[4, 8], [2, 3, 5, 6, 7], [1]]
    assert bottom_up({}) == []
    assert bottom_up({3: [], 1: [2]}) == [[3, 1]]
    rng = random.Random(0)
    for _ in range(30):
        graph = {n: [rng.randrange(25) for _ in range(rng.randrange(3))] for n in range(25)}
        level = {each: number for number, row in enumerate(bottom_up(graph)) for each in row}
        assert sorted(level) == list(range(25))
        reach = {n: _reached(graph, n) for n in graph}
        for n, called in graph.items():
            for callee in called:
                assert level[callee] == level[n] if n in reach[callee] else level[callee] < level[n]


def _reached(graph: dict[int, list[int]], start: int) -> set[int]:
    found, waiting = {start}, [start]
    while waiting:
        new = set(graph[waiting.pop()]) - found
        found |= new
        waiting += new
    return found


RECURSIVE = """
static __attribute__((noinline)) int leaf(int n) { return n * 3 + (n >> 2); }
__attribute__((noinline)) int odd(int n);
__attribute__((noinline)) int even(int n) { return n > 9 ? odd(n - leaf(n)) + 1 : 1; }
__attribute__((noinline)) int odd(int n) { return n > 7 ? even(n - 2) * 5 : 0; }
int top(int n) { return even(n) + odd(n + 1) + leaf(n); }
"""


def test_a_real_binary_with_recursion_is_ordered(compile_c: Callable[..., Twins]) -> None:
    program = Program.read(compile_c(RECURSIVE, "recursive", "x64", "-fno-inline", "-Wl,-Bsymbolic").unstripped)
    names = {each.address: each.name for each in program.functions}
    found = survey(program)
    levels = bottom_up({address: list(each.called) for address, each in found.items()})
    level = {names[address]: number for number, row in enumerate(levels) for address in row}
    assert level["leaf"] < level["even"] == level["odd"] < level["top"]
