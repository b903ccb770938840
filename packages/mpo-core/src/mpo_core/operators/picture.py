"""One picture of an operator: its Schmidt values, bond by bond, and what a truncation would keep of them."""

# matplotlib's keyword arguments have no types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, cast

from jaxtyping import Float
from torch import Tensor

from mpo_core.errors import MissingPartError, ShapeError, UsageError
from mpo_core.operators.spectra import truncation_errors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart in every kind of colour vision and by their lightness; the yellow is left out as
# it is faint on white. Markers and dashes repeat when the colours do, at different periods.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_DASHES = ("-", "--", "-.", ":")
_MAX_MARKERS = 12


def draw_spectra(
    spectra: Sequence[Float[Tensor, " bond"]],
    bonds: Sequence[int] | None = None,
    path: str | PathLike[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the Schmidt values of every bond on a logarithmic axis.

    The figure belongs to no window and to no state of `matplotlib.pyplot`.

    Args:
        spectra: of the ``n - 1`` bonds, descending. Zeros have no place on the axis and are left out.
        bonds: a truncation to mark: an outline around the last value that a cut bond keeps, the dropped ones faint.
        path: where to save the figure as well; the ending chooses the format.
        title: above the axes.

    Returns:
        The figure.

    Raises:
        MissingPartError: matplotlib is not installed.
        ShapeError: no spectra.
        UsageError: the ending of `path` is no format of matplotlib's.
        MPOError: as `mpo_core.truncation_errors`, for spectra and bonds that are none.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise MissingPartError(
            f'plot_spectra: matplotlib cannot be imported ({error}); pip install "mpo-core[plot]".'
        ) from error
    if len(spectra) == 0:
        raise ShapeError("plot_spectra: an operator of a single core has no bonds, so there is nothing to draw.")
    kept = [len(values) for values in spectra] if bonds is None else list(bonds)
    truncation_errors(spectra, kept)  # for its checks
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_yscale("log")
    for k, (spectrum, bond) in enumerate(zip(spectra, kept, strict=True)):
        entries = cast(list[float], spectrum.detach().double().cpu().tolist())
        values = [value for value in entries if value > 0]
        bond = min(bond, len(values))
        colour, marker = _COLOURS[k % len(_COLOURS)], _MARKERS[k % len(_MARKERS)]
        every = max(1, len(values) // _MAX_MARKERS)
        style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4, "markevery": every}
        label = f"bond {k + 1} ({len(spectrum)})" if bonds is None else f"bond {k + 1} ({bond} of {len(spectrum)})"
        dashes = _DASHES[k // len(_COLOURS) % len(_DASHES)]
        axes.plot(range(1, bond + 1), values[:bond], dashes, label=label, **style)
        if bond < len(values):
            axes.plot(range(bond, len(values) + 1), values[bond - 1 :], dashes, alpha=0.35, **style)
            axes.plot([bond], [values[bond - 1]], marker, color=colour, markersize=11, fillstyle="none", mew=1.8)
    axes.set_xlabel("index of the Schmidt value")
    axes.set_ylabel("Schmidt value")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(True, which="major", color="#d9d9d9", linewidth=0.6)
    axes.set_axisbelow(True)
    title_of_legend = "bond (values)" if bonds is None else "bond (kept of values)"
    figure.legend(title=title_of_legend, frameon=False, loc="outside right upper")
    if title is not None:
        axes.set_title(title)
    if path is not None:
        try:
            figure.savefig(path, dpi=150)
        except ValueError as error:
            raise UsageError(f"plot_spectra: `path` is {str(path)!r}, which cannot be written: {error}.") from None
    return figure
