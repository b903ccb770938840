"""From a configuration to questions."""

from __future__ import annotations

from pathlib import Path

from hypermr.config import DataConfig
from hypermr.data import kvqa
from hypermr.data.hierarchies import HierarchyConfig, generate_hierarchy
from hypermr.data.knowledge_base import read_knowledge_base
from hypermr.data.pathquestion import FOLDER, KNOWLEDGE_BASES, load_pathquestion
from hypermr.data.questions import QuestionSet, read_questions
from mpo_core.errors import InputFileError, UsageError
from mpo_core.repro.tasks.task import DATA_VARIABLE, data_folder


def load_data(config: DataConfig) -> QuestionSet:
    """The questions that a configuration names.

    Raises:
        UsageError: an unknown name.
        InputFileError: PathQuestion is nowhere to be had, or a file is bad; names file, line and reason.
    """
    if config.name == "hierarchy":
        made = HierarchyConfig(config.depth, config.branching, config.noise, config.count, config.hops, config.seed)
        return generate_hierarchy(made)
    if config.name == "own":
        kb = read_knowledge_base(Path(str(config.kb)).expanduser(), inverse=config.inverse)
        return read_questions(Path(str(config.questions)).expanduser(), kb)
    folder = data_folder()
    if config.name == "KVQA":
        if folder is None or not (folder / kvqa.FOLDER).is_dir():
            raise InputFileError(
                f"KVQA is not there: give --data-dir (or set {DATA_VARIABLE}) to a folder that holds {kvqa.FOLDER}/ "
                f"with {kvqa.QUESTIONS} and {kvqa.FACTS}, from its authors."
            )
        return kvqa.load_kvqa(folder / kvqa.FOLDER, inverse=config.inverse)
    if config.name not in KNOWLEDGE_BASES:
        raise UsageError(f"unknown data {config.name!r}; expected hierarchy, own, KVQA, {', '.join(KNOWLEDGE_BASES)}.")
    if folder is None or not (folder / FOLDER).is_dir():
        raise InputFileError(
            f"PathQuestion is not there: give --data-dir (or set {DATA_VARIABLE}) to a folder that holds {FOLDER}/ "
            f"with {config.name}.txt and {KNOWLEDGE_BASES[config.name]}, from its authors' repository."
        )
    return load_pathquestion(config.name, folder / FOLDER, inverse=config.inverse)
