from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cp_bcs.binary.image import Architecture
from cp_bcs.cli import app
from cp_bcs.data.compiling import Optimization, Twins, build_embedded, embedded_sources
from cp_bcs.data.corpus import build_corpus, write_corpus
from mpo_core.errors import MissingPartError

Build = Callable[..., Twins]


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The package's own sources, built once for each kind; skips where a compiler is not installed.

    The workers of a test run share the builds: each is made in a folder of its own, then renamed.
    """
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "twins"
    shared.mkdir(exist_ok=True)

    def make(architecture: Architecture, optimization: Optimization = "O2", *flags: str) -> Twins:
        place = shared / "-".join((architecture, optimization, *(flag.strip("-") for flag in flags)))
        if not place.exists():
            own = tmp_path_factory.mktemp("build")
            try:
                build_embedded(own, architecture, optimization, flags)
            except MissingPartError as error:
                pytest.skip(str(error))
            with contextlib.suppress(OSError):  # another worker was faster
                own.rename(place)
        stripped = next(place.glob("*.stripped"))
        return Twins(stripped.with_name(stripped.name.removesuffix(".stripped")), stripped)

    return make


@pytest.fixture(scope="session")
def corpus(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a corpus of the package's own sources, x64 at O2."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(build_corpus(embedded_sources()[0].parent, [build("x64").unstripped], "embedded"), folder, "embedded")
    return folder


@pytest.fixture(scope="session")
def run() -> Callable[..., str]:
    """Runs a command line of cp-bcs in this process; its errors are raised."""

    def command(*arguments: str | Path) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
        if result.exception is not None:
            raise result.exception
        return result.output

    return command


@pytest.fixture(scope="session")
def compile_c(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Twins]:
    """Builds C text as a library."""
    from cp_bcs.data.compiling import build_twins

    def make(text: str, name: str, architecture: Architecture = "x64", *flags: str) -> Twins:
        folder: Path = tmp_path_factory.mktemp(name)
        source = folder / f"{name}.c"
        source.write_text(text)
        try:
            return build_twins([source], folder, name, architecture, "O2", ("-shared", "-fPIC", *flags))
        except MissingPartError as error:
            pytest.skip(str(error))

    return make
