"""Reading triples and questions, the facts that hold for every row of PathQuestion, and splits."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypermr.data.hierarchies import HierarchyConfig, generate_hierarchy
from hypermr.data.knowledge_base import KnowledgeBase, read_knowledge_base
from hypermr.data.pathquestion import FOLDER, KNOWLEDGE_BASES, load_pathquestion, parse_question
from hypermr.data.questions import TOPIC, read_questions, tokenize
from hypermr.data.splits import make_split, random_split
from hypermr.data.topics import EntityNames, entities_named, find_topic
from hypermr.hypergraph.encoding import relation_spellings
from mpo_core.errors import InputFileError, UsageError

DATA = Path(os.environ.get("MPO_DATA", Path(__file__).parents[4] / "shared" / "data")) / FOLDER
real = pytest.mark.skipif(not DATA.is_dir(), reason="no PathQuestion (set MPO_DATA)")

FAMILY = [
    ("ann", "child", "ben"), ("ann", "child", "cy_(jr)"), ("ben", "spouse", "dora"), ("cy_(jr)", "spouse", "eve"),
    ("dora", "born", "oslo"), ("eve", "born", "oslo"),
]  # fmt: skip


@pytest.fixture
def family() -> KnowledgeBase:
    return KnowledgeBase.of(FAMILY)


def path_of(tmp_path: Path, text: str, name: str = "file.tsv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


# Triples


def test_triples_are_numbered_in_order_and_counted_once():
    kb = KnowledgeBase.of([*FAMILY, FAMILY[0]], inverse=True)
    assert kb.entities[:3] == ("ann", "ben", "cy_(jr)")
    assert kb.relations == ("child", "spouse", "born", "^child", "^spouse", "^born")
    assert kb.n_triples == len(FAMILY)
    born, back = kb.relation_ids["born"], kb.relation_ids["^born"]
    assert kb.follow(kb.entity("dora"), [born, back]) == {kb.entity("dora"), kb.entity("eve")}


def test_following_relations_reaches_all_ends(family):
    ids = [family.relation_ids[name] for name in ("child", "spouse", "born")]
    reached = [family.follow(0, ids[:count]) for count in range(4)]
    assert [{family.entities[entity] for entity in ends} for ends in reached] == [
        {"ann"}, {"ben", "cy_(jr)"}, {"dora", "eve"}, {"oslo"},
    ]  # fmt: skip
    assert family.follow(family.entity("oslo"), ids) == set()


def test_an_unknown_entity_is_named(family):
    with pytest.raises(UsageError, match="'zoe' is no entity of the knowledge base"):
        family.entity("zoe")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a\tb\n", r"line 1: found 2 tab-separated columns, expected 3 \(subject, relation, object\)\."),
        ("a\tr\tb\n\na\t \tb\nc\td\n", r"line 3: the relation is empty \(1 more bad lines\)"),
        ("a\t^r\tb\n", "marks inverse relations"),
        ("\n \n", "holds no rows"),
    ],
)
def test_bad_triples_are_told_with_line_and_reason(tmp_path, text, says):
    path = path_of(tmp_path, text)
    with pytest.raises(InputFileError, match=says) as caught:
        read_knowledge_base(path)
    assert str(path) in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(InputFileError, match="No such file"):
        read_knowledge_base(tmp_path / "none.tsv")
    (tmp_path / "bytes.tsv").write_bytes(b"a\tr\t\xff\n")
    with pytest.raises(InputFileError, match="UTF-8 at byte 4"):
        read_knowledge_base(tmp_path / "bytes.tsv")


def test_windows_line_ends_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "kb.tsv"
    path.write_bytes("\ufeffann\tchild\tben\r\nben\tspouse\tdora\r\n".encode())
    assert read_knowledge_base(path).entities == ("ann", "ben", "dora")


# The user's questions


def test_questions_of_the_user(tmp_path, family):
    rows = [
        "Who is the spouse of Ann's child?\tann\tdora|eve\tchild|spouse",
        "where was cy (jr) married\tcy_(jr)\teve",
        "born?\tdora\toslo\tborn",
    ]
    data = read_questions(path_of(tmp_path, "\n".join(rows)), family)
    first, second, third = data.questions
    assert first.tokens == ("who", "is", "the", "spouse", "of", TOPIC, "'s", "child", "?")
    assert first.answers == {"dora", "eve"}
    assert first.path == ("child", "spouse")
    assert second.tokens == ("where", "was", TOPIC, "married")
    assert second.path is None
    assert third.tokens == ("born", "?")  # a topic need not be named


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("who\tann", "found 2 tab-separated columns, expected 3 to 4"),
        ("who\tzoe\tben", "'zoe' is no entity"),
        ("who\tann\tben|zoe", "'zoe' is no entity"),
        ("who\tann\tben|cy_(jr)\tkid", "'kid' is no relation"),
        ("who\tann\tben\tchild", "the path leads from 'ann' to other entities"),
        ("who\tann\t", "the answers is empty"),
        ("who\tann\t|", "the answers are empty"),
    ],
)
def test_bad_questions_are_told_with_line_and_reason(tmp_path, family, row, says):
    good = "who\tann\tben|cy_(jr)\tchild\n"
    with pytest.raises(InputFileError, match=f"line 2: .*{says}"):
        read_questions(path_of(tmp_path, good + row + "\n" + good), family)


def test_too_few_questions(tmp_path, family):
    with pytest.raises(InputFileError, match="holds 1 questions"):
        read_questions(path_of(tmp_path, "who\tann\tben\n"), family)


@pytest.mark.parametrize(
    ("text", "topic", "place"),
    [
        ("the son of ann", "ann", (11, 14)),
        ("anna and Ann", "ann", (9, 12)),
        ("about cy (jr)?", "cy_(jr)", (6, 13)),
        ("annual", "ann", None),
        ("", "ann", None),
        ("谁是北京的市长?", "北京", (2, 4)),
        ("서울의 시장은?", "서울", (0, 2)),
        ("wer ist Zoë?", "Zoë", (8, 11)),
        ("Straße", "Stra", None),
    ],
)
def test_a_topic_is_found_as_a_whole_word(text, topic, place):
    assert find_topic(text, topic) == place


@pytest.mark.parametrize(
    ("text", "names", "wanted"),
    [
        ("the tracks of Believe", ["BELIEVE", "Believe"], ("Believe",)),
        ("the tracks of believe", ["BELIEVE", "Believe"], ("BELIEVE",)),
        ("Place_of_birth of Devin", ["Place_of_Birth", "Devin"], ("Devin", "Place_of_Birth")),
        ("Ada and New York City", ["York", "New_York_City", "Ada", "New_York"], ("New_York_City", "Ada")),
        ("nobody", ["body", "no"], ()),
    ],
)
def test_entities_in_their_own_spelling_come_first_and_longer_ones_before(text, names, wanted):
    assert entities_named(text, EntityNames(names)) == wanted


def test_letters_with_marks_are_one_however_they_are_typed(tmp_path):
    apart, together = "Zoe\u0308", "Zo\u00eb"
    kb = read_knowledge_base(path_of(tmp_path, f"{apart}\tmother\tAda\n", "kb.tsv"))
    assert kb.entities == (together, "Ada")
    rows = f"who is the mother of {apart} ?\t{together}\tAda\n" * 3
    assert read_questions(path_of(tmp_path, rows), kb).questions[0].tokens[-2:] == (TOPIC, "?")


def test_letters_of_scripts_without_blanks_are_words():
    assert tokenize("谁是北京的市长?", "北京") == ("谁", "是", TOPIC, "的", "市", "长", "?")


def test_tokens_without_a_topic():
    assert tokenize("Who's THAT?") == ("who", "'s", "that", "?")


# PathQuestion

FACTS = {
    "PQ-2H": (1908, 1056, 13, 1211, 304, 2),
    "PQ-3H": (5198, 1836, 13, 2839, 1008, 5),
    "PQL-2H": (1594, 5034, 363, 4247, 379, 52),
    "PQL-3H": (1031, 6505, 411, 5597, 291, 20),
    "PQL-3H_more": (2062, 6505, 411, 5597, 291, 20),
}
"""Questions, entities, relations, triples, distinct labels, largest set of answers."""


@real
@pytest.mark.data
@pytest.mark.parametrize("name", KNOWLEDGE_BASES)
def test_facts_that_hold_for_every_row(name):
    data = load_pathquestion(name, DATA)
    kb = data.kb
    questions = data.questions
    counts = len(questions), len(kb.entities), len(kb.relations), kb.n_triples
    assert (*counts, len({each.label for each in questions}), max(len(each.answers) for each in questions)) == FACTS[
        name
    ]
    for question in questions:
        reached = kb.follow(kb.entity(question.topic), [kb.relation_ids[relation] for relation in question.path or ()])
        assert {kb.entities[entity] for entity in reached} == question.answers
        assert question.label in question.answers
        assert question.tokens.count(TOPIC) == 1
    for split in (f"random-{seed}" for seed in (1234, 789, 123)):
        made = make_split(data, split)
        assert (made.train, made.dev, made.test) == random_split(len(questions), int(split.split("-")[1]))


@real
@pytest.mark.data
@pytest.mark.parametrize("name", KNOWLEDGE_BASES)
@pytest.mark.parametrize("split", ["topic-disjoint-0", "topic-disjoint-1", "topic-disjoint-5"])
def test_topic_disjoint_splits_share_no_topic(name, split):
    data = load_pathquestion(name, DATA)
    made = make_split(data, split)
    parts = [set(part) for part in (made.train, made.dev, made.test)]
    assert sum(map(len, parts)) == len(set().union(*parts)) == len(data.questions)
    topics = [{data.questions[number].topic for number in part} for part in parts]
    assert not topics[0] & topics[1]
    assert not topics[0] & topics[2]
    assert not topics[1] & topics[2]
    assert len(parts[2]) == pytest.approx(0.1 * len(data.questions), rel=0.15)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("who is ann 's child ?\tben(ben/cy_(jr)/)\tann#child", "is not topic#relation#entity"),
        ("who is ann 's child ?\tben[ben]\tann#child#ben", r"are not ben\(answer"),
        ("who is ann 's child ?\tben(zoe/)\tann#child#ben", "'zoe' is no entity"),
        ("who is ann 's child ?\tben(cy_(jr)/)\tann#child#ben", "'ben' is not among the answers"),
        ("who is Ann 's child ?\tben(ben/)\tann#child#ben", "'ann' is no token"),
        ("who ?\tben(ben/)", "found 2 tab-separated columns"),
    ],
)
def test_bad_rows_of_pathquestion(family, row, says):
    with pytest.raises(ValueError, match=says):
        parse_question(row.split("\t"), family)


def test_names_with_brackets_are_read(family):
    row = " who is ann 's child ?\tcy_(jr)(cy_(jr)/ben/)\tann#child#cy_(jr)#<end>#cy_(jr)"
    columns: list[str] = [*row.split("\t")]
    question = parse_question(columns, family)
    assert question.label == "cy_(jr)"
    assert question.answers == {"cy_(jr)", "ben"}
    assert question.path == ("child",)
    assert question.tokens == ("who", "is", TOPIC, "'s", "child", "?")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "no file of splits"),
        (json.dumps({"PQ-2H": {"odd": {"train": [0], "dev": [1]}}}), "no file of splits"),
        (json.dumps({"PQ-2H": {"odd": {"train": [0], "dev": [0], "test": [1]}}}), "names a row twice"),
        (json.dumps({"PQ-2H": {"odd": {"train": [0], "dev": [1], "test": [9]}}}), "or one that is not there"),
    ],
)
def test_bad_splits(tmp_path, content, says):
    (tmp_path / KNOWLEDGE_BASES["PQ-2H"]).write_text("ann\tchild\tben\n")
    (tmp_path / "PQ-2H.txt").write_text("who is ann 's child ?\tben(ben/)\tann#child#ben\n" * 3)
    (tmp_path / "splits.json").write_text(content)
    with pytest.raises(InputFileError, match=says):
        load_pathquestion("PQ-2H", tmp_path)


def test_an_unknown_set(tmp_path):
    with pytest.raises(UsageError, match="'PQ-4H'; expected one of PQ-2H"):
        load_pathquestion("PQ-4H", tmp_path)


# Splits


@given(st.integers(10, 400), st.integers(0, 1000))
def test_random_splits_are_partitions_with_the_shares_of_the_papers(count, seed):
    train, dev, test = random_split(count, seed)
    assert sorted((*train, *dev, *test)) == list(range(count))
    assert len(test) == int(np.ceil(0.1 * count))
    assert len(dev) == int(np.ceil(0.11 * (count - len(test))))


@pytest.mark.parametrize("name", ["random", "random-x", "topic-disjoint", "random--1", "other-3"])
def test_an_unknown_split(name):
    data = generate_hierarchy(HierarchyConfig(depth=2, questions=40))
    with pytest.raises(UsageError, match="unknown split"):
        make_split(data, name)


def test_too_few_topics_for_a_split():
    data = generate_hierarchy(HierarchyConfig(depth=1, branching=1, questions=40))  # two entities
    with pytest.raises(UsageError, match="too few questions or topics"):
        make_split(data, "topic-disjoint-0")


# Generated hierarchies


@given(st.integers(1, 5), st.integers(1, 4), st.sampled_from([0.0, 0.1, 1.0]), st.integers(0, 99))
def test_hierarchies_are_trees_with_cross_links(depth, branching, noise, seed):
    config = HierarchyConfig(depth=depth, branching=branching, noise=noise, questions=20, seed=seed)
    data = generate_hierarchy(config)
    kb = data.kb
    assert data == generate_hierarchy(config)
    assert len(kb.entities) == config.entities == sum(branching**level for level in range(depth + 1))
    parents = [[target for relation, target in edges if kb.relations[relation] == "part_of"] for edges in kb.edges]
    assert sorted(map(len, parents)) == [0] + [1] * (config.entities - 1)
    for question in data.questions:
        ids = [kb.relation_ids[relation] for relation in question.path or ()]
        assert 1 <= len(ids) <= config.hops
        assert {kb.entities[entity] for entity in kb.follow(kb.entity(question.topic), ids)} == question.answers
        assert question.label in question.answers
        assert question.tokens.count(TOPIC) == 1


@pytest.mark.parametrize(
    "choices",
    [{"depth": 0}, {"branching": 7}, {"branching": 0}, {"noise": 1.5}, {"questions": 0}, {"depth": 12, "branching": 6}],
)
def test_hierarchies_that_cannot_be(choices):
    with pytest.raises(UsageError):
        HierarchyConfig(**choices)


@real
@pytest.mark.parametrize("name", ["PQ-2H", "PQ-3H", "PQL-2H", "PQL-3H"])
def test_every_topic_is_found_and_relations_are_named_as_the_document_says(name):
    data = load_pathquestion(name, DATA)
    names = EntityNames(data.kb.entities)
    assert all(entities_named(question.text, names)[0] == question.topic for question in data.questions)
    spoken = [
        any(set(spelling) <= set(question.tokens) for spelling in relation_spellings(relation))
        for question in data.questions
        for relation in question.path or ()
    ]
    share = sum(spoken) / len(spoken)
    assert share == 1.0 if name.startswith("PQL") else 0.2 < share < 0.3


@real
def test_what_the_document_says_of_the_splits():
    """Which test questions the choice of negatives had seen, and about how few topics some questions are."""
    data = load_pathquestion("PQ-2H", DATA)
    chosen_on = make_split(data, "topic-disjoint-0")
    seen = {*chosen_on.train, *chosen_on.dev}
    shared = [
        len(seen & set(make_split(data, name).test)) for name in ("random-1234", "random-789", "topic-disjoint-1")
    ]
    assert shared == [174, 172, 177]
    data = load_pathquestion("PQL-3H", DATA)
    topics = Counter(data.questions[number].topic for number in make_split(data, "topic-disjoint-0").test)
    assert (len(topics), sum(topics.values()), max(topics.values())) == (12, 108, 78)
