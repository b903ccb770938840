"""What compress, squeeze, inspect and merge do: load, call the package, print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from rich.table import Table

from mpo_core import UsageError, entanglement_entropy, error_bound, mpo_layers
from mpo_core.repro.atomic import write_json_atomic
from mpo_core.repro.commands import new_console
from mpo_core.repro.models import load_model, load_tokenizer, resolve_model
from mpop.config import DEFAULT_EXCLUDE, Compression
from mpop.model import (
    CompressionReport,
    compress_model,
    load_compressed,
    merge_compressed,
    refuse_existing,
    save_compressed,
)
from mpop.squeeze_progress import SqueezeProgress
from mpop.squeeze_run import SqueezeJob, squeeze_model

console = new_console()
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def compression(
    cores: int, include: Sequence[str] | None, exclude: Sequence[str] | None, **limits: float | None
) -> Compression:
    """The compression that the options ask for.

    Raises:
        UsageError: a value out of range; one sentence that names the option and the range.
    """
    try:
        return Compression(
            n=cores,
            include=tuple(include or ("*",)),
            exclude=tuple(exclude) if exclude else DEFAULT_EXCLUDE,
            **{name: value for name, value in limits.items() if value is not None},  # pyright: ignore[reportArgumentType]
        )
    except ValidationError as error:
        raise UsageError(_option_sentence(error, "budget, --bond, --tolerance")) from error


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
    cores: int,
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
        raise UsageError(_option_sentence(error)) from error


def squeeze(job: SqueezeJob, out: Path) -> None:
    """Squeeze a model into a new folder; a bar tells step, size, widest bond and metric."""
    with SqueezeProgress() as progress:
        result = squeeze_model(job, out, progress)
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
    console.out(f"written to {out}; load it with mpop.load_compressed({str(out)!r})")


def merge(folder: Path, out: Path) -> None:
    """Merge a compressed folder into a plain one."""
    model = merge_compressed(folder, out)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    console.out(f"written to {out}: {type(model).__name__}, {parameters:,} parameters, plain weights")


def inspect(name: str, choices: Compression, json_file: Path | None, plot: Path | None) -> None:
    """Print factors, bonds, entropies and error bounds of every matrix of a model, compressed already or not."""
    rows = spectra_of(name, choices)
    table = Table("matrix", "rows x cols", "row factors", "column factors", "bonds", "entropy per bond (nats)")
    if choices.bond is not None:
        table.add_column(f"error bound at bond {choices.bond}")
    for row in rows:
        cells = [
            row["name"],
            f"{row['rows']} x {row['cols']}",
            *(_joined(row[key]) for key in ("row_factors", "col_factors", "bonds")),
        ]
        cells.append("  ".join(f"{entropy:.2f}" for entropy in row["entropies"]))
        if choices.bond is not None:
            cells.append(f"{row['relative_bound']:.3f}")
        table.add_row(*cells)
    console.print(table)
    if json_file is not None:
        write_json_atomic(json_file, rows)
        console.out(f"spectra: {json_file}")
    if plot is not None:
        _plot(rows, plot)
        console.out(f"plot: {plot}")


def spectra_of(name: str, choices: Compression) -> list[dict[str, Any]]:
    """Spectra, entropies and relative error bounds of every matrix of a model.

    A folder that `compress` wrote is looked at as it is; any other model is decomposed at full bond first. Without a
    bond to cut at, ``relative_bound`` is 0.
    """
    if (Path(name) / "mpo.json").is_file():
        model = load_compressed(name)
    else:
        resolve_model(name)
        model = load_model(name, "own")
        compress_model(model, choices.model_copy(update={"bond": None}))
    rows = []
    for layer_name, layer in mpo_layers(model).items():
        spectra = layer.mpo().bond_spectra()
        cut = layer.shape.clip_bonds(choices.bond) if choices.bond is not None else layer.bonds
        norm = float(spectra[0].double().norm()) if spectra else 0.0
        bonds = tuple(min(cap, len(values)) for cap, values in zip(cut, spectra, strict=True))
        rows.append(
            {
                "name": layer_name,
                "rows": layer.shape.rows,
                "cols": layer.shape.cols,
                "row_factors": list(layer.shape.row_factors),
                "col_factors": list(layer.shape.col_factors),
                "bonds": list(layer.bonds),
                "entropies": [entanglement_entropy(values) for values in spectra],
                "relative_bound": error_bound(spectra, bonds) / norm if norm else 0.0,
                "spectra": [values.tolist() for values in spectra],
            }
        )
    return rows


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given; the others keep their defaults."""
    return {name: value for name, value in options.items() if value is not None}


def _option_sentence(error: ValidationError, group: str = "") -> str:
    """The first thing wrong with some options, in one sentence that names the option."""
    first = error.errors()[0]
    names = [str(part) for part in first["loc"] if isinstance(part, str)]
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
        table.add_row(replacement.name, size, _joined(layer.bonds), parameters, f"{replacement.relative_error:.3g}")
    console.print(table)
    for note in report.notes:
        console.out(f"note: {note}")
    console.out(
        f"parameters: {report.parameters_before:,} -> {report.parameters_after:,} "
        f"({100 * report.share:.1f} % of the original)"
    )


def _joined(numbers: Sequence[int]) -> str:
    return ",".join(str(number) for number in numbers)


def _plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the Schmidt values of every bond, one panel per bond, all matrices of the model over each other."""
    from matplotlib.figure import Figure

    bonds = max(len(row["spectra"]) for row in rows)
    figure = Figure(figsize=(3.2 * bonds, 3), layout="constrained")
    panels = figure.subplots(1, bonds, sharey=True, squeeze=False)[0]
    for row in rows:
        for panel, spectrum in zip(panels, row["spectra"], strict=False):
            panel.semilogy([max(value, 1e-12) for value in spectrum], linewidth=0.8)
    for number, panel in enumerate(panels, start=1):
        panel.set(title=f"bond {number}", xlabel="index")
    panels[0].set_ylabel("Schmidt value")
    figure.savefig(path, format=path.suffix.removeprefix(".") or "svg")
