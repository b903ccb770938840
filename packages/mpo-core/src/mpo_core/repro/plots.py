"""Plots of a record as inline SVG that takes its colours and its font from the page around it.

Figures are drawn with matplotlib's SVG canvas alone: no window system, no state shared between plots. A plot
names its colours by CSS variables of the page: it is legible in light and in dark. Its ids carry the plot's
own prefix, so plots on one page never refer to each other's parts. The same record gives the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from mpo_core.repro.record import RunRecord
from mpo_core.repro.statistics import mean_sd
from mpo_core.repro.summary import arm_names, format_mean_sd, format_number, quantity_by_seed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that no figure needs for itself; `_adapt` puts the page's variables in their place.
INK, MUTED, GRID = "#010203", "#010204", "#010205"
SERIES = tuple(f"#0102{10 + number}" for number in range(8))
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line"} | {
    colour: f"--series-{number}" for number, colour in enumerate(SERIES, start=1)
}
STYLES = ("-", "--", ":", "-.")
SKIPPED_SERIES = ("learning_rate", "grad_norm", "epoch")
MAX_POINTS = 300
"""Points of a line that are drawn: more would show nothing at this size."""
STEP = "step"
"""The array of a group that the others are drawn against."""
MAX_LINES = 8
"""Arrays in one plot."""
MAX_PLOTS = 8
"""Plots of one kind and record."""
LOG_RATIO = 30.0
"""Positive values that span more than this factor get a logarithmic axis."""
WIDTH = 4.4
"""Inches; the page shows a plot about as wide on a phone, and half as wide again on a desk."""


@dataclass(frozen=True)
class Plot:
    """One plot for the page.

    Attributes:
        title: its heading.
        caption: what is drawn.
        svg: an ``<svg>`` element with an ``aria-label``.
    """

    title: str
    caption: str
    svg: str


def dot_plots(record: RunRecord, prefix: str) -> list[Plot]:
    """One plot per final metric that varies: seeds as dots, mean and deviation of each arm.

    Args:
        record: the run.
        prefix: starts every id of these plots; unique on the page.
    """
    trials = [trial for arm in arm_names(record) for trial in record.final(arm)]
    values: dict[str, set[float]] = {}
    for name, measurement in (item for trial in trials for item in trial.metrics.items()):
        values.setdefault(name, set()).add(measurement.value)
    chosen = record.config.get("select_metric")
    # Where all values are one, dots show nothing that the table does not say.
    ordered = sorted((name for name in values if len(values[name]) > 1), key=lambda name: name != chosen)
    return [_dot_plot(record, name, f"{prefix}-dots{i}") for i, name in enumerate(ordered[:MAX_PLOTS])]


def series_plots(record: RunRecord, prefix: str) -> list[Plot]:
    """One plot per logged quantity (the loss first): thin lines for seeds, a thick one for the arm's mean."""
    trials = [trial for arm in arm_names(record) for trial in record.final(arm)]
    names = dict.fromkeys(name for trial in trials for point in trial.series for name in point.values)
    shown = sorted((name for name in names if name not in SKIPPED_SERIES), key=lambda name: name != "loss")
    return [_series_plot(record, name, f"{prefix}-series{i}") for i, name in enumerate(shown[:MAX_PLOTS])]


def array_plots(record: RunRecord, prefix: str) -> list[Plot]:
    """One plot per arm and group of arrays, from its first seed; logarithmic where values span decades.

    A group with an array ``step`` gets one plot for each of its other arrays, drawn against the steps.
    """
    plots = []
    for arm in arm_names(record):
        trial = next((trial for trial in record.final(arm) if trial.arrays), None)
        groups: dict[str, dict[str, list[float]]] = {}
        for name, values in (trial.arrays if trial else {}).items():
            group, _, label = name.rpartition("/")
            groups.setdefault(group, {})[label] = values
        for group, arrays in groups.items():
            title = f"{arm}: {group}" if group else f"{arm}: {_common_words(list(arrays))}"
            seed = trial.seed if trial else 0
            steps = arrays.get(STEP)
            parts = [(title, arrays)]
            if steps is not None:
                named = {label: values for label, values in arrays.items() if len(values) == len(steps)}
                parts = [(f"{title}, {label}", {label: named[label]}) for label in named if label != STEP]
            for name, part in parts:
                plots.append(_array_plot(name, part, seed, f"{prefix}-arrays{len(plots)}", steps))
    return plots[:MAX_PLOTS]


def _dot_plot(record: RunRecord, metric: str, prefix: str) -> Plot:
    rows = [(arm, list(quantity_by_seed(record, arm, metric).values())) for arm in arm_names(record)]
    rows = [(arm, values) for arm, values in rows if values]
    figure, axes = _new_figure(0.65 + 0.36 * len(rows))
    for row, (_, values) in enumerate(rows):
        mean, sd = mean_sd(values)
        axes.plot(values, [row] * len(values), "o", color=_colour(row), alpha=0.55, markersize=6, markeredgewidth=0)
        if sd is not None:
            axes.errorbar(
                [mean], [row + 0.24], xerr=[sd], fmt="|", color=INK,
                markersize=9, markeredgewidth=1.6, elinewidth=1.2, capsize=3,
            )  # fmt: skip
    axes.set_yticks(range(len(rows)), [arm for arm, _ in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    figures = "; ".join(f"{arm} {format_mean_sd(*mean_sd(values))}" for arm, values in rows)
    several = any(len(values) > 1 for _, values in rows)
    caption = "Every seed is a dot" + ("; the bar is mean ± standard deviation." if several else ".")
    return Plot(metric, caption, _render(figure, prefix, f"{metric} of each arm: {figures}."))


def _series_plot(record: RunRecord, name: str, prefix: str) -> Plot:
    figure, axes = _new_figure(2.7)
    ends, drawn = [], []
    for number, arm in enumerate(arm_names(record)):
        lines = [
            {point.step: point.values[name] for point in trial.series if name in point.values}
            for trial in record.final(arm)
        ]
        lines = [line for line in lines if line]
        if not lines:
            continue
        drawn += [value for line in lines for value in line.values()]
        if len(lines) > 1:
            for line in lines:
                axes.plot(*_thinned(sorted(line.items())), color=_colour(number), alpha=0.25, linewidth=0.8)
        steps = sorted(set.intersection(*(set(line) for line in lines)))
        means = [(step, mean_sd([line[step] for line in lines])[0]) for step in steps]
        if means:
            axes.plot(
                *_thinned(means), color=_colour(number), linestyle=_style(number), linewidth=1.8, label=arm,
                marker="o" if len(means) == 1 else None,
            )  # fmt: skip
            ends.append(f"{arm} ends at {format_number(means[-1][1])}")
    _scale_y(axes, drawn)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(name)
    _add_legend(axes)
    caption = "Thick: mean over the seeds; thin: each seed."
    return Plot(f"{name} while training", caption, _render(figure, prefix, f"{name} by step: {'; '.join(ends)}."))


def _array_plot(
    title: str, arrays: dict[str, list[float]], seed: int, prefix: str, steps: Sequence[float] | None
) -> Plot:
    figure, axes = _new_figure(2.7)
    shown = dict(list(arrays.items())[:MAX_LINES])
    for number, (label, values) in enumerate(shown.items()):
        places = range(1, len(values) + 1) if steps is None else steps
        points = list(zip(places, values, strict=True))
        axes.plot(
            *_thinned(points), color=_colour(number), linestyle=_style(number), linewidth=1.6, label=label,
            marker="." if len(points) <= 40 else None,
        )  # fmt: skip
    _scale_y(axes, [value for values in shown.values() for value in values])
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_xlabel("index" if steps is None else "optimizer step")
    if steps is None:
        _add_legend(axes)
    left_out = len(arrays) - len(shown)
    caption = f"Seed {seed}." + (f" {left_out} further arrays stand in the record." if left_out else "")
    ranges = "; ".join(
        f"{label} from {format_number(max(values))} down to {format_number(min(values))}"
        for label, values in shown.items()
        if values
    )
    return Plot(title, caption, _render(figure, prefix, f"{title}: {ranges}."))


def _new_figure(height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(colors=MUTED, labelcolor=INK, labelsize=9, length=3)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=MUTED, fontsize=9)
    return figure, axes


def _colour(number: int) -> str:
    return SERIES[number % len(SERIES)]


def _style(number: int) -> str:
    """Lines differ in style too: colour alone does not reach every reader, or any printer."""
    return STYLES[number % len(STYLES)]


def _scale_y(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis for values that are not negative and span decades; zeros then are gaps."""
    positive = [value for value in values if value > 0]
    if positive and min(values) >= 0 and max(positive) / min(positive) > LOG_RATIO:
        from matplotlib.ticker import FuncFormatter, NullLocator

        axes.set_yscale("log", nonpositive="mask")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())


def _add_legend(axes: Axes) -> None:
    if len(axes.get_legend_handles_labels()[1]) > 0:
        axes.legend(loc="best", frameon=False, fontsize=8.5, labelcolor=INK)


def _thinned(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    stride = max(1, -(-len(points) // MAX_POINTS))
    kept = list(points[::stride])
    if points and kept[-1] != points[-1]:
        kept.append(points[-1])
    return [x for x, _ in kept], [y for _, y in kept]


def _common_words(labels: Sequence[str]) -> str:
    """What labels of an unnamed group share: ``bond 1 spectrum``, ``bond 2 spectrum``: ``bond spectrum``."""
    words = [label.split() for label in labels]
    shared = [word for word in words[0] if all(word in other for other in words)]
    return " ".join(shared) or "arrays"


def _render(figure: Figure, prefix: str, description: str) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    # Text as text: it takes the page's font and can be read aloud. The salt makes generated ids reproducible.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix, "font.family": ["DejaVu Sans"]}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return _adapt(buffer.getvalue(), prefix, description)


def _adapt(svg: str, prefix: str, description: str) -> str:
    """Turn matplotlib's file into an element of the page: own ids, the page's colours and font."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    body = re.sub(r"<style type=\"text/css\">.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', body)
    body = re.sub(r"font: ([0-9.]+px) [^;\"]*", r"font-size: \1", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    opening = re.search(r'viewBox="([^"]+)"', body)
    box = opening.group(1) if opening else "0 0 460 220"
    head = (
        f'<svg class="plot" role="img" aria-label="{escape(description)}" viewBox="{box}" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return head + body[body.index(">") + 1 :].strip()
