"""Embedded documentation text: sizes, balance, disjoint splits, determinism, and that it can be learned."""

from __future__ import annotations

import collections
import platform
import subprocess
import sys
from itertools import pairwise

import pytest

from mpo_core.repro.config import TaskConfig
from mpo_core.repro.tasks import load_task
from mpo_core.repro.tasks.doctext import ORIGINS, collect_documents, sentences, split_documents

SPLITS = ("train", "select", "eval")


def test_collecting_has_three_origins():
    collect_documents.cache_clear()
    documents = collect_documents()
    assert {document.origin for document in documents} == set(ORIGINS)
    assert list(documents) == sorted(documents, key=lambda d: (d.origin, d.name))


def test_no_document_is_in_two_splits_and_none_is_lost():
    documents = collect_documents()
    splits = split_documents(documents)
    names = [(d.origin, d.name) for part in splits.values() for d in part]
    assert sorted(names) == [(d.origin, d.name) for d in documents]
    sizes = {name: sum(len(t) for d in part for t in d.texts) for name, part in splits.items()}
    assert 0.15 < sizes["eval"] / sum(sizes.values()) < 0.21


def test_doctext_is_balanced_large_enough_and_its_splits_share_no_sentence():
    task = load_task(TaskConfig(name="doctext"))
    for split in SPLITS:
        labels = collections.Counter(example.label for example in task.splits[split])
        assert len(set(labels.values())) == 1
        assert set(labels) == {0, 1, 2}
    assert len(task.splits["train"]) > 2000
    assert len(task.splits["eval"]) > 500
    texts = [example.texts for split in SPLITS for example in task.splits[split]]
    assert len(texts) == len(set(texts))
    assert task.label_names == ORIGINS
    assert platform.python_version() in task.source


def test_doctext_is_learnable_and_not_trivial():
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    task = load_task(TaskConfig(name="doctext"))
    words = TfidfVectorizer()
    train = words.fit_transform([e.texts[0] for e in task.splits["train"]])
    held_out = words.transform([e.texts[0] for e in task.splits["eval"]])
    model = LogisticRegression(max_iter=300).fit(train, [e.label for e in task.splits["train"]])
    assert 0.6 < model.score(held_out, [e.label for e in task.splits["eval"]]) < 0.9


def test_pairs_are_balanced_disjoint_and_consecutive_where_they_say_so():
    task = load_task(TaskConfig(name="doctext-pairs"))
    following = set()
    for document in collect_documents():
        for text in document.texts:
            found = sentences(text)
            following |= set(pairwise(found))
    for split in SPLITS:
        examples = task.splits[split]
        assert abs(sum(example.label for example in examples) * 2 - len(examples)) <= 1
        assert all(((e.texts in following) == bool(e.label)) for e in examples)
    firsts = [example.texts[0] for split in SPLITS for example in task.splits[split]]
    assert len(firsts) == len(set(firsts)) > 2000


def test_lm_documents_are_the_same_split():
    task = load_task(TaskConfig(name="doctext-lm", train_size=20))
    assert task.kind == "language-modelling"
    assert len(task.splits["train"]) == 20
    assert sum(len(e.texts[0]) for e in task.splits["eval"]) > 100_000


@pytest.mark.parametrize("name", ["doctext", "doctext-pairs", "doctext-lm"])
def test_sizes_are_kept(name):
    task = load_task(TaskConfig(name=name, train_size=12, select_size=5, eval_size=9))
    assert [len(task.splits[split]) for split in SPLITS] == [12, 5, 9]


def test_another_process_with_another_hash_seed_gives_the_same_examples():
    code = (
        "import hashlib\n"
        "from mpo_core.repro.config import TaskConfig\n"
        "from mpo_core.repro.tasks import load_task\n"
        "for name in ('doctext', 'doctext-pairs'):\n"
        "    print(hashlib.sha256(repr(load_task(TaskConfig(name=name)).splits).encode()).hexdigest())\n"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1


def test_sentences_are_stripped_of_markup_code_and_tables():
    text = (
        "Return the :class:`~a.Thing` that *this* ``function`` has made of its two arguments. It is.\n\n"
        ">>> thing(1, 2) is a line of code that nobody should read.\n\n"
        "Heading of a part that is underlined\n------------\n\n"
        "* An item of a list has as many words as it needs to\n  be a sentence.\n"
    )
    assert sentences(text) == [
        "Return the a.Thing that this function has made of its two arguments.",
        "An item of a list has as many words as it needs to be a sentence.",
    ]
