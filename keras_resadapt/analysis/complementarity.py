"""What one operating point gets right and another does not."""

import os
from collections.abc import Iterable, Sequence

import numpy as np

from keras_resadapt.analysis.heat_table import draw_heat_table
from keras_resadapt.inference.storing.point_logits import collect_logits
from keras_resadapt.models.network import Network
from keras_resadapt.points.operating_point import OperatingPoint


def plot_complementarity(
    model: Network,
    data: Iterable,
    path: str | os.PathLike,
    points: Sequence[OperatingPoint] | None = None,
    title: str = "",
    verbose: bool = True,
) -> np.ndarray:
    """Draws the shares of images right at one point and wrong at another.

    RS-Net, table 1. Where a cheap point is right and a dear one wrong, the
    dear one can learn from the cheap.

    Args:
        model: An `RSNet` (points are resolutions) or a cascade (exits).
        data: Batches of (images, labels), as for `plot_agreement`.
        path: The picture to write.
        points: By default all operating points.
        title: Above the picture.
        verbose: Whether to show the progress.

    Returns:
        Array of shape (points, points): the share, in [0, 1], of the images
        that are wrong at the row's point and right at the column's.

    Raises:
        TypeError: The model is no `Network`.
        ValueError: Bad data; see `collect_logits`.
    """
    from matplotlib.figure import Figure

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
    axes.set_title(title or f"% of {len(collected.labels)} images", fontsize="medium")
    figure.savefig(path)
    return shares
