"""What a paper package tells the reproduction floor about itself, without importing torch."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING

from mpo_core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpo_core.repro.config import StudyConfig
    from mpo_core.repro.record import TrialOutcome
    from mpo_core.repro.trial import Trial

ENTRY_POINT_GROUP = "mpo_core.papers"


@dataclass(frozen=True)
class Paper:
    """One paper package, as its entry point in the group ``mpo_core.papers`` names it.

    The rooms ``config.py`` (class ``Config``) and ``train.py`` (function ``run_trial``) are found by their agreed
    names and imported only when a run needs them.

    Args:
        name: the command and distribution name, for example ``mpop``.
        package: the import name.
        title: the paper's title.
        citation: authors, venue and year in one line.
    """

    name: str
    package: str
    title: str
    citation: str

    @property
    def files(self) -> Traversable:
        """The folder of the installed package, with ``paper.yaml`` and ``experiments/``."""
        return resources.files(self.package)

    @property
    def results(self) -> Traversable:
        """The committed records: inside an installed wheel, or beside ``src`` in a checkout."""
        inside = self.files.joinpath("results")
        if inside.is_dir() or not isinstance(self.files, Path):
            return inside
        return self.files.parents[1] / "results"

    @property
    def config_type(self) -> type[StudyConfig]:
        """The package's configuration model, ``<package>.config.Config``."""
        return importlib.import_module(f"{self.package}.config").Config

    @property
    def run_trial(self) -> Callable[[Trial, StudyConfig, Path], TrialOutcome]:
        """The package's ``<package>.train.run_trial``: one trial in, its outcome out."""
        return importlib.import_module(f"{self.package}.train").run_trial


def installed_papers() -> dict[str, Paper]:
    """All paper packages of this environment, by name in alphabetical order."""
    points = metadata.entry_points(group=ENTRY_POINT_GROUP)
    return {point.name: point.load() for point in sorted(points, key=lambda point: point.name)}


def get_paper(name: str) -> Paper:
    """The installed paper of that name.

    Raises:
        UsageError: when it is not installed; names those that are.
    """
    papers = installed_papers()
    if name not in papers:
        known = ", ".join(papers) or "none"
        raise UsageError(f"no paper package {name!r} is installed; installed: {known}.")
    return papers[name]
