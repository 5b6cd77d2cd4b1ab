"""Accuracy against cost, drawn."""

from collections.abc import Mapping, Sequence


def plot_accuracy_cost(
    curves: Mapping[str, Sequence[tuple[str, float, float]]],
    path: str,
    title: str = "",
) -> None:
    """Draws accuracy against multiply-adds, a curve a network, into a file.

    Args:
        curves: By the network's name, a list of (name of the operating point,
            MAdds, accuracy in [0, 1]).
        path: The picture to write, `.png` or another ending that matplotlib
            knows.
        title: Above the picture.
    """
    from matplotlib.figure import Figure

    if not curves or not all(curves.values()):
        raise ValueError("`curves` must have a point in every curve.")
    figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for (label, rows), marker in zip(curves.items(), "osD^vP*X" * len(curves)):
        rows = sorted(rows, key=lambda row: row[1])
        madds = [row[1] / 1e6 for row in rows]
        accuracies = [100 * row[2] for row in rows]
        axes.plot(madds, accuracies, marker=marker, label=label)
        if len(curves) == 1:
            for (name, *_), x, y in zip(rows, madds, accuracies):
                axes.annotate(
                    name, (x, y), xytext=(0, 8), textcoords="offset points",
                    ha="center",
                )
    axes.margins(0.08, 0.15)
    axes.set_xlabel("multiply-adds an image (millions)")
    axes.set_ylabel("top-1 accuracy (%)")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path)
