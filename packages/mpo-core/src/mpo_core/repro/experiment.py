"""Experiment files: one file per result of a paper; its three scales merge into a checked configuration."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from mpo_core.errors import InputFileError, UsageError
from mpo_core.repro.claims import load_claims
from mpo_core.repro.config import SCALES, Scale, StrictModel, StudyConfig
from mpo_core.repro.paper import Paper
from mpo_core.repro.reading import (
    nearest,
    parse_yaml,
    read_yaml_mapping,
    validation_sentence,
)

FOLDER = "experiments"
SUFFIX = ".yaml"


class ExperimentFile(StrictModel):
    """One experiment file.

    Attributes:
        name: what the command line calls it; the file's own name without ``.yaml``.
        title: one line.
        reproduces: ids of the tables of ``paper.yaml`` that it measures.
        quickstart: whether ``repro quickstart`` runs it, offline, at smoke scale.
        config: what the scales share; validated by the paper's configuration model.
        scales: scale -> what differs from ``config`` there.
        extends: another experiment of the paper, whose ``config`` and ``scales`` these merge into.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    title: str
    reproduces: tuple[str, ...] = ()
    quickstart: bool = False
    config: dict[str, Any] = Field(default_factory=dict)
    scales: dict[Scale, dict[str, Any]] = Field(default_factory=dict)
    extends: str | None = None

    @field_validator("scales", mode="before")
    @classmethod
    def _empty_scale_differs_in_nothing(cls, scales: Any) -> Any:
        if not isinstance(scales, dict):
            return scales
        return {name: {} if part is None else part for name, part in scales.items()}


def list_experiments(paper: Paper) -> dict[str, ExperimentFile]:
    """The experiments that a paper package brings, by name in alphabetical order.

    Raises:
        InputFileError: one of the files is not an experiment file.
    """
    folder = paper.files.joinpath(FOLDER)
    if not folder.is_dir():
        return {}
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(SUFFIX)), key=lambda f: f.name)
    return {file.name.removesuffix(SUFFIX): _read_own(paper, file) for file in files}


def load_experiment(paper: Paper, name_or_path: str) -> ExperimentFile:
    """One experiment: a name of the paper's own, or the path of the user's YAML file.

    Raises:
        UsageError: no experiment of that name; names the nearest one and lists all.
        InputFileError: the file cannot be read, or is not an experiment file.
    """
    if name_or_path.endswith(SUFFIX):
        return _read_users(paper, Path(name_or_path))
    folder = paper.files.joinpath(FOLDER)
    known = sorted(f.name.removesuffix(SUFFIX) for f in folder.iterdir()) if folder.is_dir() else []
    if name_or_path not in known:
        raise UsageError(f"{paper.name} has no experiment {name_or_path!r} ({nearest(name_or_path, known)}).")
    return _read_own(paper, folder.joinpath(f"{name_or_path}{SUFFIX}"))


def resolve(
    paper: Paper,
    experiment: ExperimentFile,
    scale: Scale,
    overrides: Sequence[str] = (),
    seeds: int | None = None,
) -> tuple[StudyConfig[Any], dict[str, Any]]:
    """Merge an experiment's shared part, one scale and the user's overrides into a validated configuration.

    A mapping merges into a mapping, anything else replaces what stood there. In a scale or an override,
    ``null`` for an arm drops that arm.

    Args:
        paper: the paper, whose ``config_type`` validates.
        experiment: the file's contents.
        scale: ``smoke``, ``small`` or ``paper``.
        overrides: ``key.sub=value`` with the value in YAML.
        seeds: N runs the seeds 0 to N - 1 instead of the file's.

    Returns:
        The configuration, and the same with every default filled in as plain JSON types.

    Raises:
        UsageError: an override is no ``key=value``, or sets what the configuration does not have.
        InputFileError: the file's own values are refused.
    """
    where = f"experiment {experiment.name!r} at scale {scale}"
    if scale not in experiment.scales:
        known = ", ".join(name for name in SCALES if name in experiment.scales) or "none"
        raise UsageError(f"experiment {experiment.name!r} has no scale {scale!r}; its scales: {known}.")
    merged = _merge_arms_too(experiment.config, experiment.scales[scale], InputFileError, where)
    from_file = merged
    for override in overrides:
        keys, value = _parse_override(override)
        option = f"--set {override}"
        arms = merged.get("arms")
        if keys[0] == "arms" and len(keys) > 2 and isinstance(arms, dict) and keys[1] not in arms:
            raise UsageError(f"{option}: there is no arm {keys[1]!r} ({nearest(keys[1], arms)}).")
        layer: Any = value
        for key in reversed(keys):
            layer = {key: layer}
        merged = _merge_arms_too(merged, layer, UsageError, option)
    if seeds is not None:
        if seeds < 1:
            raise UsageError(f"seeds must be at least 1, found {seeds}.")
        merged = merged | {"seeds": list(range(seeds))}
    config = _validate(paper, merged, from_file, where)
    return config, config.model_dump(mode="json")


def check_paper(paper: Paper) -> None:
    """Check a whole paper package: every experiment at every scale, and what claims say of experiments.

    Raises:
        InputFileError: a file is refused, or names an experiment, table or arm that is not there.
    """
    entries = list_experiments(paper)
    arms: dict[str, set[str]] = {}
    for name, entry in entries.items():
        configs = [resolve(paper, entry, scale)[0] for scale in entry.scales]
        arms[name] = {arm for config in configs for arm in config.arms}
    for claim in load_claims(paper).claims:
        if claim.experiment is None or claim.check is None:
            continue
        where = f"paper.yaml of {paper.name}, claim {claim.id!r}"
        if claim.experiment not in entries:
            raise InputFileError(f"{where}: no experiment {claim.experiment!r} ({nearest(claim.experiment, entries)}).")
        for arm in claim.check.arms:
            if arm not in arms[claim.experiment]:
                hint = nearest(arm, sorted(arms[claim.experiment]))
                raise InputFileError(f"{where}: no arm {arm!r} in {claim.experiment!r} ({hint}).")


def _read_own(paper: Paper, file: Traversable, below: bool = False) -> ExperimentFile:
    """One of the paper's own files; one that another extends may not itself extend."""
    where = f"{paper.name}/{FOLDER}/{file.name}"
    entry = _parse(paper, file.read_text(encoding="utf-8"), where, below)
    if f"{entry.name}{SUFFIX}" != file.name:
        raise InputFileError(f"{where}: 'name' is {entry.name!r}; expected the file's own name without {SUFFIX}.")
    return entry


def _read_users(paper: Paper, path: Path) -> ExperimentFile:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputFileError(f"cannot read the experiment file {path}: {reason}; give a YAML file.") from error
    return _parse(paper, text, str(path))


def _parse(paper: Paper, text: str, where: str, below: bool = False) -> ExperimentFile:
    document = read_yaml_mapping(text, where)
    try:
        entry = ExperimentFile.model_validate(document)
    except ValidationError as error:
        raise InputFileError(validation_sentence(error, ExperimentFile, where)) from error
    if below and entry.extends is not None:
        raise InputFileError(f"{where}: it extends {entry.extends!r} and is extended itself; one step is enough.")
    if entry.extends is not None:
        entry = _extended(paper, entry, where)
    if not entry.config or not entry.scales:
        raise InputFileError(f"{where}: an experiment needs 'config' and 'scales', or one that it extends.")
    if entry.reproduces:
        tables = [table.id for table in load_claims(paper).tables]
        for table in entry.reproduces:
            if table not in tables:
                hint = nearest(table, tables)
                raise InputFileError(f"{where}: 'reproduces' names no table {table!r} of paper.yaml ({hint}).")
    return entry


def _extended(paper: Paper, entry: ExperimentFile, where: str) -> ExperimentFile:
    """The entry merged into the one that it extends."""
    folder = paper.files.joinpath(FOLDER)
    known = sorted(file.name.removesuffix(SUFFIX) for file in folder.iterdir()) if folder.is_dir() else []
    name = str(entry.extends)
    if name not in known or name == entry.name:
        raise InputFileError(f"{where}: 'extends' names no other experiment {name!r} ({nearest(name, known)}).")
    base = _read_own(paper, folder.joinpath(f"{name}{SUFFIX}"), below=True)
    config = _merge_arms_too(base.config, entry.config, InputFileError, where)
    scales: dict[Scale, dict[str, Any]] = dict(base.scales)
    for scale, differs in entry.scales.items():
        scales[scale] = _merge(scales.get(scale, {}), differs)
    return entry.model_copy(update={"config": config, "scales": scales})


def _parse_override(override: str) -> tuple[tuple[str, ...], Any]:
    path, equals, text = override.partition("=")
    keys = tuple(key.strip() for key in path.split("."))
    if not equals or not all(keys):
        raise UsageError(f"--set {override!r} is no assignment; expected key=value, for example training.epochs=1.")
    try:
        return keys, parse_yaml(text)
    except ValueError as error:
        raise UsageError(f"--set {override!r}: the value is not YAML ({error}); quote it.") from error


def _merge(base: dict[str, Any], layer: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in layer.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _merge_arms_too(
    base: dict[str, Any], layer: dict[str, Any], refusal: type[UsageError | InputFileError], where: str
) -> dict[str, Any]:
    """Merge, and drop the arms that the layer sets to null."""
    merged = _merge(base, layer)
    arms = layer.get("arms")
    if not isinstance(arms, dict):
        return merged
    known = base.get("arms")
    known = known if isinstance(known, dict) else {}
    dropped = [arm for arm, value in arms.items() if value is None]
    for arm in dropped:
        if arm not in known:
            raise refusal(f"{where}: cannot drop the arm {arm!r}, which is not there ({nearest(str(arm), known)}).")
    merged["arms"] = {arm: value for arm, value in merged["arms"].items() if arm not in dropped}
    return merged


def _validate(paper: Paper, merged: dict[str, Any], from_file: dict[str, Any], where: str) -> StudyConfig[Any]:
    model = paper.config_type
    try:
        config = model.model_validate(merged)
    except ValidationError as error:
        # What the file alone gets right, the user's overrides got wrong.
        by_user = merged != from_file and _is_valid(model, from_file)
        source = f"{where} with --set" if by_user else where
        refusal = UsageError if by_user else InputFileError
        raise refusal(validation_sentence(error, model, source)) from error
    for arm in config.arms:
        # An arm names a folder of its trials.
        if not arm or arm.startswith(".") or any(sign in arm for sign in "/\\\0"):
            raise InputFileError(f"{where}: {arm!r} is no name for an arm; use letters, digits, '-', '_' or '+'.")
    return config


def _is_valid(model: type[StudyConfig[Any]], content: dict[str, Any]) -> bool:
    try:
        model.model_validate(content)
    except ValidationError:
        return False
    return True
