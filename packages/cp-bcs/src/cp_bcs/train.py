"""One trial: a configuration and an arm in, its outcome out."""

from __future__ import annotations

from pathlib import Path

from cp_bcs.baselines import BASELINES
from cp_bcs.binary.program import Program
from cp_bcs.binary.reading import read_image
from cp_bcs.config import Arm, Config
from cp_bcs.data.compiling import build_embedded
from cp_bcs.data.loading import load_split
from cp_bcs.evaluate import judge_discovery, judge_summaries
from mpo_core.errors import UsageError
from mpo_core.repro.record import Measurement, TrialOutcome
from mpo_core.repro.trial import Trial


def run_trial(trial: Trial, config: Config, folder: Path) -> TrialOutcome:
    """Run one trial of a CP-BCS experiment.

    Args:
        trial: arm and seed.
        config: the experiment at its scale.
        folder: the trial's own folder; gets builds.
    """
    arm = config.arms[trial.arm]
    return _discover(arm, folder) if config.study == "discover" else _summarize(trial, config, folder)


def _discover(arm: Arm, folder: Path) -> TrialOutcome:
    """Build the package's own sources as an arm says, and look for the functions of the stripped file."""
    twins = build_embedded(folder, arm.architecture, arm.optimization, arm.flags)
    program = Program.read(twins.stripped)
    found = judge_discovery(program.functions, read_image(twins.unstripped))
    graphs = [program.flow_graph(function) for function in program.functions]
    metrics = {
        "starts": Measurement(value=found.starts, n=found.n),
        "modes": Measurement(value=found.modes, n=found.n),
        "precision": Measurement(value=found.precision, n=len(program.functions)),
        "instructions": Measurement(value=sum(len(graph.instructions) for graph in graphs)),
        "edges": Measurement(value=sum(len(graph.edges) for graph in graphs)),
        "blocks": Measurement(value=sum(len(graph.blocks) for graph in graphs)),
    }
    if found.sizes is not None:
        metrics["sizes"] = Measurement(value=found.sizes, n=found.described)
    return TrialOutcome(metrics=metrics)


def _summarize(trial: Trial, config: Config, folder: Path) -> TrialOutcome:
    """Summarise the functions of the judged part, and hold the summaries against the comments."""
    name = config.arms[trial.arm].summarizer
    if name is None:
        raise UsageError(f"arm {trial.arm!r} has no summarizer.")
    split = load_split(config.data_of(trial.arm), trial.seed, folder)
    asked = split.dev if trial.split == "select" else split.test
    summaries = BASELINES[name](split.train, asked, trial.seed)
    judged = judge_summaries(summaries, [pair.sentence for pair in asked])
    measured = {"bleu": judged.bleu, "rouge_l": judged.rouge_l, "corpus_bleu": judged.corpus_bleu}
    return TrialOutcome(
        metrics={
            **{key: Measurement(value=value, n=len(asked), split=trial.split) for key, value in measured.items()},
            "seen_bodies": Measurement(value=split.seen_bodies, n=len(split.test)),
            "train_functions": Measurement(value=len(split.train)),
        },
        arrays={"bleu of each function": [round(value, 6) for value in judged.each]},
        notes=[f"corpus_bleu: sacreBLEU {judged.signature}"],
    )
