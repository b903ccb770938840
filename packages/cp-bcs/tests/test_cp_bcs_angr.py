"""What angr itself does: these tests need the extra ``cp-bcs[angr]``."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cp_bcs import Program
from cp_bcs.binary.reading import read_image
from cp_bcs.cli import app
from cp_bcs.data.compiling import Twins
from cp_bcs.data.pairs import OWN_NAME, leaks, read_pairs
from cp_bcs.decompile.decompiler import Decompiler
from cp_bcs.decompile.discovery import find_functions_with_angr
from cp_bcs.decompile.limits import Limits
from cp_bcs.evaluate import judge_discovery
from mpo_core.errors import MPOError

pytestmark = pytest.mark.skipif(find_spec("angr") is None, reason="angr is not installed: cp-bcs[angr]")
# Not ours to mend: angr and what comes with it.
NO_LIMITS = Limits(cpu_seconds=120, wall_seconds=1200)

SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct node { int key; struct node *less, *more; };

/* Tell whether a tree holds the given key anywhere. */
int tree_holds(const struct node *tree, int key)
{
    while (tree != NULL) {
        if (tree->key == key)
            return 1;
        tree = tree->key < key ? tree->more : tree->less;
    }
    return 0;
}

/* Print a warning about a missing file and count it. */
int warn_missing(const char *path)
{
    static int warned;
    fprintf(stderr, "warn_missing: %s is not there\n", path);
    return ++warned;
}

/* Add up the bytes of a string, the last ones counting more. */
__attribute__((noinline)) static unsigned weigh(const char *text, unsigned start)
{
    unsigned sum = start;
    for (size_t i = 0; i < strlen(text); i++)
        sum = sum * 31 + (unsigned char)text[i];
    return sum;
}

/* Copy a string together with its weight into new memory. */
char *weigh_copy(const char *text)
{
    char *copy = malloc(strlen(text) + 16);
    if (copy != NULL)
        sprintf(copy, "%s:%u", text, weigh(text, 7) + weigh(text + 1, 9));
    return copy;
}
"""


@pytest.fixture(scope="module")
def library(compile_c: Callable[..., Twins]) -> Twins:
    return compile_c(SOURCE, "weighing")


def addresses(binary: Path, *names: str) -> dict[str, int]:
    found = {function.name: function.address for function in Program.read(binary).functions}
    return {name: found[name] for name in names}


def test_functions_are_decompiled_whole_alone_and_always_alike(library: Twins, tmp_path: Path) -> None:
    at = addresses(library.unstripped, "tree_holds", "warn_missing", "weigh", "weigh_copy")
    first = Decompiler(tmp_path / "first", NO_LIMITS).decompile(library.stripped, set(at.values()))
    assert [each.failure for each in first.values()] == [None] * 4
    assert not any(each.truncated for each in first.values())
    texts = {name: first[address].text or "" for name, address in at.items()}
    assert "while" in texts["tree_holds"] or "for" in texts["tree_holds"]
    assert "%s is not there" in texts["warn_missing"]
    assert all(name in texts["weigh_copy"] for name in ("malloc", "strlen", "%s:%u"))
    assert first[at["weigh"]].name.startswith("sub_")
    # What a function becomes depends on nothing that was decompiled before it, and on no chance.
    again = Decompiler(tmp_path / "again", NO_LIMITS)
    assert again.decompile(library.stripped, {at["weigh_copy"]})[at["weigh_copy"]] == first[at["weigh_copy"]]
    assert again.decompile(library.stripped, set(at.values())) == first


def test_without_its_symbols_a_file_is_decompiled_as_the_stripped_one(library: Twins, tmp_path: Path) -> None:
    at = addresses(library.unstripped, "weigh", "weigh_copy")
    decompiler = Decompiler(tmp_path, NO_LIMITS)
    stripped = decompiler.decompile(library.stripped, set(at.values()))
    blind = decompiler.decompile(library.unstripped, set(at.values()), symbols=False)
    assert [each.text for each in blind.values()] == [each.text for each in stripped.values()]
    seeing = decompiler.decompile(library.unstripped, set(at.values()))
    assert seeing[at["weigh"]].name == "weigh"
    assert "weigh(" in (seeing[at["weigh_copy"]].text or "")
    assert "weigh(" not in (blind[at["weigh_copy"]].text or "")


def test_a_corpus_with_pseudo_code_leaks_no_name(library: Twins, tmp_path: Path) -> None:
    out, tree = tmp_path / "out", library.unstripped.parent
    arguments = ["corpus", "--src", tree, "--elf", library.unstripped, "--out", out, "--pseudo"]
    result = CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": "200"})
    assert result.exception is None, result.output
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["leaks"] == 0
    assert manifest["pseudo_code"]["decompiler"].startswith("angr 9.")
    assert manifest["pseudo_code"]["stripped"] == manifest["pseudo_code"]["unstripped"] == {"done": 4}
    pairs = {pair.name: pair for pair in read_pairs(out / "pairs.jsonl")}
    assert set(pairs) == {"tree_holds", "warn_missing", "weigh", "weigh_copy"}
    for pair in pairs.values():
        assert not leaks(pair)
        assert pair.pseudo is not None
        assert pair.pseudo_twin is not None
        assert f"{OWN_NAME}(" in pair.pseudo
        assert "//" not in pair.pseudo
    assert f"{OWN_NAME}: %s is not there" in (pairs["warn_missing"].pseudo or "")
    assert "sub(" in (pairs["weigh_copy"].pseudo or "")
    assert "weigh(" in (pairs["weigh_copy"].pseudo_twin or "")


@pytest.mark.parametrize("mode", ["-marm", "-mthumb"])
def test_arm_functions_are_found_and_decompiled(compile_c: Callable[..., Twins], tmp_path: Path, mode: str) -> None:
    twins = compile_c(SOURCE, f"weighing{mode}", "arm", mode)
    found = judge_discovery(find_functions_with_angr(twins.stripped), read_image(twins.unstripped))
    assert found.starts >= 0.9
    at = addresses(twins.unstripped, "tree_holds", "weigh_copy")
    told = Decompiler(tmp_path, NO_LIMITS).decompile(twins.stripped, set(at.values()))
    assert [each.failure for each in told.values()] == [None, None]
    assert "malloc" in (told[at["weigh_copy"]].text or "")


def test_the_limits_hold_for_angr_too(library: Twins, tmp_path: Path) -> None:
    at = addresses(library.unstripped, "tree_holds")
    with pytest.raises(MPOError, match=r"did not start \(memory\)"):
        Decompiler(tmp_path, Limits(memory_mb=60)).decompile(library.stripped, set(at.values()))
    with pytest.raises(MPOError, match=r"found no functions in .* \(memory: |did not start \(memory\)"):
        find_functions_with_angr(library.stripped, Limits(memory_mb=60))
