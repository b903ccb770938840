"""KVQA's loader, on files that were made by hand in the form of the published ones; no line of them is KVQA's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hypermr.config import DataConfig
from hypermr.data.kvqa import FACTS, QUESTIONS, REFINED_FACTS, load_kvqa, read_facts
from hypermr.data.loading import load_data
from hypermr.data.splits import make_split
from hypermr.hypergraph.walks import WalkRules, walks_from
from mpo_core.errors import InputFileError

MADE_UP: dict[str, Any] = {
    "7": {
        "NamedEntities": ["Ada Example"],
        "Qids": ["Q1"],
        "imgPath": "images/7.jpg",
        "wikiCap": "Ada Example at her desk",
        "Questions": ["Who is shown?", "Where was she born?", "Is she a baker?", "a?", "b?", "c?"],
        "ParaQuestions": ["Who is it?", "What is her birthplace?", "Does she bake?", "a?", "b?", "c?"],
        "Answers": ["Ada Example", "Little Town, North", "No", 3, "4", "5"],
        "Type of Question": [["1-hop"]] * 6,
        "split": [1, 2, 3, 1, 1],
    },
    "8": {
        "NamedEntities": ["Bo Sample", "Cy Sample"],
        "Qids": ["Q2", "Q3"],
        "imgPath": "images/8.jpg",
        "wikiCap": "",
        "Questions": ["Who is on the left?"],
        "ParaQuestions": ["Who is left?"],
        "Answers": ["Bo Sample"],
        "Type of Question": [["spatial"]],
        "split": [3, 1, 1, 2, 1],
    },
}
LINES = [
    "Q1,born in,Little Town, North",
    "Little Town, North,located in,Country",
    "Q1,born in,City",
    "Q2,located in,City",
]


@pytest.fixture
def folder(tmp_path) -> Path:
    inside = tmp_path / "kvqa"
    inside.mkdir()
    (inside / QUESTIONS).write_text(json.dumps(MADE_UP), encoding="utf-8")
    (inside / FACTS).write_text("\n".join(LINES), encoding="utf-8")
    return inside


def test_an_image_leads_to_its_people_their_names_and_facts(folder):
    data = load_kvqa(folder)
    walks = walks_from(data.kb, data.kb.entity("image:7"), WalkRules(hops=3)).walks
    assert {walk.text(data.kb) for walk in walks} >= {
        "image:7 -depicts-> Q1 -named-> Ada Example",
        "image:7 -depicts-> Q1 -born in-> Little Town, North -located in-> Country",
    }
    left = walks_from(data.kb, data.kb.entity("image:8"), WalkRules(hops=2)).walks
    assert "image:8 -depicts_1-> Q2 -named-> Bo Sample" in {walk.text(data.kb) for walk in left}
    first = data.questions[1]
    assert (first.text, first.topic, first.answers) == (
        "Where was she born?",
        "image:7",
        frozenset({"Little Town, North"}),
    )
    assert first.tokens == ("where", "was", "she", "born", "?")
    assert data.questions[3].answers == {"3"}
    assert load_kvqa(folder, paraphrased=True).questions[1].text == "What is her birthplace?"


def test_five_splits_of_images_and_the_released_one(folder):
    data = load_kvqa(folder)
    assert data.splits["published-1"] == {"train": [0, 1, 2, 3, 4, 5], "dev": [], "test": [6]}
    assert data.splits["published-4"] == {"train": [0, 1, 2, 3, 4, 5], "dev": [6], "test": []}
    # question j has role j; the sixth question has none
    assert data.splits["released"] == {"train": [0, 3, 4], "dev": [1], "test": [2, 6]}
    assert make_split(data, "released").test == (2, 6)


def test_the_refined_facts_are_taken_where_they_are(folder, monkeypatch):
    (folder / REFINED_FACTS).write_text("Q1,died in,Elsewhere", encoding="utf-8")
    monkeypatch.setenv("MPO_DATA", str(folder.parent))
    data = load_data(DataConfig(name="KVQA", split="released"))
    assert "died in" in data.kb.relations
    assert "born in" not in data.kb.relations


def test_facts_that_cannot_be_cut_are_named(tmp_path):
    path = tmp_path / FACTS
    path.write_text("\n".join([*LINES, "", "a,b", "x,located in,y,born in,z"]), encoding="utf-8")
    with pytest.raises(InputFileError, match=r"line 6: 'a, b' is not subject,relation,value \(1 more bad lines\)"):
        read_facts(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"split": [1, 1]}, "expected 5 numbers"),
        ({"split": [1, 1, 1, 1, 4]}, "expected 5 numbers"),
        ({"Qids": []}, "1 NamedEntities, but 0 Qids"),
        ({"Answers": ["No"]}, "6 Questions, 6 ParaQuestions and 1 Answers"),
        ({"Questions": None}, "Questions"),
    ],
    ids=str,
)
def test_records_that_are_not_kvqas(folder, change, says):
    (folder / QUESTIONS).write_text(json.dumps({"7": MADE_UP["7"] | change}), encoding="utf-8")
    with pytest.raises(InputFileError, match=f"image 7.*{says}"):
        load_kvqa(folder)


@pytest.mark.parametrize("content", ["[1]", "{", "{}"])
def test_files_that_are_not_kvqas(folder, content):
    (folder / QUESTIONS).write_text(content, encoding="utf-8")
    with pytest.raises(InputFileError, match=QUESTIONS):
        load_kvqa(folder)


def test_kvqa_that_is_not_there_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("MPO_DATA", str(tmp_path))
    with pytest.raises(InputFileError, match="give --data-dir"):
        load_data(DataConfig(name="KVQA"))
