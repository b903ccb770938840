from __future__ import annotations

import math
import sys
from itertools import combinations

import numpy as np
import pytest
import torch
from matplotlib import colors
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mpo_core import MPO, BondError, MissingPartError, MPOShape, NonFiniteError, ShapeError, UsageError
from mpo_core.operators.picture import _COLOURS, draw_spectra

SHAPE = MPOShape(22, 17, (2, 4, 3), (3, 3, 2))


def _random(bonds: int | None = None, shape: MPOShape = SHAPE) -> MPO:
    return MPO.random(shape, bonds, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _points(line: Line2D) -> tuple[list[float], list[float]]:
    return np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()


def test_every_schmidt_value_is_drawn():
    mpo = _random()
    figure = mpo.plot_spectra(title="a layer")
    (axes,) = figure.axes
    assert isinstance(figure, Figure)
    assert axes.get_yscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("index of the Schmidt value", "Schmidt value")
    assert axes.get_title() == "a layer"
    spectra = mpo.bond_spectra()
    assert len(axes.lines) == len(spectra)
    for line, spectrum in zip(axes.lines, spectra, strict=True):
        assert _points(line) == (list(range(1, len(spectrum) + 1)), spectrum.tolist())
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["bond 1 (6)", "bond 2 (6)"]


def test_a_truncation_is_marked():
    """An outline around the last kept value, and what falls away faint; nothing where nothing is cut."""
    mpo = _random()
    figure = mpo.plot_spectra(bonds=(2, 99))
    (axes,) = figure.axes
    first, faint, outline, second = axes.lines
    spectra = mpo.bond_spectra()
    assert _points(first)[0] == [1, 2]
    assert (faint.get_alpha() or 1.0) < 0.5
    assert _points(faint)[0] == [2, 3, 4, 5, 6]
    assert _points(outline) == ([2], [float(spectra[0][1])])
    assert _points(second)[0] == [1, 2, 3, 4, 5, 6]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["bond 1 (2 of 6)", "bond 2 (6 of 6)"]


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_the_file(tmp_path, ending):
    path = tmp_path / f"spectra.{ending}"
    _random().plot_spectra(path, bonds=3)
    start = path.read_bytes()[:5]
    assert start in (b"\x89PNG\r", b"<?xml", b"%PDF-")
    again = tmp_path / f"again.{ending}"
    _random().plot_spectra(str(again), bonds=3)
    assert again.exists()


def test_no_window_and_no_shared_state():
    _random().plot_spectra()
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.parametrize("n", [2, 5, 9])
def test_any_number_of_bonds_can_be_told_apart(n):
    """Colour, marker and dashes together are unique; many values, zeros and a zero matrix are no trouble."""
    mpo = MPO.random(MPOShape(2**n, 2**n, (2,) * n, (2,) * n), 40, dtype=torch.float64)
    (axes,) = mpo.plot_spectra().axes
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in axes.lines}
    assert len(looks) == n - 1
    figure = MPO.zeros(mpo.shape, 3, dtype=torch.float64).plot_spectra(bonds=2)
    figure.canvas.draw()
    assert all(_points(line) == ([], []) for line in figure.axes[0].lines)


def _lightness(colour: str, matrix: list[list[float]]) -> tuple[float, float, float]:
    """CIE L*a*b* of what an eye without one kind of cone sees of a colour."""
    rgb = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colors.to_rgb(colour)]
    seen = [min(1.0, max(0.0, sum(m * c for m, c in zip(row, rgb, strict=True)))) for row in matrix]
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = (
        sum(m * c for m, c in zip(row, seen, strict=True)) / white
        for row, white in zip(to_xyz, (0.9505, 1.0, 1.089), strict=True)
    )
    f = [t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z)]
    return 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])


@pytest.mark.parametrize(
    "matrix",
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        # Machado, Oliveira and Fernandes 2009, severity 1: protanopia, deuteranopia, tritanopia.
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ],
    ids=["all", "protanopia", "deuteranopia", "tritanopia"],
)
def test_colours_differ_in_every_kind_of_colour_vision(matrix):
    for a, b in combinations(_COLOURS, 2):
        assert math.dist(_lightness(a, matrix), _lightness(b, matrix)) > 9, (a, b)
    for colour in _COLOURS:
        assert _lightness(colour, matrix)[0] < 80  # against white


def test_what_cannot_be_drawn(tmp_path):
    with pytest.raises(ShapeError, match="a single core has no bonds"):
        MPO.random(MPOShape(4, 4, (4,), (4,))).plot_spectra()
    with pytest.raises(BondError, match="bonds 0"):
        _random().plot_spectra(bonds=0)
    with pytest.raises(BondError, match="2 of them"):
        _random().plot_spectra(bonds=[1, 2, 3])
    with pytest.raises(UsageError, match=r"`path` is '.*spectra\.doc', which cannot be written"):
        _random().plot_spectra(tmp_path / "spectra.doc")
    with pytest.raises(NonFiniteError, match="spectrum 0"):
        draw_spectra([torch.tensor([1.0, math.nan])])


def test_the_error_names_the_missing_extra(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPartError, match=r'pip install "mpo-core\[plot\]"'):
        _random().plot_spectra()
