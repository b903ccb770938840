from __future__ import annotations

import math
import random
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from cp_bcs.baselines import BASELINES, consensus
from cp_bcs.config import DataConfig
from cp_bcs.data.loading import load_split
from cp_bcs.data.pairs import Pair, write_pairs
from cp_bcs.evaluate import judge_summaries
from cp_bcs.meteor import meteor
from cp_bcs.metrics import corpus_bleu, rouge_l, sentence_bleu, words
from cp_bcs.retrieval import Index
from mpo_core.errors import InputFileError, MissingPartError, UsageError


def pair(number: int, keys: tuple[str, ...], sentence: str, texts: tuple[tuple[int, str], ...] = ()) -> Pair:
    return Pair("p", f"{number % 5}.c", number, f"f{number}", "x64", "O2", number, sentence, keys, texts, ())


RNG = random.Random(0)
OPCODES = [f"op{n}" for n in range(40)]
KNOWN = [
    pair(n, tuple(RNG.choice(OPCODES) for _ in range(30)), f"does thing number {n}", ((0, f"text {n}"),))
    for n in range(120)
]


# -- metrics -------------------------------------------------------------------------------------------------------


def test_sentence_bleu_by_hand() -> None:
    assert sentence_bleu(words("a b c d e"), words("a b c d e")) == 1
    # 1-grams 4 of 5, 2-grams 2 of 4, 3-grams 1 of 3, 4-grams 0 of 2; each with one added
    expected = (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert sentence_bleu(["a", "b", "c", "x", "e"], ["a", "b", "c", "d", "e"]) == pytest.approx(expected, abs=1e-12)
    # half as long: exp(1 - 4 / 2); orders that do not occur count as one of one
    expected = (3 / 3 * 2 / 2 * 1 * 1) ** 0.25 * math.exp(1 - 2)
    assert sentence_bleu(["a", "b"], ["a", "b", "c", "d"]) == pytest.approx(expected, abs=1e-12)
    assert sentence_bleu([], ["a"]) == 0
    assert sentence_bleu(["a"], []) == 0


def test_counts_are_clipped_by_the_reference() -> None:
    expected = (2 / 4 * 1 / 3 * 1 / 2 * 1 / 1) ** 0.25
    assert sentence_bleu(["the", "the", "the"], ["the", "cat", "sat"]) == pytest.approx(expected, abs=1e-12)


def test_rouge_l_by_hand() -> None:
    precision, recall, beta = 3 / 4, 3 / 5, 1.2
    expected = (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    assert rouge_l(["a", "x", "c", "e"], ["a", "b", "c", "d", "e"]) == pytest.approx(expected, abs=1e-12)
    assert rouge_l(["x", "y"], ["a", "b"]) == 0
    assert rouge_l([], ["a"]) == 0
    assert rouge_l(["a", "b"], ["a", "b"]) == pytest.approx(1)


def test_corpus_bleu_is_sacrebleus_and_signed() -> None:
    score, signature = corpus_bleu(["Count the words of a text"], ["count the words of a text"])
    assert score == pytest.approx(1)
    assert "case:lc" in signature
    assert "version:" in signature


NO_METEOR = find_spec("pycocoevalcap") is None or shutil.which("java") is None


@pytest.mark.slow
@pytest.mark.skipif(NO_METEOR, reason="no METEOR (cp-bcs[meteor]) or no Java")
def test_meteor_is_that_of_its_authors() -> None:
    made = ["frees the list", "the cat sat on the mat", "", "words"]
    written = ["frees the list", "on the mat sat the cat", "nothing", "a\nnew line"]
    same, moved, empty, line = meteor(made, written)
    assert same == pytest.approx(1.0)
    assert moved == pytest.approx(0.4776696620223255, abs=1e-12)
    assert empty == line == 0
    judged = judge_summaries(made, written, with_meteor=True)
    assert judged.meteor == pytest.approx((same + moved) / 4)


def test_what_meteor_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert meteor([], []) == []
    with pytest.raises(ValueError, match="one reference for each"):
        meteor(["a"], [])
    monkeypatch.setattr("cp_bcs.meteor.find_spec", lambda name: None)
    with pytest.raises(MissingPartError, match=r"cp-bcs\[meteor\]"):
        judge_summaries(["a"], ["b"], with_meteor=True)


def test_judging_is_one_with_one() -> None:
    judged = judge_summaries(["Frees the list", "x y z"], ["frees the list", "a b c"])
    assert judged.each[0] == 1
    assert judged.bleu == pytest.approx(np.mean(judged.each))
    with pytest.raises(ValueError, match="zip"):
        judge_summaries(["a"], ["a", "b"])


# -- retrieval -----------------------------------------------------------------------------------------------------


def test_a_known_function_is_its_own_neighbour() -> None:
    index = Index(KNOWN)
    for found, asked in zip(index.search(KNOWN, k=3), KNOWN, strict=True):
        assert found[0].pair == asked
        assert found[0].similarity == pytest.approx(1)
        assert found[0].similarity >= found[1].similarity >= found[2].similarity >= 0


def test_cosines_are_those_of_plain_tf_idf() -> None:
    """Against TF-IDF written out: (1 + ln tf)(1 + ln((1 + n) / (1 + df))), normalised."""
    known = [pair(n, tuple("ab" * n + "c"), "s") for n in range(1, 5)]

    def described(p: Pair) -> list[str]:
        return [*p.keys, *(f"{a} ; {b}" for a, b in zip(p.keys[:-1], p.keys[1:], strict=True))]

    vocabulary = sorted({f for p in known for f in described(p)})
    df = {f: sum(f in described(p) for p in known) for f in vocabulary}

    def vector(p: Pair) -> np.ndarray:
        counts = [described(p).count(f) for f in vocabulary]
        weights = [
            (1 + math.log(c)) * (1 + math.log((1 + len(known)) / (1 + df[f]))) if c else 0.0
            for c, f in zip(counts, vocabulary, strict=True)
        ]
        return np.array(weights) / np.linalg.norm(weights)

    found = Index(known).search([known[1]], k=4)[0]
    for each in found:
        assert each.similarity == pytest.approx(vector(known[1]) @ vector(each.pair), abs=1e-12)


def test_hidden_texts_do_not_count() -> None:
    asked = replace(KNOWN[3], texts=((0, "text 99"),), keys=("unseen",))
    assert Index(KNOWN).search([asked], k=1)[0][0].pair == KNOWN[99]
    assert Index(KNOWN, texts=False).search([asked], k=1)[0][0].similarity == 0


def test_an_index_is_saved_and_read_back(tmp_path: Path) -> None:
    index = Index(KNOWN[:60])
    index.save(tmp_path)
    again = Index.load(tmp_path)
    before, after = index.search(KNOWN, k=4), again.search(KNOWN, k=4)
    assert [[n.pair.line for n in row] for row in before] == [[n.pair.line for n in row] for row in after]
    np.testing.assert_allclose(
        [[n.similarity for n in row] for row in before], [[n.similarity for n in row] for row in after], atol=1e-12
    )
    (tmp_path / "vocabulary.json").write_text("{}")
    with pytest.raises(InputFileError, match="holds no index"):
        Index.load(tmp_path)
    with pytest.raises(InputFileError, match="cannot be read"):
        Index.load(tmp_path / "none")
    with pytest.raises(UsageError, match="at least one"):
        Index([])


# -- baselines and data --------------------------------------------------------------------------------------------


def test_baselines_say_one_sentence_for_each_function() -> None:
    train, asked = KNOWN[:100], KNOWN[100:]
    for name, summarizer in BASELINES.items():
        said = summarizer(train, asked, 3)
        assert len(said) == len(asked), name
        assert set(said) <= {p.sentence for p in train}, name
        assert said == summarizer(train, asked, 3), name
    often = [*train, replace(train[5], line=999)]
    assert set(BASELINES["most-common"](often, asked, 0)) == {train[5].sentence}
    assert BASELINES["nearest"](train, train[:7], 0) == [p.sentence for p in train[:7]]
    assert BASELINES["random"](train, asked, 1) != BASELINES["random"](train, asked, 2)


def test_the_dev_part_says_how_much_nearer_functions_count() -> None:
    train, dev, asked = KNOWN[:80], KNOWN[80:100], KNOWN[100:]

    def score(said: list[str], written: list[Pair]) -> float:
        return judge_summaries(said, [pair.sentence for pair in written]).bleu

    # Judged on the functions that decide, no fixed power can be better.
    best = score(consensus(train, dev, 0, dev), dev)
    assert best >= score(consensus(train, dev, 0), dev)
    assert best >= score(BASELINES["nearest"](train, dev, 0), dev) - 0.02
    assert len(consensus(train, asked, 0, dev)) == len(asked)


def test_corpora_come_from_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cp-bcs" / "p-x64-O2"
    folder.mkdir(parents=True)
    (folder / "pairs.jsonl").write_bytes(write_pairs(KNOWN))
    monkeypatch.setenv("MPO_DATA", str(tmp_path))
    split = load_split(DataConfig(name="corpora", split="deduplicated"), 1)
    assert split.name == "deduplicated-1"
    assert len(split.train) + len(split.dev) + len(split.test) == len(KNOWN)
    with pytest.raises(InputFileError, match="arm at O2"):
        load_split(DataConfig(name="corpora", architecture="arm"), 1)
    with pytest.raises(InputFileError, match="of q"):
        load_split(DataConfig(name="corpora", projects=("q",)), 1)
    monkeypatch.setenv("MPO_DATA", str(folder))
    with pytest.raises(InputFileError, match="holds no corpus"):
        load_split(DataConfig(name="corpora"), 1)
    monkeypatch.delenv("MPO_DATA")
    with pytest.raises(UsageError, match="--data-dir"):
        load_split(DataConfig(name="corpora"), 1)
