"""Plot of images that are right at one operating point and wrong at another."""

import os
from collections.abc import Iterable, Sequence

import keras
import numpy as np

from keras_resadapt.analysis.heat_table import draw_heat_table
from keras_resadapt.analysis.text import plain
from keras_resadapt.inference.running.collecting import collect_logits
from keras_resadapt.points.operating_point import OperatingPoint


def plot_complementarity(
    model: keras.Model,
    data: Iterable,
    path: str | os.PathLike,
    points: Sequence[OperatingPoint] | None = None,
    title: str = "",
    verbose: bool = True,
) -> np.ndarray:
    """Plots the fraction of images right at one point and wrong at another.

    RS-Net, table 1. Where a cheap operating point is right and an expensive one is
    wrong, the expensive one can learn from the cheap one.

    Args:
        model: A classifier with operating points, such as an `RSNet` (resolutions) or
            a cascade (exits).
        data: Batches of (images, labels), as for `plot_agreement`.
        path: The image file to write.
        points: Operating points. None for all of them.
        title: Title of the plot.
        verbose: Whether to show the progress.

    Returns:
        Array of shape (points, points): the fraction, in [0, 1], of the images that
        are wrong at the point of the row and right at the point of the column.

    Raises:
        TypeError: If the model has no operating points.
        ValueError: If `points` is empty, or for invalid data (see `collect_logits`).
    """
    from matplotlib.figure import Figure

    if points is not None and not len(points):
        raise ValueError(
            "`points` must have at least one operating point. Received: points=()"
        )
    collected = collect_logits(model, data, points, verbose)
    correct = collected.correct.astype("float64")
    shares = (1 - correct) @ correct.T / len(collected.labels)

    names = collected.names
    figure = Figure(
        figsize=(3 + 0.8 * len(names), 1.8 + 0.5 * len(names)),
        dpi=120,
        layout="constrained",
    )
    axes = figure.add_subplot()
    # The diagonal is 0 by definition.
    empty = np.diag(np.full(len(names), np.nan))
    draw_heat_table(axes, 100 * shares + empty, names, names)
    axes.set_xlabel("right")
    axes.set_ylabel("wrong")
    axes.set_title(
        plain(title) or f"% of {len(collected.labels)} images", fontsize="medium"
    )
    figure.savefig(path)
    return shares
