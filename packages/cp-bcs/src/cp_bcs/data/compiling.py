"""Compilers for the three architectures, and the package's own C sources built with them.

Each build is a pair of twins: the linked file with symbols and DWARF, and the same file stripped of both. What the
first one tells about the second is the free supervision that this package lives on.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal

from cp_bcs.binary.image import Architecture
from mpo_core.errors import MissingPartError, MPOError

Optimization = Literal["O0", "O1", "O2", "O3", "Os"]


@dataclass(frozen=True)
class Toolchain:
    """The programs that build for one architecture.

    Args:
        compiler: command of the C compiler.
        strip: command that removes symbols.
        package: the Debian package that installs both.
        flags: what makes the compiler write the paper's kind of code.
    """

    compiler: str
    strip: str
    package: str
    flags: tuple[str, ...] = ()


TOOLCHAINS: dict[Architecture, Toolchain] = {
    "x64": Toolchain("gcc", "strip", "gcc"),
    "x86": Toolchain("i686-linux-gnu-gcc", "i686-linux-gnu-strip", "gcc-i686-linux-gnu"),
    # The paper's ARM is A32; Debian's compiler writes Thumb-2 unless told otherwise.
    "arm": Toolchain("arm-linux-gnueabihf-gcc", "arm-linux-gnueabihf-strip", "gcc-arm-linux-gnueabihf", ("-marm",)),
}


class CompileError(MPOError, RuntimeError):
    """A compiler refused a source."""


@dataclass(frozen=True)
class Twins:
    """One build.

    Args:
        unstripped: with symbols and DWARF.
        stripped: the same without both.
    """

    unstripped: Path
    stripped: Path


def embedded_sources() -> list[Path]:
    """The package's own C files.

    Raises:
        MPOError: the package was installed as a zip archive, from which no compiler reads.
    """
    with as_file(files("cp_bcs").joinpath("sources")) as folder:
        return sorted(folder.glob("*.c"))


def find_toolchain(architecture: Architecture) -> Toolchain:
    """The programs for an architecture.

    Raises:
        MissingPartError: one of them is not installed; names the Debian package.
    """
    toolchain = TOOLCHAINS[architecture]
    for program in (toolchain.compiler, toolchain.strip):
        if shutil.which(program) is None:
            raise MissingPartError(
                f"building for {architecture} needs {program}, which is not installed; on Debian: "
                f"apt-get install {toolchain.package}."
            )
    return toolchain


def build_twins(
    sources: Sequence[Path],
    folder: Path,
    name: str,
    architecture: Architecture,
    optimization: Optimization = "O2",
    flags: Sequence[str] = (),
) -> Twins:
    """Compile C files into one program, or into a shared library with ``-shared`` among the flags.

    Args:
        sources: the files; those that define ``main`` are left out of a library by the caller.
        folder: gets both files; it is made where it is missing.
        name: of the unstripped file; the stripped one gets ``.stripped`` behind it.
        architecture: of the machine code.
        optimization: level.
        flags: further ones.

    Raises:
        MissingPartError: the compiler is not installed.
        CompileError: it refused a source.
    """
    toolchain = find_toolchain(architecture)
    folder.mkdir(parents=True, exist_ok=True)
    twins = Twins(folder / name, folder / f"{name}.stripped")
    options = ("-std=gnu11", "-g", f"-{optimization}", *toolchain.flags, *flags)
    _run([toolchain.compiler, *options, "-o", twins.unstripped, *sources])
    _run([toolchain.strip, "--strip-all", "-o", twins.stripped, twins.unstripped])
    return twins


def build_embedded(
    folder: Path, architecture: Architecture, optimization: Optimization = "O2", flags: Sequence[str] = ()
) -> Twins:
    """Build the package's own sources into one program, or into a library with ``-shared`` among the flags."""
    sources = [path for path in embedded_sources() if path.name != "main.c" or "-shared" not in flags]
    position = ("-fPIC",) if "-shared" in flags else ("-fPIE", "-pie")
    name = "-".join(("embedded", architecture, optimization, *(flag.strip("-") for flag in flags)))
    return build_twins(sources, folder, name, architecture, optimization, (*position, *flags))


def _run(command: Sequence[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        first = next(
            (line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip() or "no message"
        )
        raise CompileError(f"{command[0]} failed: {first}")
