"""One trial: a configuration and an arm in, its outcome out."""

from __future__ import annotations

from pathlib import Path

from cp_bcs.binary.program import Program
from cp_bcs.binary.reading import read_image
from cp_bcs.config import Config
from cp_bcs.data.compiling import build_embedded
from cp_bcs.evaluate import judge_discovery
from mpo_core.repro.record import Measurement, TrialOutcome
from mpo_core.repro.trial import Trial


def run_trial(trial: Trial, config: Config, folder: Path) -> TrialOutcome:
    """Build the package's own sources as the trial's arm says, and look for the functions of the stripped file.

    Args:
        trial: arm; nothing is random here.
        config: the experiment at its scale.
        folder: the trial's own folder; gets the build.
    """
    arm = config.arms[trial.arm]
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
