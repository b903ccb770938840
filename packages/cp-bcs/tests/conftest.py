from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cp_bcs.binary.image import Architecture
from cp_bcs.data.compiling import Optimization, Twins, build_embedded
from mpo_core.errors import MissingPartError

Build = Callable[..., Twins]


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The package's own sources, built once for each kind; skips where a compiler is not installed."""
    folder = tmp_path_factory.mktemp("twins")
    done: dict[tuple[Architecture, Optimization, tuple[str, ...]], Twins] = {}

    def make(architecture: Architecture, optimization: Optimization = "O2", *flags: str) -> Twins:
        key = (architecture, optimization, flags)
        if key not in done:
            try:
                done[key] = build_embedded(folder, architecture, optimization, flags)
            except MissingPartError as error:
                pytest.skip(str(error))
        return done[key]

    return make


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
