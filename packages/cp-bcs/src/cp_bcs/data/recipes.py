"""Recipes: how a Debian source package is built for an architecture at an optimization level.

A recipe names a source package, arguments of its ``configure``, make targets and the files they make. The sources come
through apt into a folder of the user's, with apt's own lists and caches there: nothing of the system is changed, and no
rights are needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError, field_validator

from cp_bcs.binary.image import Architecture
from cp_bcs.data.compiling import CompileError, Optimization, find_toolchain
from mpo_core.errors import InputFileError, MissingPartError, UsageError
from mpo_core.repro.config import StrictModel

HOSTS: Mapping[Architecture, str] = {"x64": "x86_64-linux-gnu", "x86": "i686-linux-gnu", "arm": "arm-linux-gnueabihf"}
_SUFFIX = ".yaml"
_DONE = "built"
_AS_SHIPPED = ("ACLOCAL=:", "AUTOCONF=:", "AUTOMAKE=:", "AUTOHEADER=:", "MAKEINFO=:")
"""Debian's patches make files look newer than what was generated of them; what is shipped is used all the same."""


class Recipe(StrictModel):
    """How one source package is built.

    Attributes:
        source: Debian source package.
        title: what it is.
        system: ``autotools``, or ``plain-configure`` for a hand-written script that takes the compiler from ``CC``.
        configure: its arguments.
        targets: arguments of ``make``; options and ``-C folder`` among them.
        then: arguments of a second ``make``.
        artefacts: files that hold the code, relative to the build.
        environment: of ``configure``.
    """

    source: str = Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$")
    title: str
    system: Literal["autotools", "plain-configure"] = "autotools"
    configure: tuple[str, ...] = ()
    targets: tuple[str, ...] = ("all",)
    then: tuple[str, ...] = ()
    artefacts: tuple[str, ...] = Field(min_length=1)
    environment: dict[str, str] = Field(default_factory=dict)

    @field_validator("artefacts")
    @classmethod
    def _inside(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(path.startswith("/") or ".." in Path(path).parts for path in value):
            raise ValueError("artefacts are paths inside the build")
        return value


@dataclass(frozen=True)
class Built:
    """What a recipe made.

    Args:
        tree: the sources it was made of.
        artefacts: unstripped files with debug information.
    """

    tree: Path
    artefacts: tuple[Path, ...]


def list_recipes() -> dict[str, Recipe]:
    """The package's own recipes by name."""
    folder = files("cp_bcs").joinpath("recipes")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(_SUFFIX))
    return {name.removesuffix(_SUFFIX): _parse(folder.joinpath(name).read_text(), name) for name in names}


def load_recipe(name_or_path: str) -> Recipe:
    """A recipe of the package, or the user's YAML file.

    Raises:
        UsageError: no recipe of that name.
        InputFileError: the file is no recipe.
    """
    if name_or_path.endswith(_SUFFIX):
        try:
            return _parse(Path(name_or_path).read_text(encoding="utf-8"), name_or_path)
        except OSError as error:
            raise InputFileError(f"{name_or_path} cannot be read: {error.strerror}.") from error
    own = list_recipes()
    if name_or_path not in own:
        raise UsageError(f"there is no recipe {name_or_path!r}; there are {', '.join(own)}.")
    return own[name_or_path]


def _parse(text: str, where: str) -> Recipe:
    try:
        return Recipe.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise InputFileError(f"{where} is no YAML: {str(error).splitlines()[0]}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "it"
        raise InputFileError(f"{where} is no recipe: {place}: {first['msg']}.") from error


def build(
    recipe: Recipe,
    architecture: Architecture,
    optimization: Optimization,
    work: Path,
    jobs: int = 1,
    extra_flags: Sequence[str] = (),
) -> Built:
    """Fetch, configure and make; what was made before is kept.

    Args:
        recipe: what to build.
        architecture: of the machine code.
        optimization: level.
        work: folder for sources and builds.
        jobs: of ``make``.
        extra_flags: of the compiler.

    Raises:
        MissingPartError: a program is not installed.
        CompileError: the build failed; names the log.
    """
    toolchain = find_toolchain(architecture)
    work = work.resolve()
    tree = fetch_source(recipe.source, work)
    place = work / "builds" / f"{recipe.source}-{architecture}-{optimization}"
    log, done = work / "logs" / f"{place.name}.log", place / _DONE
    artefacts = tuple(place / path for path in recipe.artefacts)
    if not done.exists():
        if place.exists():
            shutil.rmtree(place)
        shutil.copytree(tree, place, symlinks=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")
        flags = " ".join(("-g", f"-{optimization}", *toolchain.flags, *extra_flags))
        environment = {**os.environ, "CC": toolchain.compiler, "CFLAGS": flags, **recipe.environment}
        host = () if recipe.system == "plain-configure" else (f"--host={HOSTS[architecture]}",)
        _run(("./configure", *host, *recipe.configure), place, environment, log)
        for targets in (recipe.targets, recipe.then):
            if targets:
                _run(("make", f"-j{jobs}", *_AS_SHIPPED, *targets), place, environment, log)
        missing = [path.name for path in artefacts if not path.is_file()]
        if missing:
            raise CompileError(f"the build of {recipe.source} made no {missing[0]}; see {log}.")
        done.touch()
    return Built(tree, artefacts)


def fetch_source(package: str, work: Path) -> Path:
    """The unpacked sources of a Debian source package, as Debian patched them.

    Raises:
        MissingPartError: apt or dpkg-source is not installed.
        CompileError: the package cannot be fetched.
    """
    target = work / "sources" / package
    if target.is_dir():
        return target
    for program, needed in (("apt-get", "apt"), ("dpkg-source", "dpkg-dev")):
        if shutil.which(program) is None:
            raise MissingPartError(f"fetching sources needs {program}; on Debian: apt-get install {needed}.")
    options = _apt_options(work / "apt")
    log = work / "logs" / f"{package}-source.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("")
    if not (work / "apt" / "ready").exists():
        _run(("apt-get", *options, "update"), work, os.environ, log)
        (work / "apt" / "ready").touch()
    download = work / "downloads" / package
    shutil.rmtree(download, ignore_errors=True)
    download.mkdir(parents=True)
    _run(("apt-get", *options, "source", "--download-only", package), download, os.environ, log)
    descriptions = sorted(download.glob("*.dsc"))
    if not descriptions:
        raise CompileError(f"apt brought no source of {package}; see {log}.")
    unpacked = download / "unpacked"
    _run(("dpkg-source", "--no-check", "-x", descriptions[0].name, unpacked.name), download, os.environ, log)
    target.parent.mkdir(parents=True, exist_ok=True)
    unpacked.rename(target)
    return target


def _apt_options(folder: Path) -> tuple[str, ...]:
    """Apt's options to read the system's places of binary packages as places of source packages, and write here."""
    parts = folder / "sources.list.d"
    for needed in (parts, folder / "lists" / "partial", folder / "cache" / "archives" / "partial"):
        needed.mkdir(parents=True, exist_ok=True)
    for path in (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))):
        if path.suffix in (".list", ".sources") and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            lines = [_as_source(line) for line in text.splitlines()]
            (parts / path.name.replace("sources.list", "main.list")).write_text("\n".join(lines) + "\n")
    settings = {
        "Dir::Etc::SourceList": "/dev/null",
        "Dir::Etc::SourceParts": parts,
        "Dir::State::Lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "",
    }
    return tuple(part for name, value in settings.items() for part in ("-o", f"{name}={value}"))


def _as_source(line: str) -> str:
    if line.startswith("deb "):
        return f"deb-src {line[4:]}"
    return "Types: deb-src" if line.startswith("Types:") and "deb" in line.split() else line


def _run(command: Sequence[str | Path], folder: Path, environment: Mapping[str, str], log: Path) -> None:
    with log.open("ab") as output:
        output.write(f"$ {' '.join(map(str, command))}\n".encode())
        output.flush()
        done = subprocess.run(
            [str(part) for part in command],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        raise CompileError(f"{command[0]} failed with code {done.returncode}; see {log}.")
