"""Language modelling corpora: the real files' token counts, documents, splits, a user's own text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mpo_core.errors import InputFileError, UsageError
from mpo_core.repro.config import TaskConfig
from mpo_core.repro.tasks import load_task
from mpo_core.repro.tasks.language_modelling import (
    character_blocks,
    read_documents,
    sentence_blocks,
    wikitext_articles,
)
from mpo_core.repro.tasks.task import read_utf8

DATA = Path(os.environ.get("MPO_DATA") or Path(__file__).resolve().parents[4] / "shared" / "data")


def needs(folder):
    absent = not (DATA / folder).is_dir()
    return [pytest.mark.data, pytest.mark.skipif(absent, reason=f"no {folder} under {DATA} (set MPO_DATA)")]


def words(examples):
    return sum(len(example.texts[0].split()) for example in examples)


class TestWikitext:
    pytestmark = needs("wikitext-2")

    def test_articles_and_tokens(self):
        task = load_task(TaskConfig(name="wikitext-2"), DATA)
        train, select, held_out = (task.splits[name] for name in ("train", "select", "eval"))
        assert (len(train), len(select), len(held_out)) == (54, 6, 60)
        assert words(train) + words(select) == 213_886
        assert words(held_out) == 241_211
        assert held_out[0].texts[0].startswith("= Robert <unk> =\nRobert <unk> is an English film")
        assert "without the training file" in task.source
        assert task.metrics == ("perplexity", "loss")

    def test_rows_of_the_hub_give_the_same_articles(self):
        lines = read_utf8(DATA / "wikitext-2" / "test.txt").split("\n")
        # The hub has one row a line: empty where the line is blank, else with its blanks and line end.
        rows = ["" if not line.strip() else f"{line}\n" for line in lines]
        assert wikitext_articles(rows) == wikitext_articles(lines)


class TestPtb:
    pytestmark = needs("ptb")

    def test_sentences_and_tokens(self):
        task = load_task(TaskConfig(name="ptb"), DATA)
        for split, lines, tokens in (
            ("train", 42_068, 887_521),
            ("select", 3_370, 70_390),
            ("eval", 3_761, 78_669),
        ):
            assert sum(example.texts[0].count("\n") + 1 for example in task.splits[split]) == lines
            assert words(task.splits[split]) == tokens


class TestTinyShakespeare:
    pytestmark = needs("tiny-shakespeare")

    def test_split_is_by_characters_and_loses_none(self):
        task = load_task(TaskConfig(name="tiny-shakespeare"), DATA)
        train, select, held_out = (
            "".join(example.texts[0] for example in task.splits[name]) for name in ("train", "select", "eval")
        )
        text = read_utf8(DATA / "tiny-shakespeare" / "input.txt")
        assert train + select + held_out == text
        assert len(held_out) == 1_115_394 - 1_003_854
        assert 0.08 < len(select) / len(train + select) < 0.12

    def test_sizes_count_documents(self):
        task = load_task(TaskConfig(name="tiny-shakespeare", train_size=7, select_size=3, eval_size=2), DATA)
        assert [len(task.splits[name]) for name in ("train", "select", "eval")] == [7, 3, 2]


def test_title_inside_a_paragraph_does_not_begin_an_article():
    lines = [
        " = One = \n",
        " \n",
        " text \n",
        " = 1 and 2 = \n",
        " more \n",
        " \n",
        " = = Part = = \n",
        "\n",
        " = Two = \n",
        "",
    ]
    assert wikitext_articles(lines) == ["= One =\ntext\n= 1 and 2 =\nmore\n= = Part = =", "= Two ="]


def test_sentence_blocks_keep_every_sentence():
    assert sentence_blocks([" a b \n", "", " c \n", " d \n"], size=2) == ["a b\nc", "d"]


def test_character_blocks_are_the_text_again():
    text = "".join(f"line {n}\n" + ("\n" if n % 7 == 0 else "") for n in range(400)) + "x" * 5000
    blocks = character_blocks(text, 500)
    assert "".join(blocks) == text
    assert max(map(len, blocks)) <= 501
    assert blocks[0].endswith("\n\n")


class TestOwnText:
    def test_folder_in_the_order_of_names(self, tmp_path):
        for number in (2, 0, 1, 3):
            (tmp_path / f"{number}.txt").write_text(f"document {number}\n")
        (tmp_path / "notes.md").write_text("not this")
        task = load_task(TaskConfig(name="text", path=str(tmp_path)))
        assert [e.texts for e in task.splits["train"]] == [("document 0",), ("document 1",)]
        assert [e.texts for e in task.splits["select"]] == [("document 2",)]
        assert [e.texts for e in task.splits["eval"]] == [("document 3",)]

    def test_marks_split_a_file_into_documents(self, tmp_path):
        file = tmp_path / "stories.txt"
        file.write_text("\none\n<|endoftext|>\n two\n\nthree\n<|endoftext|>\n")
        assert read_documents(file) == ["one", "two\n\nthree"]

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"ab\xe9cd", "not UTF-8 at byte 2"),
            (b" \n ", "no text"),
            (b"short", "1 documents, expected at least 3"),
        ],
    )
    def test_bad_files(self, tmp_path, content, reason):
        file = tmp_path / "bad.txt"
        file.write_bytes(content)
        with pytest.raises(InputFileError, match=reason):
            load_task(TaskConfig(name="text", path=str(file)))

    def test_missing_path_or_file(self, tmp_path):
        with pytest.raises(UsageError, match="needs a path"):
            load_task(TaskConfig(name="text"))
        with pytest.raises(InputFileError, match="is not there"):
            load_task(TaskConfig(name="text", path=str(tmp_path / "absent.txt")))
        with pytest.raises(InputFileError, match="holds no text"):
            load_task(TaskConfig(name="text", path=str(tmp_path)))


def test_select_size_beyond_the_text_is_refused(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("<|endoftext|>".join(map(str, range(10))))
    with pytest.raises(UsageError, match="cannot take 9 of 9"):
        load_task(TaskConfig(name="text", path=str(file), select_size=9))
