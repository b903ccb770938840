"""One trial: a configuration and an arm in, its outcome out."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from cp_bcs.baselines import BASELINES, consensus
from cp_bcs.binary.program import Program
from cp_bcs.binary.reading import read_image
from cp_bcs.config import Arm, Config
from cp_bcs.data.compiling import build_embedded
from cp_bcs.data.loading import load_split
from cp_bcs.data.splits import Split
from cp_bcs.decompile.discovery import find_functions_with_angr
from cp_bcs.evaluate import judge_discovery, judge_summaries
from cp_bcs.learned import Learned
from cp_bcs.learning import Chosen, learn, learn_translator, translate
from cp_bcs.refining import names_recovered
from cp_bcs.summaries.trust_study import measure_trust
from mpo_core import count_parameters
from mpo_core.errors import DivergedError, UsageError
from mpo_core.repro.record import Measurement, ParameterCount, TrialOutcome
from mpo_core.repro.trial import Trial


def run_trial(trial: Trial, config: Config, folder: Path) -> TrialOutcome:
    """Run one trial of a CP-BCS experiment.

    Args:
        trial: arm and seed.
        config: the experiment at its scale.
        folder: the trial's own folder; gets builds.
    """
    arm = config.arms[trial.arm]
    if config.study == "calibrate":
        return measure_trust(config.data_of(trial.arm), trial.seed)
    return _discover(arm, folder) if config.study == "discover" else _summarize(trial, config, folder)


def _discover(arm: Arm, folder: Path) -> TrialOutcome:
    """Build the package's own sources as an arm says, and look for the functions of the stripped file."""
    twins = build_embedded(folder, arm.architecture, arm.optimization, arm.flags)
    program = Program.read(twins.stripped)
    functions = program.functions if arm.backend == "elf" else find_functions_with_angr(twins.stripped)
    found = judge_discovery(functions, read_image(twins.unstripped))
    metrics = {
        "starts": Measurement(value=found.starts, n=found.n),
        "modes": Measurement(value=found.modes, n=found.n),
        "precision": Measurement(value=found.precision, n=len(functions)),
    }
    if found.sizes is not None:
        metrics["sizes"] = Measurement(value=found.sizes, n=found.described)
    if arm.backend == "elf":
        graphs = [program.flow_graph(function) for function in functions]
        metrics["instructions"] = Measurement(value=sum(len(graph.instructions) for graph in graphs))
        metrics["edges"] = Measurement(value=sum(len(graph.edges) for graph in graphs))
        metrics["blocks"] = Measurement(value=sum(len(graph.blocks) for graph in graphs))
    return TrialOutcome(metrics=metrics)


def _summarize(trial: Trial, config: Config, folder: Path) -> TrialOutcome:
    """Summarise the functions of the judged part, and hold the summaries against the comments."""
    name = config.arms[trial.arm].summarizer
    if name is None:
        raise UsageError(f"arm {trial.arm!r} has no summarizer.")
    split = load_split(config.data_of(trial.arm), trial.seed)
    asked = split.dev if trial.split == "select" else split.test
    model, decoding = config.model_of(trial.arm), config.decoding_of(trial.arm)
    if trial.learning_rate is None:
        tuned = name == "consensus" and decoding.tuned
        baseline = partial(consensus, dev=split.dev) if tuned else BASELINES[name]
        return _judged(trial, config, split, baseline(split.train, asked, trial.seed))
    chosen: Chosen = {"learning_rate": trial.learning_rate, "seed": trial.seed, "folder": folder}
    checkpoint = config.arms[trial.arm].checkpoint
    learned: Learned | None = None
    if checkpoint is not None:
        translator, fitted = learn_translator(checkpoint, model, split.train, config.training, **chosen)
        network, summaries = translator.model, partial(translate, translator, model, asked, decoding.beams)
    else:
        try:
            learned, fitted = learn(model, decoding, split, config.training, **chosen)
        except DivergedError as error:  # the refiner
            return TrialOutcome(status="diverged", notes=[str(error)])
        network, summaries = learned.network, partial(learned.sentences, asked)
    counts = count_parameters(network)
    parameters = ParameterCount(total=counts.total, trained=counts.trained)
    if fitted.status == "diverged":
        return TrialOutcome(status="diverged", parameters=parameters, series=fitted.series)
    outcome = _judged(trial, config, split, summaries())
    if learned is not None and learned.decoding.tuned:
        for key, value in learned.decoding.weighting._asdict().items():
            outcome.metrics[key] = Measurement(value=value, n=len(split.dev), split="select")
    if learned is not None and learned.refiner is not None:
        hits, there = names_recovered(learned.refiner, asked)
        if there:
            outcome.metrics["words_recovered"] = Measurement(value=hits / there, n=there, split=trial.split)
    return outcome.model_copy(update={"parameters": parameters, "series": fitted.series})


def _judged(trial: Trial, config: Config, split: Split, summaries: list[str]) -> TrialOutcome:
    asked = split.dev if trial.split == "select" else split.test
    judged = judge_summaries(summaries, [pair.sentence for pair in asked], config.meteor)
    measured = {"bleu": judged.bleu, "rouge_l": judged.rouge_l, "corpus_bleu": judged.corpus_bleu}
    if judged.meteor is not None:
        measured["meteor"] = judged.meteor
    among = [value for value, pair in zip(judged.each, asked, strict=True) if pair.pseudo]
    decompiled = {}
    if among:  # on the same functions for all arms, whatever they read
        decompiled["with_pseudo_code"] = Measurement(value=len(among) / len(asked), n=len(asked), split=trial.split)
        mean = sum(among) / len(among)
        decompiled["bleu_with_pseudo_code"] = Measurement(value=mean, n=len(among), split=trial.split)
    return TrialOutcome(
        metrics={
            **{key: Measurement(value=value, n=len(asked), split=trial.split) for key, value in measured.items()},
            **decompiled,
            "seen_bodies": Measurement(value=split.seen_bodies, n=len(split.test)),
            "train_functions": Measurement(value=len(split.train)),
        },
        arrays={"bleu of each function": [round(value, 6) for value in judged.each]},
        notes=[f"split {split.name}", f"corpus_bleu: sacreBLEU {judged.signature}"],
    )
