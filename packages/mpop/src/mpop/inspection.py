"""What the matrices of a model look like as matrix product operators: spectra, entropies, and what a cut would cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from mpo_core import InputFileError, MPOShape, entanglement_entropy, error_bound, mpo_layers, truncation_errors
from mpo_core.repro.models import load_model
from mpop.config import Compression
from mpop.model import compress_model, load_compressed

LEAST_DRAWN = 1e-12
"""Schmidt values below are drawn there: a logarithmic axis has no zero."""


@dataclass(frozen=True)
class InspectedMatrix:
    """One matrix; errors are relative to its Frobenius norm.

    Attributes:
        name: of the layer.
        shape: its size and factors.
        bonds: as they are now.
        entropies: entanglement entropy of each bond, in nats (Liu et al. 2021, Eq. 6).
        bond_errors: what cutting each bond alone would cost (Eq. 3, as squares); 0 where nothing is to be cut.
        bound: of the error of all cuts together (Eq. 4).
        spectra: Schmidt values of each bond, descending.
    """

    name: str
    shape: MPOShape
    bonds: tuple[int, ...]
    entropies: tuple[float, ...]
    bond_errors: tuple[float, ...]
    bound: float
    spectra: tuple[tuple[float, ...], ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values; the shape as ``rows``, ``cols``, ``row_factors`` and ``col_factors``."""
        content = {name: value for name, value in asdict(self).items() if name != "shape"}
        size = {"rows": self.shape.rows, "cols": self.shape.cols}
        factors = {"row_factors": list(self.shape.row_factors), "col_factors": list(self.shape.col_factors)}
        return size | factors | content


def inspect_model(name: str, choices: Compression) -> list[InspectedMatrix]:
    """Look at every matrix of a model.

    Args:
        name: a folder that `mpop.save_compressed` wrote is looked at as it is; any other model is decomposed at full
            bond first.
        choices: which matrices and how many cores; ``bond`` is the cut whose cost is told.
    """
    if (Path(name) / "mpo.json").is_file():
        model = load_compressed(name)
    else:
        model = load_model(name, "own")
        compress_model(model, choices.model_copy(update={"bond": None}))
    found = []
    for layer_name, layer in mpo_layers(model).items():
        spectra = [values.double() for values in layer.mpo().bond_spectra()]
        norm = float(spectra[0].norm()) if spectra else 0.0
        cut = layer.bonds if choices.bond is None else layer.shape.clip_bonds(choices.bond)
        kept = [min(cap, len(values)) for cap, values in zip(cut, spectra, strict=True)]
        found.append(
            InspectedMatrix(
                name=layer_name,
                shape=layer.shape,
                bonds=layer.bonds,
                entropies=tuple(entanglement_entropy(values) for values in spectra),
                bond_errors=tuple(error / norm if norm else 0.0 for error in truncation_errors(spectra, kept)),
                bound=error_bound(spectra, kept) / norm if norm else 0.0,
                spectra=tuple(tuple(values.tolist()) for values in spectra),
            )
        )
    return found


def table_of(matrices: Sequence[InspectedMatrix], bond: int | None) -> Table:
    """One line for each matrix; with the cost of a cut to `bond` where one is given."""
    table = Table("matrix", "rows x cols", "row factors", "column factors", "bonds", "entropy per bond (nats)")
    if bond is not None:
        table.add_column(f"error per bond cut to {bond}")
        table.add_column("bound")
    for matrix in matrices:
        shape = matrix.shape
        cells = [matrix.name, f"{shape.rows} x {shape.cols}"]
        cells += [joined(shape.row_factors), joined(shape.col_factors), joined(matrix.bonds)]
        cells.append("  ".join(f"{entropy:.2f}" for entropy in matrix.entropies))
        if bond is not None:
            cells.append("  ".join(f"{error:.3f}" for error in matrix.bond_errors))
            cells.append(f"{matrix.bound:.3f}")
        table.add_row(*cells)
    return table


def draw(matrices: Sequence[InspectedMatrix], bond: int | None, path: Path) -> None:
    """Draw the Schmidt values of every bond and the entropies, all matrices over each other; `bond` as a line.

    Raises:
        InputFileError: a kind of picture that matplotlib does not write.
    """
    from matplotlib.figure import Figure

    bonds = max((len(matrix.spectra) for matrix in matrices), default=0) or 1
    rows = 2 if bond is None else 3
    figure = Figure(figsize=(3.2 * bonds, 2.6 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, bonds)
    panels = [figure.add_subplot(grid[0, k]) for k in range(bonds)]
    for number, panel in enumerate(panels, start=1):
        for matrix in matrices:
            if number <= len(matrix.spectra):
                panel.semilogy([max(value, LEAST_DRAWN) for value in matrix.spectra[number - 1]], linewidth=0.8)
        if bond is not None:
            panel.axvline(bond, color="black", linestyle=":", linewidth=1)
        panel.set(title=f"bond {number}", xlabel="index")
        panel.sharey(panels[0])
    panels[0].set_ylabel("Schmidt value")
    lower = [("entropy (nats)", [matrix.entropies for matrix in matrices])]
    if bond is not None:
        lower.append((f"relative error of a cut to {bond}", [matrix.bond_errors for matrix in matrices]))
    for row, (label, curves) in enumerate(lower, start=1):
        panel = figure.add_subplot(grid[row, :])
        for curve in curves:
            panel.plot(range(1, len(curve) + 1), curve, marker="o", markersize=3, linewidth=0.8)
        panel.set(xlabel="bond", ylabel=label, xticks=range(1, bonds + 1))
    kind = path.suffix.removeprefix(".") or "svg"
    if kind not in figure.canvas.get_supported_filetypes():
        raise InputFileError(
            f"{path}: a picture of the kind {kind!r} cannot be written; give a name that ends in .svg."
        )
    figure.savefig(path, format=kind)


def joined(numbers: Sequence[int]) -> str:
    """Numbers in a cell."""
    return ",".join(str(number) for number in numbers)
