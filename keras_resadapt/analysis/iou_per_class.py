"""Plot of the intersection over union of every class."""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from keras_resadapt.analysis.accuracy_cost import MARKERS
from keras_resadapt.analysis.text import plain


def plot_iou_per_class(
    ious: Mapping[str, Sequence[float]],
    path: str | os.PathLike,
    class_names: Sequence[str] | None = None,
    title: str = "",
) -> None:
    """Plots the intersection over union (IoU) of each class at each operating point.

    Classes are sorted by their IoU at the first operating point, with the best on top.
    A line joins the values of a class. The legend has the mean IoU.

    Args:
        ious: For each operating point by name, the IoU of each class in [0, 1], of
            shape (classes,). NaN for classes that do not occur.
        path: The image file to write.
        class_names: One name per class. None for the numbers of the classes.
        title: Title of the plot.

    Raises:
        ValueError: If there is nothing to plot, the numbers of classes differ, or an
            IoU is outside [0, 1].
    """
    from matplotlib.figure import Figure

    values = {name: np.asarray(row, "float64") for name, row in ious.items()}
    shapes = {row.shape for row in values.values()}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 1 or not shape[0]:
        raise ValueError(
            "`ious` must have one IoU per class for each operating point. Received: "
            f"shapes { ({name: row.shape for name, row in values.items()}) }"
        )
    table = np.stack(list(values.values()))
    absent = np.isnan(table)
    if absent.all() or not np.all(absent | (0 <= table) & (table <= 1)):
        raise ValueError(
            "`ious` must be in [0, 1], or NaN for classes that do not occur. "
            f"Received: ious={ious!r}"
        )
    if class_names is not None and len(class_names) != table.shape[1]:
        raise ValueError(
            "`class_names` must have one name per class. Received: "
            f"{len(class_names)} names for {table.shape[1]} classes"
        )
    # Classes that do not occur at the first point are at the bottom.
    order = np.argsort(np.nan_to_num(table[0], nan=-1), kind="stable")
    order = order[~absent[:, order].all(axis=0)]
    table = 100 * table[:, order]
    places = np.arange(len(order))
    names = range(absent.shape[1]) if class_names is None else class_names

    figure = Figure(figsize=(7, 1.4 + 0.22 * len(order)), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.hlines(places, np.nanmin(table, 0), np.nanmax(table, 0), color="0.8", zorder=1)
    for number, (name, row) in enumerate(zip(values, table)):
        axes.plot(
            row,
            places,
            linestyle="none",
            marker=MARKERS[number % len(MARKERS)],
            color=f"C{number % 10}",
            label=plain(f"{name}, mean {np.nanmean(row):.1f} %"),
        )
    axes.set_yticks(places, [plain(names[label]) for label in order])
    axes.set_ylim(-0.7, len(order) - 0.3)
    axes.set_xlim(left=0)
    axes.set_xlabel("IoU (%)")
    axes.grid(alpha=0.3, axis="x")
    axes.set_title(plain(title))
    figure.legend(loc="outside lower center", ncols=3)
    figure.savefig(path)
