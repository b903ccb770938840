"""Functions known by name alone: those of a build with symbols, whose sources need not be there.

They carry no sentence; what a reader of a stripped binary gets of them is that a function is, say, zlib's ``inflate``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cp_bcs.binary.exact_code import ExactCode
from cp_bcs.binary.facts import find_facts
from cp_bcs.binary.program import Program
from cp_bcs.binary.reading import read_image
from cp_bcs.data.corpus import SHORTEST_CODE
from cp_bcs.data.pairs import Pair, code_of
from mpo_core.errors import InputFileError


def named_functions(path: Path, project: str) -> list[Pair]:
    """The functions that a binary's symbols name, as pairs without a sentence.

    Args:
        path: an unstripped ELF file, or a library that exports its functions.
        project: name.

    Raises:
        InputFileError: it is no ELF file, or names no function.
    """
    image = read_image(path)
    names = {each.address: each.name for each in Program(image).functions if each.name}
    if not names:
        raise InputFileError(f"{path} names no function: it is stripped; give the build before it was.")
    program = Program(replace(image, symbols=()))  # read as a stripped file will be
    exact = ExactCode(program)
    found: list[Pair] = []
    for function in program.functions:
        name = names.get(function.address)
        if name is None:
            continue
        facts = find_facts(program, function)
        if len(facts.graph.instructions) >= SHORTEST_CODE:
            found.append(
                Pair(
                    project=project,
                    file=path.name,
                    line=0,
                    name=name,
                    architecture=image.architecture,
                    optimization="",
                    address=function.address,
                    sentence="",
                    **code_of(facts, exact, (name,)),  # pyright: ignore[reportArgumentType]
                )
            )
    return found
