from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cp_bcs import commands
from cp_bcs.binary.facts import find_facts
from cp_bcs.binary.program import Program
from cp_bcs.data.c_sources import read_definitions
from cp_bcs.data.comments import clean_comment
from cp_bcs.data.compiling import Twins, embedded_sources
from cp_bcs.data.corpus import EDITED, build_corpus, write_corpus
from cp_bcs.data.debug_info import read_source_functions
from cp_bcs.data.pairs import OWN_NAME, Pair, leaks, read_pairs, write_pairs
from cp_bcs.data.recipes import list_recipes, load_recipe
from cp_bcs.data.splits import deduplicate, make_split
from mpo_core.errors import InputFileError, UsageError

Build = Callable[..., Twins]
SOURCES = embedded_sources()[0].parent
DOCUMENTED = 166


# -- comments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("comment", "name", "sentence"),
    [
        ("/* Count the words of a text. */", "count", "Count the words of a text"),
        ("// Count the words\n// of a text. More.", "count", "Count the words of a text"),
        ("/** count: Count the words of a text. */", "count", "Count the words of a text"),
        ("/**\n * count:\n * @text: a text\n *\n * Count the words of a text.\n *\n * Returns: n\n */", "count",
         "Count the words of a text"),
        ("/* count --- count the words of a text */", "count", "count the words of a text"),
        ("/* old_name --- count the words of a text */", "count", "count the words of a text"),
        ("/**\n * count:\n * @text:  a text\n *         of words\n * Count them one by one\n * Returns n\n */", "count",
         "Count them one by one"),
        ("/* count() - count the words of a text */", "count", "count the words of a text"),
        ("/*******\n * Count the words of a text.\n *******/", "count", "Count the words of a text"),
        ("/* NAME\n\n count - counter\n\n SYNOPSIS\n\n int count(void);\n\n DESCRIPTION\n\n The routine count "
         "counts all words of a text. */", "count", "counts all words of a text"),
        ("/** @brief Count the words of a text.\n * @param text a text\n */", "count", "Count the words of a text"),
        ("/* Like count, but of bytes, e.g. in a file.  Slow. */", "bytes", "Like count, but of bytes, e.g. in a file"),
        ("/* Calls count() again for the rest. */", "count", "Calls this function again for the rest"),
        ("/* Calls do_count again for the rest. */", "do_count", "Calls this function again for the rest"),
        ("/* Sort the count of each of the words. */", "count", "Sort the count of each of the words"),
        ("/* The function count counts all words in it. */", "count", "counts all words in it"),
        ("/*\r\n * Split a path into two.\r\n *\r\n * The caller frees it.\r\n */", "count", "Split a path into two"),
        ("/* Split a path into folder and file name\r\n\r\n   The caller frees it. */", "count",
         "Split a path into folder and file name"),
        ("/* list_head: The first entry of a list of words. */", "list_head", "The first entry of a list of words"),
        ("/* Sort by Mr. Hoare's scheme, in place. */", "count", "Sort by Mr. Hoare's scheme, in place"),
    ],
)  # fmt: skip
def test_the_first_sentence_without_the_own_name(comment: str, name: str, sentence: str) -> None:
    assert clean_comment(comment, name).sentence == sentence


@pytest.mark.parametrize(
    ("comment", "reason"),
    [
        ("/* Count words. */", "fewer than 4 words"),
        ("/* Copyright of this file and of all others. */", "licence"),
        ("/* TODO: count the words of a text. */", "licence, state"),
        ("/* Zähle die Wörter eines Textes. */", "ASCII"),
        ("/* count */", "nothing beside"),
        ("/* " + "word " * 41 + ". */", "more than 40 words"),
        ("/* a += b[i] * (c - d) / 2 + 17; x = y | z & 0xff; (i) */", "code, not prose"),
    ],
)
def test_comments_of_no_use_are_left_out_with_a_reason(comment: str, reason: str) -> None:
    cleaned = clean_comment(comment, "count")
    assert cleaned.sentence is None
    assert reason in (cleaned.reason or "")


def test_only_comments_right_above_a_definition_count(tmp_path: Path) -> None:
    path = tmp_path / "a.c"
    path.write_text(
        "/* Far away from what follows. */\n\n\n\nint far(void) { return 1; }\n"
        "int before; /* Speaks of the variable before. */\nint beside(void) { return 2; }\n"
        "#ifdef X\n/* Inside of a condition it counts. */\nstatic int\ninside (int a)\n{\n  return a;\n}\n#endif\n"
        "/* A declaration is not defined. */\nint declared(void);\n"
        "/* Broken by a macro as sources are. */\nMACRO(x) int broken(int a) ATTR { return a; }\n"
    )
    total, found = read_definitions(path)
    assert {each.name for each in found} >= {"inside"}
    assert not {each.name for each in found} & {"far", "beside", "declared"}
    inside = next(each for each in found if each.name == "inside")
    assert (inside.first, inside.body) == (10, 12)
    assert total >= 3


# -- joining -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [("x64",), ("x86",), ("arm",), ("arm", "-mthumb")], ids=str)
@pytest.mark.parametrize("optimization", ["O1", "O3"])
def test_every_documented_function_is_paired(build: Build, kind: Any, optimization: str) -> None:
    architecture, *flags = kind
    twins = build(architecture, optimization, *flags)
    corpus = build_corpus(SOURCES, [twins.unstripped], "own")
    assert len(corpus.pairs) == DOCUMENTED
    assert {(pair.architecture, pair.optimization) for pair in corpus.pairs} == {(architecture, optimization)}
    assert corpus.functions == len(corpus.pairs) + sum(corpus.left_out.values())
    # The symbol table is an oracle that the join does not look at.
    symbols = {s.name: s.address for s in Program.read(twins.unstripped).image.symbols if s.is_function}
    mask = ~1 if architecture == "arm" else ~0
    assert all(symbols[pair.name] & mask == pair.address for pair in corpus.pairs)


def test_code_is_that_of_the_stripped_twin(build: Build) -> None:
    twins = build("x64")
    program = Program.read(twins.stripped)
    for pair in build_corpus(SOURCES, [twins.unstripped], "own").pairs:
        facts = find_facts(program, program.by_address[pair.address])
        assert pair.keys == tuple(each.key for each in facts.normalized)


def test_corpora_are_written_the_same_way_and_read_back(build: Build, tmp_path: Path) -> None:
    twins = build("x64")
    corpus = build_corpus(SOURCES, [twins.unstripped], "own")
    manifest = write_corpus(corpus, tmp_path / "a", "own")
    assert manifest == json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert str(tmp_path) not in (tmp_path / "a" / "manifest.json").read_text()
    assert read_pairs(tmp_path / "a" / "pairs.jsonl") == corpus.pairs
    again = write_corpus(build_corpus(SOURCES, [twins.unstripped], "own"), tmp_path / "b", "own")
    assert again == manifest


def test_own_names_do_not_leak(compile_c: Callable[..., Twins], tmp_path: Path) -> None:
    text = (
        "#include <stdio.h>\n/* Complain about a number that is out of range. */\n"
        'int own_name(int a) { if (a > 3) printf("own_name: %d own_names, %s\\n", a, __func__); return a * 3; }\n'
    )
    twins = compile_c(text, "leaky")
    (pair,) = build_corpus(twins.unstripped.parent, [twins.unstripped], "own").pairs
    assert not leaks(pair)
    said = [each for _, each in pair.texts]
    assert f"{OWN_NAME}: %d own_names, %s\n" in said
    leaky = replace(pair, texts=((0, "see own_name"),))
    assert leaks(leaky)
    corpus = build_corpus(twins.unstripped.parent, [twins.unstripped], "own")
    corpus.pairs[0] = leaky
    with pytest.raises(InputFileError, match="own name"):
        write_corpus(corpus, tmp_path / "out", "own")
    assert not (tmp_path / "out").exists()


def test_sources_that_were_edited_after_the_build_are_not_paired_with_other_comments(
    compile_c: Callable[..., Twins],
) -> None:
    text = "".join(
        f"/* Add the number {n} to a value and give back what comes out. */\n"
        f"int add_{word}(int x)\n{{\n    volatile int y = x;\n    y += {n};\n    return y * {n};\n}}\n\n"
        for n, word in ((3, "three"), (5, "five"), (7, "seven"))
    )
    twins = compile_c(text, "edited")
    source = twins.unstripped.parent / "edited.c"
    assert len(build_corpus(source.parent, [twins.unstripped], "edited").pairs) == 3
    source.write_text("\n" * 8 + text)
    moved = build_corpus(source.parent, [twins.unstripped], "edited")
    assert [pair.name for pair in moved.pairs] == []
    assert moved.left_out[EDITED] == 2


def test_names_with_odd_ends_of_lines_are_read_back(corpus: Path, tmp_path: Path) -> None:
    first = read_pairs(corpus / "pairs.jsonl")[0]
    odd = replace(first, sentence="ends here\u2028and goes on\x85further")
    (tmp_path / "pairs.jsonl").write_bytes(write_pairs([odd, first]))
    assert read_pairs(tmp_path / "pairs.jsonl") == [odd, first]


def test_what_makes_no_corpus_is_refused(build: Build, tmp_path: Path) -> None:
    twins = build("x64")
    with pytest.raises(InputFileError, match="no debug information"):
        read_source_functions(twins.stripped)
    with pytest.raises(InputFileError, match="no folder"):
        build_corpus(tmp_path / "none", [twins.unstripped], "own")
    with pytest.raises(UsageError, match="source not in the tree"):
        commands.corpus(tmp_path, [twins.unstripped], tmp_path / "out", None)


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"keys": 3}'])
def test_lines_that_are_no_pairs_are_told(tmp_path: Path, line: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n" + line + "\n")
    with pytest.raises(InputFileError, match="jsonl:2"):
        read_pairs(path)


# -- splits --------------------------------------------------------------------------------------------------------


def pair(number: int, project: str = "p", file: str = "a.c", body: str = "", sentence: str = "", **more: Any) -> Pair:
    return Pair(
        project=project,
        file=file,
        line=number,
        name=more.pop("name", f"f{number}"),
        architecture=more.pop("architecture", "x64"),
        optimization="O2",
        address=number,
        sentence=sentence or f"does thing number {number}",
        keys=(body or f"mov {number}",),
        texts=(),
        edges=(),
    )


PAIRS = [
    *(pair(n, file=f"{n % 23}.c", architecture=a) for n in range(200) for a in ("x64", "arm")),
    *(pair(n, project="q", file=f"q{n % 7}.c", body=f"q{n}", name=f"q{n}", sentence=f"does q {n}") for n in range(60)),
    *(pair(n, project="q", file="0.c", body=f"copy{n}") for n in range(0, 46, 23)),  # shared with p, as gnulib is
    *(pair(900 + n, body="same", sentence="says the same of it") for n in range(5)),
    *(pair(950 + n, body="quarrel") for n in range(5)),
]


@pytest.mark.parametrize("name", ["random-0", "random-7", "deduplicated-0", "files-0", "project-q"])
def test_a_source_function_stands_on_one_side(name: str) -> None:
    split = make_split(PAIRS, name)
    parts = [{p.source for p in part} for part in (split.train, split.dev, split.test)]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]


def test_duplicates_go_and_shared_functions_stay_once() -> None:
    kept = deduplicate(PAIRS)
    assert sum(p.keys == ("same",) for p in kept) == 1
    assert not any(p.keys == ("quarrel",) for p in kept)
    assert not any(p.project == "q" and p.file == "0.c" for p in kept)
    assert len([p for p in kept if p.line == 3 and p.project == "p"]) == 2  # both architectures


def test_held_out_files_and_projects() -> None:
    split = make_split(PAIRS, "files-1")
    files = [{Path(p.file).name for p in part} for part in (split.train, split.dev, split.test)]
    assert not files[0] & files[2]
    assert not files[0] & files[1]
    split = make_split(PAIRS, "project-q")
    assert {p.project for p in split.test} == {"q"}
    assert {p.project for p in (*split.train, *split.dev)} == {"p"}
    assert len(split.test) == 60
    assert split.seen_bodies == 0


def test_sizes_and_seeds() -> None:
    split = make_split(PAIRS, "random-0")
    assert make_split(list(reversed(PAIRS)), "random-0").test == split.test  # whatever the order of the files
    assert len(split.train) + len(split.dev) + len(split.test) == len(PAIRS)
    assert len(split.test) == pytest.approx(0.1 * len(PAIRS), abs=3)
    assert make_split(PAIRS, "random-1").test != split.test


@pytest.mark.parametrize("name", ["random", "random-x", "project-z", "other-3"])
def test_unknown_splits_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        make_split(PAIRS, name)


def test_too_small_a_corpus_is_refused() -> None:
    with pytest.raises(UsageError, match="too small"):
        make_split(PAIRS[:1], "random-0")


def test_pairs_survive_writing(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(write_pairs(PAIRS))
    assert read_pairs(path) == PAIRS


# -- recipes -------------------------------------------------------------------------------------------------------


def test_there_are_ten_recipes_and_the_users_own(tmp_path: Path) -> None:
    assert len(list_recipes()) >= 10
    path = tmp_path / "own.yaml"
    path.write_text("source: hello\ntitle: greets\nartefacts: [hello]\n")
    assert load_recipe(str(path)).source == "hello"
    with pytest.raises(UsageError, match="no recipe 'none'"):
        load_recipe("none")
    for text, said in (
        ("source: hello", "title"),
        ("source: hello; rm\ntitle: x\nartefacts: [a]", "source"),
        ("source: hello\ntitle: x\nartefacts: [../../etc]", "inside the build"),
        ("source: [", "no YAML"),
        ("source: hello\ntitle: x\nartefacts: [a]\nrun: ls", "run"),
    ):
        path.write_text(text)
        with pytest.raises(InputFileError, match=said):
            load_recipe(str(path))
