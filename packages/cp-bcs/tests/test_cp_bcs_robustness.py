from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cp_bcs.binary.damage import DAMAGES, Damage, damaged
from cp_bcs.binary.facts import find_facts
from cp_bcs.binary.program import Program
from cp_bcs.binary.reading import parse_image, read_image
from cp_bcs.data.compiling import CompileError, Twins, build_twins
from mpo_core.errors import InputFileError, MissingPartError

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
TEXT = """
#include <stdlib.h>
#include <string.h>
int pick(int a) {
    switch (a) {
    case 0: return 7; case 1: return 19; case 2: return 23; case 3: return 5;
    case 4: return 2; case 5: return 88; case 6: return 41; default: return a * 3;
    }
}
char *copy(const char *text) { char *p = malloc(strlen(text) + 4); return p ? strcpy(p, text) : NULL; }
int both(const char *text) { char *p = copy(text); int n = p ? pick(p[0] - '0') : -1; free(p); return n; }
"""


@pytest.fixture(scope="module", params=["x64", "x86", "arm"])
def library(request: pytest.FixtureRequest, compile_c: Callable[..., Twins]) -> bytes:
    return compile_c(TEXT, "small", request.param).stripped.read_bytes()


def use(data: bytes) -> int:
    """Everything that a damaged file could mislead; the number of functions."""
    program = Program(parse_image(data, "damaged"))
    for function in program.functions:
        find_facts(program, function).normalized  # noqa: B018
    return len(program.functions)


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_files_are_read_in_part_or_refused(library: bytes, kind: Damage) -> None:
    assert use(library) >= 3
    refusals: list[str] = []
    for seed in range(60):
        try:
            use(damaged(library, kind, seed))
        except InputFileError as error:
            refusals.append(str(error))
    assert all(refusal.endswith(".") for refusal in refusals)
    assert refusals or kind not in ("header", "truncated", "random")


def test_what_is_damaged_and_not_needed_is_noted(library: bytes) -> None:
    data = bytearray(library)
    struct.pack_into("<H", data, 60 if data[4] == 2 else 48, 0xFFF0)  # number of sections
    image = parse_image(bytes(data), "x")
    assert any("section headers" in note for note in image.notes)
    assert image.regions


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no ELF file"),
        (b"MZ\x90\x00" + bytes(60), "a PE"),
        (b"\xcf\xfa\xed\xfe" + bytes(60), "a Mach-O"),
        (b"!<arch>\n" + bytes(60), "a static library"),
        (b"#!/bin/sh\n", "a script"),
        (b"\x7fELF", "damaged ELF file"),
        (b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, 183) + bytes(44), "for AARCH64"),
        (b"\x7fELF\x01\x02\x01" + bytes(9) + struct.pack(">HH", 3, 40) + bytes(32), "big-endian ARM"),
        (b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 1, 62) + bytes(44), "a relocatable object"),
        (b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 4, 62) + bytes(44), "a core dump"),
        (b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, 62) + bytes(44), "holds no code"),
    ],
)
def test_what_is_no_program_is_refused_in_one_sentence(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(InputFileError, match=said) as caught:
        read_image(path)
    assert caught.value.exit_code == 3
    assert str(caught.value).count(". ") == 0


def test_folders_and_missing_files_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputFileError, match="cannot be read"):
            read_image(path)


def test_a_missing_compiler_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingPartError, match="apt-get install gcc-arm-linux-gnueabihf") as caught:
        build_twins([], tmp_path, "x", "arm")
    assert caught.value.exit_code == 4


@needs_gcc
def test_what_the_compiler_refuses_is_told(tmp_path: Path) -> None:
    source = tmp_path / "wrong.c"
    source.write_text("int f(void) { return missing; }\n")
    with pytest.raises(CompileError, match="missing"):
        build_twins([source], tmp_path, "wrong", "x64", flags=("-shared", "-fPIC"))


@needs_gcc
def test_objects_are_told_to_be_linked_first(tmp_path: Path) -> None:
    source, target = tmp_path / "a.c", tmp_path / "a.o"
    source.write_text("int f(void) { return 3; }\n")
    subprocess.run(["gcc", "-c", "-o", target, source], check=True)
    with pytest.raises(InputFileError, match="link it first"):
        read_image(target)
