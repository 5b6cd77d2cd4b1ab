"""Plots of accuracy against cost."""

import math
import os
from collections.abc import Mapping, Sequence

from keras_resadapt.analysis.text import plain

MARKERS = "osD^vP*X"

# The factor and the axis label of each cost
_COSTS = {
    "madds": (1e-6, "multiply-adds per image (millions)"),
    "ms": (1, "milliseconds per image"),
}


def plot_accuracy_cost(
    curves: Mapping[str, Sequence[tuple[str, float, float]]],
    path: str | os.PathLike,
    title: str = "",
    sweeps: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    log: bool = False,
    cost: str = "madds",
    metric: str = "top-1 accuracy",
) -> None:
    """Plots accuracy against cost, with one curve per network.

    These are the plots of MSNet, figure 5 (a sweep over thresholds beside the
    points of plain networks), RANet, figure 5 (marked points: anytime prediction)
    and figure 6 (sweeps: budgeted batches), and RS-Net, figure 1.

    Args:
        curves: For each network by name, a sequence of (name of the operating point,
            multiply-adds per image, accuracy in [0, 1]). Each operating point has a
            marker. A single curve also has the names of its operating points.
        path: The image file to write, `.png` or another format of matplotlib.
        title: Title of the plot.
        sweeps: For each network by name, a dense sequence of (mean multiply-adds per
            image, accuracy in [0, 1]), such as the results of many thresholds or
            budgets. It is a line without markers in the color of the curve of the
            same name, if there is one.
        log: Whether the axis of the cost is logarithmic.
        cost: `"madds"`, or `"ms"` if the costs are milliseconds per image.
        metric: Name of what is plotted as the accuracy, for example `"mean IoU"`.

    Raises:
        ValueError: If there is nothing to plot, a curve has no points, a cost is not
            finite, an accuracy is outside [0, 1], or `cost` is unknown.
    """
    from matplotlib.figure import Figure

    sweeps = sweeps or {}
    _check_rows(curves, sweeps)
    if cost not in _COSTS:
        raise ValueError(
            f"`cost` must be one of {tuple(_COSTS)}. Received: cost={cost!r}"
        )
    scale, unit = _COSTS[cost]

    figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for number, label in enumerate(dict.fromkeys([*curves, *sweeps])):
        color = f"C{number % 10}"
        if label in sweeps:
            points = sorted(map(tuple, sweeps[label]))
            axes.plot(
                [scale * x for x, _ in points],
                [100 * accuracy for _, accuracy in points],
                color=color,
                linewidth=2,
                label=plain(f"{label}, sweep" if label in curves else label),
            )
        if label in curves:
            rows = sorted(curves[label], key=lambda row: row[1])
            axes.plot(
                [scale * row[1] for row in rows],
                [100 * row[2] for row in rows],
                color=color,
                marker=MARKERS[number % len(MARKERS)],
                # The sweep is the line.
                linestyle=":" if label in sweeps else "-",
                label=plain(label),
            )
            if len(curves) == 1:
                _name_points(axes, rows, scale)
    axes.margins(0.08, 0.15)
    if log:
        _label_log_axis(axes)
    axes.set_xlabel(unit)
    axes.set_ylabel(plain(f"{metric} (%)"))
    axes.set_title(plain(title))
    axes.grid(alpha=0.3, which="both" if log else "major")
    axes.legend(loc="lower right")
    figure.savefig(path)


def _check_rows(curves, sweeps):
    if not (curves or sweeps) or not all(len(rows) for rows in curves.values()):
        raise ValueError(
            "`curves` must have at least one point in every curve. "
            f"Received: curves={curves!r}"
        )
    if not all(len(rows) for rows in sweeps.values()):
        raise ValueError(
            "`sweeps` must have at least one point in every sweep. "
            f"Received: sweeps={sweeps!r}"
        )
    for part in (curves, sweeps):
        for rows in part.values():
            for row in rows:
                if not (0 <= row[-1] <= 1 and math.isfinite(row[-2])):
                    raise ValueError(
                        "Costs must be finite and accuracies in [0, 1]. "
                        f"Received: {tuple(row)}"
                    )


def _name_points(axes, rows, scale):
    for name, cost, accuracy in rows:
        axes.annotate(
            plain(name),
            (scale * cost, 100 * accuracy),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
        )


def _label_log_axis(axes):
    """Labels a logarithmic axis with plain numbers.

    There are enough of them where the costs span less than a decade.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator

    axes.set_xscale("log")
    numbers = FuncFormatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(numbers)
    axes.xaxis.set_minor_formatter(lambda value, _: "")
