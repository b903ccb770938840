from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest
from typer.testing import CliRunner

from cp_bcs import Program
from cp_bcs.binary.reading import parse_image
from cp_bcs.cli import app
from cp_bcs.data.compiling import Twins, embedded_sources
from cp_bcs.data.corpus import build_corpus, write_corpus
from cp_bcs.data.pairs import OWN_NAME, read_pairs
from cp_bcs.data.pseudo_code import PseudoCodeOfPairs
from cp_bcs.decompile.angr_backend import without_symbols
from cp_bcs.decompile.decompiler import Backend, Decompiler
from cp_bcs.decompile.discovery import find_functions_with_angr
from cp_bcs.decompile.lexing import clean_pseudo, pseudo_tokens
from cp_bcs.decompile.limits import Limits
from mpo_core.errors import InputFileError, MissingPartError

Build = Callable[..., Twins]
TOYS = Path(__file__).parent / "toys"


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Writes what it is told about each function: what is tested is everything around a decompiler."""
    monkeypatch.syspath_prepend(str(TOYS))
    return Backend("stand-in 1", importlib.import_module("limitedtasks").begin_writing)


@pytest.fixture
def binary(build: Build, tmp_path: Path) -> Path:
    return Path(copyfile(build("x64").unstripped, tmp_path / "binary"))


def asked(binary: Path) -> list[int]:
    log = binary.with_suffix(".asked")
    found = [int(line) for line in log.read_text().splitlines()] if log.exists() else []
    log.unlink(missing_ok=True)
    return found


def test_pseudo_code_is_kept_by_content(backend: Backend, binary: Path, tmp_path: Path) -> None:
    chosen = [function for function in Program.read(binary).functions if function.size <= 300][:6]
    wanted = {function.address for function in chosen}
    progress: list[tuple[int, int]] = []
    decompiler = Decompiler(tmp_path / "cache", largest=300, backend=backend)
    first = decompiler.decompile(binary, wanted, on_done=lambda done, of: progress.append((done, of)))
    assert asked(binary) == sorted(wanted) == list(first)
    assert progress == [(number + 1, 6) for number in range(6)]
    for function in chosen:
        assert first[function.address].name == f"sub_{function.address:x}"
        assert first[function.address].truncated == bool(function.size % 2)
    assert decompiler.decompile(binary, wanted) == first
    assert asked(binary) == []
    # The same bytes elsewhere are the same file. Other symbols, another decompiler and a damaged entry are new work.
    copy = Path(copyfile(binary, tmp_path / "copy"))
    assert decompiler.decompile(copy, wanted) == first
    assert asked(copy) == []
    decompiler.decompile(binary, wanted, symbols=False)
    assert asked(binary) == sorted(wanted)
    newer = Decompiler(tmp_path / "cache", largest=300, backend=replace(backend, name="stand-in 2"))
    newer.decompile(binary, {chosen[0].address})
    assert asked(binary) == [chosen[0].address]
    for entry in (tmp_path / "cache").glob("*/*.json"):
        entry.write_text('{"text": 3')
    assert decompiler.decompile(binary, wanted) == first
    assert asked(binary) == sorted(wanted)


def test_a_function_that_breaks_the_decompiler_costs_only_itself(
    backend: Backend, binary: Path, tmp_path: Path
) -> None:
    functions = [function.address for function in Program.read(binary).functions[:4]]
    binary.with_suffix(".told").write_text(f"{functions[1]} crash")
    decompiler = Decompiler(tmp_path / "cache", largest=10_000, backend=backend)
    told = decompiler.decompile(binary, set(functions))
    assert [told[address].failure for address in functions] == [None, "died", None, None]
    assert told[functions[1]].text is None
    asked(binary)
    assert decompiler.decompile(binary, set(functions)) == told
    assert asked(binary) == []
    # A failure is tried again under other limits; that somebody killed the process says nothing about the function.
    binary.with_suffix(".told").write_text(f"{functions[1]} killed")
    roomier = Decompiler(tmp_path / "cache", Limits(memory_mb=3000), largest=10_000, backend=backend)
    assert roomier.decompile(binary, set(functions))[functions[1]].failure == "killed"
    binary.with_suffix(".told").unlink()
    assert roomier.decompile(binary, set(functions))[functions[1]].failure is None
    assert asked(binary) == [functions[1], functions[1]]


def test_large_functions_are_not_tried(backend: Backend, binary: Path, tmp_path: Path) -> None:
    function = max(Program.read(binary).functions, key=lambda each: each.size)
    told = Decompiler(tmp_path, largest=function.size - 1, backend=backend).decompile(binary, {function.address, 3})
    assert {address: each.failure for address, each in told.items()} == {function.address: "large"}
    assert asked(binary) == []


def test_work_goes_on_after_a_kill(backend: Backend, binary: Path, tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "import limitedtasks\n"
        "from cp_bcs.decompile.decompiler import Backend, Decompiler\n"
        "def stop(done, of):\n"
        "    if done == 3:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "if __name__ == '__main__':\n"
        "    backend = Backend('stand-in 1', limitedtasks.begin_writing)\n"
        "    decompiler = Decompiler(Path(sys.argv[2]), largest=1_000_000, backend=backend)\n"
        "    decompiler.decompile(Path(sys.argv[1]), on_done=stop)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(TOYS)}
    done = subprocess.run([sys.executable, script, binary, tmp_path / "cache"], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    before = asked(binary)
    assert len(before) == 3
    told = Decompiler(tmp_path / "cache", largest=1_000_000, backend=backend).decompile(binary)
    assert asked(binary) == list(told)[3:]
    assert [each.failure for each in told.values()] == [None] * len(Program.read(binary).functions)


def test_a_corpus_takes_up_pseudo_code_and_counts_it(backend: Backend, binary: Path, tmp_path: Path) -> None:
    tree = embedded_sources()[0].parent
    plain = build_corpus(tree, [binary], "embedded")
    steps: list[tuple[str, int, int]] = []
    adding = PseudoCodeOfPairs(
        Decompiler(tmp_path / "cache", largest=400, backend=backend), lambda *step: steps.append(step)
    )
    corpus = build_corpus(tree, [binary], "embedded", adding)
    assert [replace(pair, pseudo=None, pseudo_twin=None) for pair in corpus.pairs] == plain.pairs
    manifest: dict[str, Any] = write_corpus(corpus, tmp_path / "out", "embedded")
    sizes = {function.address: function.size for function in Program.read(binary).functions}
    odd = sum(sizes[pair.address] <= 400 and sizes[pair.address] % 2 for pair in corpus.pairs)
    large = sum(sizes[pair.address] > 400 for pair in corpus.pairs)
    rest = {"done": len(corpus.pairs) - odd - large, "large": large, "truncated": odd}
    assert manifest["pseudo_code"] == {"decompiler": "stand-in 1", "stripped": rest, "unstripped": rest}
    assert manifest["leaks"] == 0
    assert "pseudo_code" not in write_corpus(plain, tmp_path / "plain", "embedded")
    pairs = read_pairs(tmp_path / "out" / "pairs.jsonl")
    assert pairs == corpus.pairs
    for pair in pairs:
        whole = sizes[pair.address] <= 400 and sizes[pair.address] % 2 == 0
        assert pair.pseudo == pair.pseudo_twin == (f"void {OWN_NAME}(void)\n{{\n}}" if whole else None)
    assert steps[0] == ("binary, stripped", 1, len(pairs))
    assert steps[-1] == ("binary, unstripped", len(pairs), len(pairs))


def test_pairs_of_another_binary_are_refused(backend: Backend, binary: Path, tmp_path: Path) -> None:
    pair = build_corpus(embedded_sources()[0].parent, [binary], "embedded").pairs[0]
    adding = PseudoCodeOfPairs(Decompiler(tmp_path, backend=backend))
    with pytest.raises(InputFileError, match=r"binary has no function at 0x1, the place of "):
        adding.add([replace(pair, address=1)], binary)


def test_a_file_without_its_symbol_table_is_as_if_it_were_stripped(build: Build) -> None:
    for architecture in ("x64", "arm"):
        twins = build(architecture)
        data = twins.unstripped.read_bytes()
        stripped = without_symbols(data)
        assert len(stripped) == len(data)
        image, real = parse_image(stripped, "a"), Program.read(twins.stripped).image
        assert image.symbols == real.symbols == ()
        assert image.exports == real.exports
        assert parse_image(data, "b").symbols


@pytest.mark.skipif(find_spec("angr") is not None, reason="angr is installed")
def test_without_angr_the_extra_is_named(build: Build, tmp_path: Path) -> None:
    with pytest.raises(MissingPartError, match=r"install cp-bcs\[angr\]"):
        Decompiler(tmp_path)
    with pytest.raises(MissingPartError, match=r"install cp-bcs\[angr\]"):
        find_functions_with_angr(build("x64").stripped)
    tree = str(embedded_sources()[0].parent)
    out = str(tmp_path / "out")
    wanted = ["corpus", "--src", tree, "--elf", str(build("x64").unstripped), "--out", out, "--pseudo"]
    result = CliRunner().invoke(app, wanted)
    assert isinstance(result.exception, MissingPartError)
    assert result.exception.exit_code == 4
    assert not Path(out).exists()


def test_what_is_no_binary_is_refused_before_anything_starts(backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="no ELF file"):
        Decompiler(tmp_path, backend=backend).decompile(Path(__file__))
    with pytest.raises(InputFileError, match="cannot be read"):
        find_functions_with_angr(tmp_path / "nothing")


def test_pseudo_code_hides_names_addresses_and_comments() -> None:
    text = (
        "// the whole of parse_all\n"
        "typedef struct struct_0 {\n    char padding_0[8];\n    struct struct_1 *field_8;\n} struct_0;\n\n"
        "typedef struct struct_1 {\n    union {\n        int a;\n    } field_0;\n} struct_1;\n"
        "extern unsigned long long g_410c00[4];\n\n\n"
        "int parse_all(char *a0)  // rax\n"
        "{\n"
        '    puts("parse_all: // no comment, sub_401340");  /* a\n       b */\n'
        "    parse_all.part.0(sub_401340(a0), parse_all_later, g_410c00[1]);\n"
        "    goto LABEL_4013ab;\n"
        "}\n/* cut off"
    )
    assert clean_pseudo(text, ["parse_all", "parse_all.part.0", ""]) == (
        f"int {OWN_NAME}(char *a0)\n"
        "{\n"
        f'    puts("{OWN_NAME}: // no comment, sub");\n'
        f"    {OWN_NAME}(sub(a0), parse_all_later, g[1]);\n"
        "    goto LABEL;\n"
        "}"
    )


def test_variables_are_numbered_as_they_come() -> None:
    text = 'int v18;  // r8\nint v3;\nvvar_35 = v18 + a1 + v3 + ptr4 + v3_of + field_18;\nf("v8");'
    assert clean_pseudo(text, []) == 'int v0;\nint v1;\nv2 = v0 + a1 + v1 + ptr4 + v3_of + field_18;\nf("v8");'
    assert clean_pseudo(text.replace("v18", "v7").replace("v3;", "v9;").replace("v3 ", "v9 "), []) == clean_pseudo(
        text, []
    )


@pytest.mark.parametrize(
    ("text", "lexemes"),
    [
        ("a0->field_8 = 0xffu;", ["a0", "->", "field_8", "=", "0xffu", ";"]),
        ("vvar_35{r64|4b} <<= 1", ["vvar_35", "{", "r64", "|", "4b", "}", "<<=", "1"]),
        (f'{OWN_NAME}("a \\" b", \'\\n\', 1.5e3)', [OWN_NAME, "(", '"a \\" b"', ",", "'\\n'", ",", "1.5e3", ")"]),
        ('goto *(v1 + "open', ["goto", "*", "(", "v1", "+", '"', "open"]),
        ("", []),
        ("é § \0", ["é", "§", "\0"]),
    ],
)
def test_pseudo_code_is_cut_into_lexemes_whatever_it_looks_like(text: str, lexemes: list[str]) -> None:
    assert pseudo_tokens(text) == lexemes
