from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import capstone
import pytest
from elftools.dwarf.callframe import FDE
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st

from cp_bcs.binary.exact_code import ExactCode
from cp_bcs.binary.exploring import Explorer
from cp_bcs.binary.facts import find_facts
from cp_bcs.binary.flow_graph import EdgeType, block_edges
from cp_bcs.binary.functions import Function
from cp_bcs.binary.instructions import Flow
from cp_bcs.binary.normalisation import SPECIAL, sequence
from cp_bcs.binary.program import Program
from cp_bcs.binary.reading import parse_image, read_image
from cp_bcs.binary.references import find_references
from cp_bcs.binary.unwind import read_extents, unwind_extents
from cp_bcs.data.compiling import Twins
from cp_bcs.evaluate import judge_discovery

Build = Callable[..., Twins]
KINDS: list[tuple[str, ...]] = [("x64",), ("x86",), ("arm",), ("arm", "-mthumb")]
NAMES = ["x64", "x86", "arm", "thumb"]
SYSTEM = [path for path in map(Path, ("/bin/ls", "/bin/bash", "/lib/x86_64-linux-gnu/libc.so.6")) if path.exists()]


def named(program: Program, name: str) -> Function:
    return next(function for function in program.functions if function.name == name)


@pytest.fixture(params=KINDS, ids=NAMES)
def twins(request: pytest.FixtureRequest, build: Build) -> Twins:
    architecture, *flags = request.param
    return build(architecture, "O2", *flags)


# -- where functions are -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
@pytest.mark.parametrize("optimization", ["O1", "O2", "O3"])
def test_functions_of_a_stripped_program_are_those_of_its_twin(build: Build, kind: Any, optimization: str) -> None:
    architecture, *flags = kind
    twins = build(architecture, optimization, *flags)
    assert not read_image(twins.stripped).symbols
    found = judge_discovery(Program.read(twins.stripped).functions, read_image(twins.unstripped))
    assert found.n > 150
    assert found.starts == 1
    assert found.modes == 1
    assert found.precision >= 0.98  # entries in the middle of the compiler's division routines
    if architecture != "arm":
        assert found.described > 150
        assert found.sizes == 1


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_functions_that_nothing_points_at_are_found(build: Build, kind: Any) -> None:
    architecture, *flags = kind
    twins = build(architecture, "O2", *flags, "-shared", "-fvisibility=hidden")
    found = judge_discovery(Program.read(twins.stripped).functions, read_image(twins.unstripped))
    assert found.starts >= 0.98
    assert found.precision >= 0.98


def test_without_unwind_tables_functions_are_found_by_their_code(build: Build) -> None:
    flags = ("-shared", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables")
    twins = build("x64", "O2", *flags)
    program = Program.read(twins.stripped)
    found = judge_discovery(program.functions, read_image(twins.unstripped))
    assert found.starts >= 0.98


@pytest.mark.parametrize("flags", [(), ("-no-pie", "-fno-pie")], ids=["pie", "fixed"])
@pytest.mark.parametrize("architecture", ["x64", "x86"])
def test_start_up_code_with_unwind_tables_does_not_hide_code_without(
    build: Build, architecture: Any, flags: tuple[str, ...]
) -> None:
    twins = build(architecture, "O2", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables", *flags)
    program = Program.read(twins.stripped)
    assert any(function.source == "unwind" for function in program.functions)  # of the C library's start-up code
    found = judge_discovery(program.functions, read_image(twins.unstripped))
    assert found.starts >= 0.98
    assert found.precision >= 0.98


@pytest.mark.parametrize("size", [100, 4096, 4097, 20_000])
def test_a_stretch_is_decoded_by_windows_as_at_once(twins: Twins, size: int) -> None:
    program = Program.read(twins.stripped)
    start = program.image.code[-2].start  # .text stands before .fini
    data = program.image.read(start, size)
    engine = program.disassembler._engines[0]
    expected: list[tuple[int, int, str]] = []
    place = 0
    while place < len(data):
        for address, length, mnemonic, operands in engine.disasm_lite(data[place:], start + place):
            expected.append((address, length, f"{mnemonic} {operands}"))
            place = address + length - start
        if place < len(data):
            step = min(4 if program.image.architecture == "arm" else 1, len(data) - place)
            expected.append((start + place, step, "(bad) "))
            place += step
    found = [(i.address, i.size, f"{i.mnemonic} {i.operands}") for i in program.disassembler.sweep(start, size)]
    assert found == expected


def test_numbers_are_addresses_only_where_a_file_is_linked_for_one_place(compile_c: Any) -> None:
    """``0x40010`` lies in the middle of this library's memory, and is no pointer all the same."""
    text = "unsigned masked(unsigned x) { return (x ^ 0x40010) * 0x40020; }"
    twins = compile_c(text, "masked", "x64", "-Wl,-Ttext-segment=0x40000")
    program = Program.read(twins.stripped)
    assert not program.image.fixed
    assert program.image.region_at(0x40300) is not None
    function = next(f for f in program.functions if f.name == "masked")
    assert find_references(program, function, program.code(function)[0]) == {}


def test_what_was_tried_before_does_not_change_what_is_sound(twins: Twins) -> None:
    program = Program.read(twins.stripped)
    thumb = any(function.thumb for function in program.functions)
    region = program.image.region_at(program.functions[0].address)
    assert region is not None
    trying, alone = (Explorer(program.disassembler, program.stubs) for _ in range(2))
    verdicts: list[bool] = []
    for place in range(
        region.start, region.start + 1500, 2 if thumb else 4 if program.image.architecture == "arm" else 1
    ):
        limit = next((f.address for f in program.functions if f.address > place), region.end)
        found = alone.explore(place, thumb, limit)
        verdicts.append(trying.is_sound(place, thumb, limit))
        assert verdicts[-1] == (found.sound and bool(found.instructions)), hex(place)
    assert 0 < sum(verdicts) < len(verdicts)


@pytest.mark.parametrize("path", SYSTEM, ids=lambda path: path.name)
def test_extents_equal_those_of_pyelftools(path: Path) -> None:
    with path.open("rb") as file:
        entries = ELFFile(file).get_dwarf_info(relocate_dwarf_sections=False).EH_CFI_entries()
        expected = {
            (entry.header.initial_location, entry.header.address_range) for entry in entries if isinstance(entry, FDE)
        }
    assert {(e.start, e.size) for e in unwind_extents(read_image(path))} == expected


def test_a_file_without_section_headers_gives_the_same_functions(build: Build) -> None:
    data = bytearray(build("x64").stripped.read_bytes())
    whole = Program(parse_image(bytes(data), "whole"))
    struct.pack_into("<Q", data, 40, 0)  # e_shoff
    struct.pack_into("<HHH", data, 58, 0, 0, 0)  # e_shentsize, e_shnum, e_shstrndx
    bare = Program(parse_image(bytes(data), "bare"))
    assert bare.image.imports == whole.image.imports
    starts = {function.address: function.size for function in bare.functions}
    assert {function.address: function.size for function in whole.functions if function.exact}.items() <= starts.items()


def test_section_headers_that_hide_the_code_are_not_believed(build: Build, tmp_path: Path) -> None:
    stripped = build("x64").stripped
    hidden = tmp_path / "hidden"
    flags = ".text=alloc,load,readonly,data,contents"
    subprocess.run(["objcopy", "--set-section-flags", flags, stripped, hidden], check=True, capture_output=True)
    program = Program.read(hidden)
    assert any("section headers do not tell where code is" in note for note in program.image.notes)
    starts = {function.address for function in Program.read(stripped).functions if function.exact}
    assert starts <= {function.address for function in program.functions}


ALIKE = """
static const unsigned char table_a[16] = {1, 2, 3, 4, 5, 6, 7, 8}, table_b[16] = {8, 7, 6, 5, 4, 3, 2, 1};
unsigned crc_a(const unsigned char *p, int n)
{ unsigned c = ~0u; while (n--) { c ^= *p++; for (int k = 8; k; k--) c = c >> 1 ^ (0xedb88320u & -(c & 1)); }
  return ~c; }
unsigned crc_b(const unsigned char *p, int n)
{ unsigned c = ~0u; while (n--) { c ^= *p++; for (int k = 8; k; k--) c = c >> 1 ^ (0x82f63b78u & -(c & 1)); }
  return ~c; }
int look_a(int n) { int s = 0; while (n > 0) s += table_a[n-- & 15]; return s; }
int look_b(int n) { int s = 0; while (n > 0) s += table_b[n-- & 15]; return s; }
__attribute__((noinline)) static int down(int n) { int s = 1; while (n > 7) { s *= n; n -= 7; } return s; }
__attribute__((noinline)) static int up(int n) { int s = 1; while (n < 7) { s *= n; n += 3; } return s; }
int by_a(int n) { int s = 0; while (n) s += down(n--); return s; }
int by_b(int n) { int s = 0; while (n) s += up(n--); return s; }
"""


@pytest.mark.parametrize("kind", [("x64",), ("x86",), ("arm",), ("arm", "-mthumb")], ids=NAMES)
def test_functions_of_one_shape_with_other_constants_tables_or_callees_are_not_the_same_code(
    compile_c: Any, kind: tuple[str, ...]
) -> None:
    architecture, *flags = kind
    twins = compile_c(ALIKE, "alike", architecture, *flags)
    program = Program.read(twins.stripped)
    # Elsewhere in memory, with other functions before them, they are the same code.
    moved = compile_c("int first(int x) { return x * 3 + 1; }\n" + ALIKE, "moved", architecture, *flags)
    other = Program.read(moved.stripped)
    here, there = ExactCode(program), ExactCode(other)
    for kind_of in ("crc", "look", "by"):
        a, b = (find_facts(program, named(program, f"{kind_of}_{letter}")) for letter in "ab")
        if architecture != "arm":  # there numbers decide how they are made
            assert [n.key for n in a.normalized] == [n.key for n in b.normalized]
        assert here.digest(a) != here.digest(b), kind_of
        again = find_facts(other, named(other, f"{kind_of}_a"))
        assert there.digest(again) == here.digest(a), kind_of


# -- what is in them ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["x64", "x86"])
def test_flow_agrees_with_capstones_instruction_groups(build: Build, architecture: str) -> None:
    program = Program.read(build(architecture).stripped)
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64 if architecture == "x64" else capstone.CS_MODE_32)
    engine.detail = True
    seen = 0
    for function in program.functions:
        expected = list(engine.disasm(program.image.read(function.address, function.size), function.address))
        nodes = program.flow_graph(function).instructions
        assert [(i.address, i.size) for i in expected] == [(n.address, n.size) for n in nodes]
        for instruction, node in zip(expected, nodes, strict=True):
            flow, target = program.disassembler.step(node)
            groups = set(instruction.groups)
            assert (capstone.CS_GRP_CALL in groups) == (flow is Flow.CALL), instruction
            assert (capstone.CS_GRP_RET in groups) == (flow is Flow.RETURN), instruction
            assert (capstone.CS_GRP_JUMP in groups) == (flow in (Flow.JUMP, Flow.BRANCH)), instruction
            if flow in (Flow.JUMP, Flow.BRANCH, Flow.CALL):
                operand = instruction.operands[0]
                assert target == (operand.imm if operand.type == capstone.CS_OP_IMM else None)
                seen += 1
    assert seen > 1000


@pytest.mark.parametrize("thumb", [False, True], ids=["arm", "thumb"])
def test_flow_on_arm_agrees_with_capstones_instruction_groups(build: Build, thumb: bool) -> None:
    program = Program.read(build("arm", "O2", *(("-mthumb",) if thumb else ())).stripped)
    seen = 0
    for function in program.functions:
        mode = capstone.CS_MODE_THUMB if function.thumb else capstone.CS_MODE_ARM
        engine = capstone.Cs(capstone.CS_ARCH_ARM, mode | capstone.CS_MODE_V8)
        engine.detail = True
        for node in program.flow_graph(function).instructions:
            instruction = next(engine.disasm(program.image.read(node.address, node.size), node.address))
            flow, target = program.disassembler.step(node)
            _, written = instruction.regs_access()
            goes = capstone.CS_GRP_JUMP in instruction.groups or capstone.arm.ARM_REG_PC in written
            if capstone.CS_GRP_CALL in instruction.groups or node.mnemonic.startswith("bl"):
                goes = goes or flow is Flow.CALL
            assert goes == (flow not in (Flow.NEXT, Flow.STOP)), instruction
            immediates = [o.imm for o in instruction.operands if o.type == capstone.CS_OP_IMM]
            if target is not None:
                assert target == immediates[-1]
                seen += 1
    assert seen > 1000


def test_instructions_tile_their_function(build: Build) -> None:
    for architecture in ("x64", "x86"):
        program = Program.read(build(architecture).stripped)
        for function in program.functions:
            nodes = program.flow_graph(function).instructions
            place = function.address
            for node in nodes:
                assert node.address == place
                place = node.end
            assert place == function.end


def test_edges_stay_inside_and_blocks_partition_the_nodes(twins: Twins) -> None:
    program = Program.read(twins.unstripped)
    for function in program.functions:
        graph = program.flow_graph(function)
        count = len(graph.instructions)
        assert all(0 <= source < count and 0 <= target < count for source, target, _ in graph.edges)
        assert [node for block in graph.blocks for node in block] == list(range(count))
        entries = {target for _, target, why in graph.edges if why is not EdgeType.NEXT}
        firsts = {block[0] for block in graph.blocks}
        assert entries <= firsts
        inside = {(a, b) for block in graph.blocks for a, b in pairwise(block)}
        between = {(graph.blocks[a][-1], graph.blocks[b][0]) for a, b, _ in block_edges(graph.blocks, graph.edges)}
        assert inside | between == {(a, b) for a, b, _ in graph.edges}


def test_every_instruction_of_a_function_is_reached(twins: Twins) -> None:
    """In code without computed tail calls all of a function is reached from its start, padding aside."""
    program = Program.read(twins.unstripped)
    for name in ("vm_run", "vm_status_text", "date_format", "strbuf_format", "list_reverse"):
        graph = program.flow_graph(named(program, name))
        following: dict[int, set[int]] = {}
        for source, target, _ in graph.edges:
            following.setdefault(source, set()).add(target)
        reached, waiting = {0}, [0]
        while waiting:
            for node in following.get(waiting.pop(), set()) - reached:
                reached.add(node)
                waiting.append(node)
        left = [node for number, node in enumerate(graph.instructions) if number not in reached]
        assert all(node.mnemonic in ("nop", "lea", "xchg", "data16 nop", "cs nop") for node in left), (name, left)
        assert not graph.unresolved


def test_a_switch_is_followed_through_its_table(twins: Twins) -> None:
    program = Program.read(twins.unstripped)
    edges = program.flow_graph(named(program, "vm_run")).edges
    assert len([edge for edge in edges if edge[2] is EdgeType.TABLE]) >= 8


def test_calls_and_strings_are_named(twins: Twins) -> None:
    program = Program.read(twins.stripped)
    facts = [find_facts(program, function) for function in program.functions]
    names = {call.name for each in facts for call in each.calls.values() if call.name}
    assert {"malloc", "free", "strcmp", "fopen"} <= names
    strings = {text for each in facts for text in each.strings}
    expected = {"crc32", "%02d", "%04d"}
    assert expected <= strings
    internal = {call.target for each in facts for call in each.calls.values() if call.target is not None}
    assert len(internal & set(program.by_address)) > 50


def test_the_same_strings_are_seen_on_every_architecture(build: Build) -> None:
    found: list[set[str]] = []
    for architecture, *flags in KINDS:
        program = Program.read(build(architecture, "O2", *flags, "-shared").stripped)
        texts = {text for function in program.functions for text in find_facts(program, function).strings}
        found.append({text for text in texts if len(text) > 3})
    for other in found[1:]:
        assert len(found[0] & other) >= 0.95 * len(found[0])  # vector code copies some from constants


def test_a_library_that_calls_itself_through_a_stub_names_no_import(compile_c: Callable[..., Twins]) -> None:
    text = "int helper(int a) { return a * 3 + 1; }\nint user(int a) { return helper(a + 2) - 5; }\n"
    program = Program.read(compile_c(text, "selfcall", "x64", "-fno-inline", "-fno-ipa-cp").stripped)
    calls = find_facts(program, named(program, "user")).calls
    assert [(call.name, call.target) for call in calls.values()] == [(None, named(program, "helper").address)]


def test_cold_parts_belong_to_their_function(compile_c: Callable[..., Twins]) -> None:
    text = """
    #include <stdio.h>
    #include <stdlib.h>
    __attribute__((cold, noinline)) void complain(int a) { fprintf(stderr, "bad %d\\n", a); }
    int work(int a) {
        if (__builtin_expect(a < 0, 0)) { complain(a); complain(a + 1); abort(); }
        return a * 7;
    }
    """
    twins = compile_c(text, "cold")
    image = read_image(twins.unstripped)
    address = {symbol.name: symbol.address for symbol in image.symbols}
    assert Program.read(twins.stripped).parts == {address["work.cold"]: address["work"]}


def test_normalised_code_keeps_names_and_hides_numbers(build: Build) -> None:
    program = Program.read(build("x64").unstripped)
    facts = find_facts(program, named(program, "sum_by_name"))
    keys = {instruction.key: instruction.text for instruction in facts.normalized}
    assert keys["call <ECALL>"] == "strcmp"
    assert any(key.startswith("lea ") and key.endswith("<STRING>") and text == "crc32" for key, text in keys.items())
    assert any("<JUMP>" in key for key in keys)
    row = sequence(facts.normalized, texts=False)
    assert "strcmp" not in row
    assert "strcmp" in sequence(facts.normalized)
    digits = [token for token in row if any(c.isdigit() for c in token) and token not in SPECIAL]
    assert all(not token[0].isdigit() for token in digits)  # registers only


@pytest.mark.parametrize(
    ("value", "token"), [("0.5f", "<POSITIVE>"), ("-0.234375f", "<NEGATIVE>"), ("31.0f", "<POSITIVE>")]
)
def test_a_fraction_is_one_constant(compile_c: Callable[..., Twins], value: str, token: str) -> None:
    """``vmov.f32 s0, #5.000000e-01``: gcc writes such immediates for ARM."""
    twins = compile_c(f"float constant(void) {{ return {value}; }}\n", f"constant{len(value)}", "arm")
    program = Program.read(twins.unstripped)
    row = sequence(find_facts(program, named(program, "constant")).normalized)
    assert row[: row.index("s0") + 2] == ["vmov.f32", "s0", token]


def test_own_names_are_not_in_the_code(twins: Twins) -> None:
    """Names of the file's own functions, which a library exports, are no part of what models read."""
    program = Program.read(twins.unstripped)
    own = {function.name for function in program.functions if function.name}
    strings = {text for f in program.functions for text in find_facts(program, f).strings}
    for function in program.functions:
        tokens = set(sequence(find_facts(program, function).normalized))
        assert not {token for token in tokens & own if token not in strings and len(token) > 5}


# -- what is no program ------------------------------------------------------------------------------------------


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_unwind_tables_are_read_with_bounds(data: Any) -> None:
    table = bytearray(data.draw(st.binary(max_size=200)))
    for extent in read_extents(bytes(table), 0x1000, data.draw(st.sampled_from([4, 8]))):
        assert extent.start >= 0
