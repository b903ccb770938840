"""MPOP on a whole model: compress, save, load back, merge into plain weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from mpo_core import (
    InputFileError,
    MPOShape,
    UsageError,
    count_parameters,
    find_targets,
    load_mpo,
    merge_modules,
    read_manifest,
    replace_modules,
    save_mpo,
    schmidt_values,
)
from mpo_core.models.surgery import Replacement
from mpo_core.models.targets import Target
from mpo_core.repro.atomic import new_folder
from mpo_core.repro.jobs import refuse_existing
from mpo_core.repro.models import build_model, load_tokenizer, quiet_transformers
from mpop.config import Compression
from mpop.method import bond_for_parameters, bonds_for_tolerance, low_rank_shape, paper_shape, value_for


@dataclass(frozen=True)
class CompressionReport:
    """What compression did to a model.

    Attributes:
        parameters_before: distinct parameters of the whole model, before.
        parameters_after: the same, after.
        replacements: one per distinct matrix, in the order of the model.
        notes: what a user should know, one sentence each.
    """

    parameters_before: int
    parameters_after: int
    replacements: tuple[Replacement, ...]
    notes: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Parameters after as a share of those before."""
        return self.parameters_after / self.parameters_before


def compress_model(model: PreTrainedModel, compression: Compression, *, cache: bool = False) -> CompressionReport:
    """Replace the matrices of a model, in place, by matrix product operators.

    Args:
        model: any transformers model; its linear layers, `Conv1D` and embeddings are the candidates. On the meta
            device nothing is decomposed and the cores have no values.
        compression: which matrices, how many cores, how far the bonds are cut.
        cache: whether the layers keep the rebuilt weights while they are evaluated: fast, at the memory of the dense
            model.

    Returns:
        What was decomposed and what it cost.

    Raises:
        UsageError: a pattern that fits nothing, or a budget that cannot be met; the model is unchanged then.
    """
    targets = find_targets(model, compression.include, compression.exclude)
    if not targets:
        raise UsageError("no matrix of the model is left to decompose; change include and exclude.")
    for pattern in (*compression.cores, *compression.bonds):
        if not any(fnmatchcase(target.name, pattern) for target in targets):
            raise UsageError(f"the pattern {pattern!r} fits none of the {len(targets)} matrices that are decomposed.")
    choose = {"paper": paper_shape, "balanced": MPOShape.choose, "low-rank": low_rank_shape}[compression.shapes]
    shapes = {
        target.name: choose(target.rows, target.cols, value_for(target.name, compression.cores, compression.n))
        for target in targets
    }
    before = count_parameters(model).total
    bonds = _plan_bonds(targets, shapes, compression, before)
    # The papers cut all bonds of the canonical form at once.
    replacements = replace_modules(model, targets, bonds=bonds, shapes=shapes, method="slice", cache=cache)
    notes = _clipping_notes(compression, shapes)
    return CompressionReport(before, count_parameters(model).total, tuple(replacements), tuple(notes))


def save_compressed(
    model: PreTrainedModel,
    folder: str | Path,
    *,
    compression: Compression,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> None:
    """Write a compressed model as a folder: configuration, tokenizer, ``mpo.safetensors``, manifest ``mpo.json``.

    The weights are not called ``model.safetensors``: a loader that knows nothing of cores stops with an error instead
    of starting from random weights.

    Raises:
        UsageError: the folder exists already.
    """
    with _new_output(Path(folder)) as inside:
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(inside)
        if tokenizer is not None:
            tokenizer.save_pretrained(inside)
        if model.can_generate() and model.generation_config is not None:
            model.generation_config.save_pretrained(inside)
        save_mpo(model, inside, extra={"compression": compression.model_dump(mode="json")})


def load_compressed(folder: str | Path) -> PreTrainedModel:
    """Load a folder that `save_compressed` wrote; the outputs are those of the saved model, bit for bit.

    Returns:
        The model in evaluation mode, its matrices as `MPOLinear` and `MPOEmbedding`.

    Raises:
        ManifestError: no compressed model, or a file that does not hold what the manifest says.

    Example:
        >>> model = load_compressed("out/m")  # doctest: +SKIP
    """
    folder = Path(folder)
    read_manifest(folder)  # a folder of another kind is refused before anything is built
    model = build_model(str(folder), "own")
    load_mpo(model, folder)
    with suppress(OSError):  # only models that generate have the file
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.eval()


def merge_compressed(folder: str | Path, out: str | Path) -> PreTrainedModel:
    """Multiply the cores of a compressed folder out, and write a plain one that ``from_pretrained`` opens.

    Returns:
        The merged model.

    Raises:
        ManifestError: as `load_compressed`.
        UsageError: ``out`` exists already.
    """
    refuse_existing(Path(out))
    model = load_compressed(folder)
    merge_modules(model)
    with _new_output(Path(out)) as inside, quiet_transformers():
        model.save_pretrained(inside)
        with suppress(InputFileError):  # saved without a tokenizer
            load_tokenizer(str(folder)).save_pretrained(inside)
    return model


@contextmanager
def _new_output(folder: Path) -> Iterator[Path]:
    """A folder that appears complete or not at all."""
    refuse_existing(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as inside:
        yield inside


def _plan_bonds(
    targets: Sequence[Target], shapes: dict[str, MPOShape], compression: Compression, before: int
) -> dict[str, tuple[int, ...]]:
    """The bonds of every target, from whichever limit the compression names."""
    if compression.budget is not None:
        distinct = {id(target.weight): target for target in targets}.values()
        dense = sum(target.rows * target.cols for target in distinct)
        limit = int(compression.budget * before) - (before - dense)
        cap = bond_for_parameters([shapes[target.name] for target in distinct], limit)
        return {name: shape.clip_bonds(cap) for name, shape in shapes.items()}
    if compression.tolerance is not None:
        spectra = {target.name: schmidt_values(target.matrix, shapes[target.name]) for target in targets}
        return {name: bonds_for_tolerance(values, compression.tolerance) for name, values in spectra.items()}
    caps = {name: value_for(name, compression.bonds, compression.bond) for name in shapes}
    return {name: shape.clip_bonds(caps[name]) for name, shape in shapes.items()}


def _clipping_notes(compression: Compression, shapes: dict[str, MPOShape]) -> Iterator[str]:
    """A sentence for every cap that is above the full bonds of all matrices it is for."""
    largest: dict[int, int] = {}
    for name, shape in shapes.items():
        cap = value_for(name, compression.bonds, compression.bond)
        if cap is not None:
            largest[cap] = max(largest.get(cap, 0), max(shape.full_bonds, default=1))
    for cap, full in largest.items():
        if cap > full:
            yield f"bond {cap} is larger than any bond can be here; clipped to the full bonds (at most {full})."
