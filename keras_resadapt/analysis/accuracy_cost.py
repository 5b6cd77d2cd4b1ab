"""Accuracy against cost, drawn."""

import os
from collections.abc import Mapping, Sequence

MARKERS = "osD^vP*X"


# What a unit of the cost is drawn as, and its name
_COSTS = {
    "madds": (1e-6, "multiply-adds an image (millions)"),
    "ms": (1, "milliseconds an image"),
}


def plot_accuracy_cost(
    curves: Mapping[str, Sequence[tuple[str, float, float]]],
    path: str | os.PathLike,
    title: str = "",
    sweeps: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    log: bool = False,
    cost: str = "madds",
) -> None:
    """Draws accuracy against multiply-adds, a curve a network, into a file.

    The plots of MSNet, figure 5 (a sweep over thresholds beside the points of
    plain networks), RANet, figure 5 (marked points: anytime prediction) and
    figure 6 (sweeps: budgeted batches), and RS-Net, figure 1.

    Args:
        curves: By the network's name, a list of (name of the operating point,
            MAdds, accuracy in [0, 1]). Drawn with a mark a point; with a
            single curve, the points are named.
        path: The picture to write, `.png` or another ending that matplotlib
            knows.
        title: Above the picture.
        sweeps: By the network's name, a dense list of (mean MAdds an image,
            accuracy in [0, 1]), such as the results of many thresholds or
            budgets. Drawn as a line without marks, in the colour of the curve
            of the same name, where there is one.
        log: The cost on a logarithmic axis.
        cost: `"madds"`, or `"ms"` where milliseconds an image take their
            place.

    Raises:
        ValueError: Nothing to draw, a curve without points, an accuracy
            outside [0, 1], or another cost.
    """
    from matplotlib.figure import Figure

    sweeps = sweeps or {}
    if not (curves or sweeps) or not all(curves.values()):
        raise ValueError("`curves` must have a point in every curve.")
    if not all(map(len, sweeps.values())):
        raise ValueError("`sweeps` must have a point in every sweep.")
    for row in (
        row for part in (curves, sweeps) for rows in part.values() for row in rows
    ):
        if not 0 <= row[-1] <= 1:
            raise ValueError(f"Accuracies must be in [0, 1]. Received: {row}")

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
            points = sorted(sweeps[label])
            axes.plot(
                [scale * x for x, _ in points],
                [100 * accuracy for _, accuracy in points],
                color=color,
                linewidth=2,
                label=f"{label}, sweep" if label in curves else label,
            )
        if label in curves:
            rows = sorted(curves[label], key=lambda row: row[1])
            axes.plot(
                [scale * row[1] for row in rows],
                [100 * row[2] for row in rows],
                color=color,
                marker=MARKERS[number % len(MARKERS)],
                # The sweep is the line then.
                linestyle=":" if label in sweeps else "-",
                label=label,
            )
            if len(curves) == 1:
                _name_points(axes, rows, scale)
    axes.margins(0.08, 0.15)
    if log:
        _label_log_axis(axes)
    axes.set_xlabel(unit)
    axes.set_ylabel("top-1 accuracy (%)")
    axes.set_title(title)
    axes.grid(alpha=0.3, which="both" if log else "major")
    axes.legend(loc="lower right")
    figure.savefig(path)


def _name_points(axes, rows, scale):
    for name, cost, accuracy in rows:
        axes.annotate(
            name,
            (scale * cost, 100 * accuracy),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
        )


def _label_log_axis(axes):
    """Plain numbers, and enough of them where the costs span no decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axes.set_xscale("log")
    numbers = FuncFormatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(numbers)
    axes.xaxis.set_minor_formatter(lambda value, _: "")
