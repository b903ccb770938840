"""What compress, squeeze, inspect and merge do: load, call the package, print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from rich.table import Table

from mpo_core import UsageError
from mpo_core.repro.atomic import write_json_atomic
from mpo_core.repro.commands import new_console
from mpo_core.repro.jobs import refuse_existing
from mpo_core.repro.models import load_model, load_tokenizer
from mpo_core.repro.reading import keys_to
from mpop.config import DEFAULT_EXCLUDE, Compression, Squeeze
from mpop.generate import generate_documents, write_documents
from mpop.inspection import draw, inspect_model, joined, table_of
from mpop.model import (
    CompressionReport,
    compress_model,
    load_compressed,
    merge_compressed,
    save_compressed,
)
from mpop.squeeze_progress import SqueezeProgress
from mpop.squeeze_run import SqueezeJob, squeeze_model

console = new_console()
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def compression(
    cores: Sequence[str] | None,
    include: Sequence[str] | None,
    exclude: Sequence[str] | None,
    bonds: Sequence[str] | None = None,
    **limits: float | None,
) -> Compression:
    """The compression that the options ask for.

    Args:
        cores: how many per matrix, each ``N`` or ``PATTERN=N``.
        include: name patterns.
        exclude: likewise.
        bonds: caps, in the form of `cores`.
        **limits: ``budget`` and ``tolerance``.

    Raises:
        UsageError: a value out of range; one sentence that names the option and the range.
    """
    n, cores_of = _rules("cores", cores)
    bond, bonds_of = _rules("bond", bonds)
    limits["bond"] = bond
    try:
        return Compression(
            n=Compression().n if n is None else n,
            cores=cores_of,
            bonds=bonds_of,
            include=tuple(include or ("*",)),
            exclude=tuple(exclude) if exclude else DEFAULT_EXCLUDE,
            **{name: value for name, value in limits.items() if value is not None},  # pyright: ignore[reportArgumentType]
        )
    except ValidationError as error:
        raise UsageError(_option_sentence(error, Compression, "budget, --bond, --tolerance")) from error


def compress(name: str, out: Path, choices: Compression, dtype: str | None) -> None:
    """Compress a model into a new folder and print what became of each matrix."""
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype!r} is unknown; expected float32 or float64.")
    refuse_existing(out)
    model = load_model(name, "own", dtype=DTYPES[dtype] if dtype else None)
    report = compress_model(model, choices)
    save_compressed(model, out, compression=choices, tokenizer=load_tokenizer(name))
    _print_report(report)
    console.out(f"written to {out}; load it with mpop.load_compressed({str(out)!r})")


def squeeze_job(
    model: str,
    task: str,
    *,
    cores: Sequence[str] | None,
    include: Sequence[str] | None,
    exclude: Sequence[str] | None,
    trains: str,
    learning_rate: float,
    seed: int,
    squeeze: Mapping[str, Any],
    training: Mapping[str, Any],
    data: Mapping[str, Any],
) -> SqueezeJob:
    """The job that the options ask for.

    Raises:
        UsageError: a value out of range; one sentence that names the option and the range.
    """
    if squeeze.get("target_size") is None and squeeze.get("cuts") is None:
        raise UsageError("--target-size is missing: how far to cut, as 0.5; or give --cuts, how far at each stage.")
    start = compression(cores, include, exclude)
    given = {
        "model": model,
        "task": {"name": task, **_given(data)},
        "training": _given(training),
        "learning_rate": learning_rate,
        "seed": seed,
        "arm": {"compression": start, "squeeze": _given(squeeze), "trains": trains},
    }
    try:
        return SqueezeJob.model_validate(given)
    except ValidationError as error:
        raise UsageError(_option_sentence(error, SqueezeJob)) from error


def squeeze(job: SqueezeJob, out: Path) -> None:
    """Squeeze a model into a new folder; a bar tells step, size, widest bond and metric."""
    with SqueezeProgress() as progress:
        result = squeeze_model(job, out, progress.report)
    table = Table("step", "size", "cuts", "metric before the cuts")
    for point in result.history:
        metric = "" if point["metric"] is None else f"{point['metric']:.4f}"
        table.add_row(str(point["step"]), f"{point['size']:.4f}", str(point["cuts"]), metric)
    console.print(table)
    if result.resumed_from:
        console.out(f"went on from step {result.resumed_from}")
    if result.stopped:
        console.out("stopped: the metric had fallen too far; this is the last model before it did, trained on.")
    for name, measured in result.metrics.items():
        console.out(f"{name} on {measured.n} examples of {measured.split}: {measured.value:.4f}")
    share = result.after / result.before
    console.out(f"parameters: {result.before:,} -> {result.after:,} ({100 * share:.1f} % of the original)")
    target = job.arm.squeeze.target_size if isinstance(job.arm.squeeze, Squeeze) else None
    if target is not None and share > target and not result.stopped:
        console.out(f"that is more than the {100 * target:g} % wanted: take more --cuts per stage, or more --stages.")
    console.out(f"written to {out}; load it with mpop.load_compressed({str(out)!r})")


def generate(name: str, out: Path, documents: int, max_tokens: int, temperature: float, seed: int) -> None:
    """Write text that a decoder, plain or compressed, samples by itself."""
    compressed = (Path(name) / "mpo.json").is_file()
    model = load_compressed(name) if compressed else load_model(name, "own")
    tokenizer = load_tokenizer(name)
    texts = generate_documents(model, tokenizer, documents, max_tokens=max_tokens, temperature=temperature, seed=seed)
    write_documents(texts, out)
    console.out(f"written to {out}: {len(texts)} documents, {sum(map(len, texts)):,} characters")


def merge(folder: Path, out: Path) -> None:
    """Merge a compressed folder into a plain one."""
    model = merge_compressed(folder, out)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    console.out(f"written to {out}: {type(model).__name__}, {parameters:,} parameters, plain weights")


def inspect(name: str, choices: Compression, json_file: Path | None, plot: Path | None) -> None:
    """Print factors, bonds, entropies and error bounds of every matrix of a model, compressed already or not."""
    rows = inspect_model(name, choices)
    console.print(table_of(rows, choices.bond))
    if json_file is not None:
        write_json_atomic(json_file, [row.as_json() for row in rows])
        console.out(f"spectra: {json_file}")
    if plot is not None:
        draw(rows, choices.bond, plot)
        console.out(f"plot: {plot}")


def _rules(option: str, given: Sequence[str] | None) -> tuple[int | None, dict[str, int]]:
    """What is for all matrices, and what the patterns say.

    Raises:
        UsageError: neither ``N`` nor ``PATTERN=N``, or the same twice.
    """
    otherwise: int | None = None
    rules: dict[str, int] = {}
    for each in given or ():
        pattern, _, number = each.rpartition("=")
        if not number.strip().isdecimal():
            raise UsageError(f"--{option} {each!r}: expected a whole number, or PATTERN=NUMBER as '*attention*=3'.")
        if pattern in rules or (not pattern and otherwise is not None):
            raise UsageError(f"--{option} is given twice for {pattern or 'all matrices'}.")
        if pattern:
            rules[pattern] = int(number)
        else:
            otherwise = int(number)
    return otherwise, rules


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given; the others keep their defaults."""
    return {name: value for name, value in options.items() if value is not None}


def _option_sentence(error: ValidationError, model: type[BaseModel], group: str = "") -> str:
    """The first thing wrong with the options that a model was made of, in one sentence that names the option."""
    first = error.errors()[0]
    names = [key for key in keys_to(first["loc"], model) if not key.isdecimal()]  # no places in lists
    if names[-2:-1] in (["cores"], ["bonds"]):  # a rule: the pattern is the user's
        names = [{"bonds": "bond"}.get(names[-2], names[-2]), f"{names[-1]}={first['input']}"]
        return f"--{' '.join(names)}: {first['msg']}."
    message = first["msg"].removeprefix("Value error, ")
    plain = not isinstance(first["input"], Mapping)
    where = names[-1].replace("_", "-") if names and plain else group or (names[-1].replace("_", "-") if names else "")
    found = f", found {first['input']}" if names and plain else ""
    return f"--{where}: {message}{found}."


def _print_report(report: CompressionReport) -> None:
    table = Table("matrix", "rows x cols", "bonds", "parameters", "relative error")
    for replacement in report.replacements:
        layer = replacement.layer
        size = f"{layer.shape.rows} x {layer.shape.cols}"
        parameters = f"{layer.mpo().n_params:,}"
        table.add_row(replacement.name, size, joined(layer.bonds), parameters, f"{replacement.relative_error:.3g}")
    console.print(table)
    for note in report.notes:
        console.out(f"note: {note}")
    console.out(
        f"parameters: {report.parameters_before:,} -> {report.parameters_after:,} "
        f"({100 * report.share:.1f} % of the original)"
    )
