"""Table of networks at resolutions other than those of their training."""

import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from keras import ops

from keras_resadapt.analysis.heat_table import draw_heat_table
from keras_resadapt.analysis.text import plain
from keras_resadapt.batches import images_at, labelled_batches
from keras_resadapt.models.rsnet import RSNet
from keras_resadapt.points.operating_point import OperatingPoint


def plot_resolution_table(
    models: Mapping[str, RSNet],
    data: Iterable,
    path: str | os.PathLike,
    resolutions: Sequence[int] | None = None,
    title: str = "",
    verbose: bool = True,
) -> np.ndarray:
    """Plots the accuracy of each network at each resolution as a table.

    RS-Net, table 2 (column I-224) and figure 4 (right): a network trained at one
    resolution loses accuracy at other resolutions, and an RS-Net does not.

    Args:
        models: `RSNet` models by name. A model needs `extrapolate=True` at resolutions
            outside the range of its training.
        data: Batches of (images, labels). Images are best a tuple with one tensor per
            resolution, each resized from the original images. Missing resolutions are
            resized from the largest one. All networks run on each batch, so that the
            data is read once.
        path: The image file to write.
        resolutions: Resolutions in pixels. None for those of the training of any
            network.
        title: Title of the plot.
        verbose: Whether to show the progress.

    Returns:
        Array of shape (models, resolutions): top-1 accuracy in [0, 1].

    Raises:
        TypeError: If a model is not an `RSNet`.
        ValueError: If there are no models or resolutions, the data is invalid, or a
            resolution is not possible for a model or the data.
    """
    from matplotlib.figure import Figure

    if not models:
        raise ValueError(
            f"`models` must have at least one network. Received: models={models!r}"
        )
    for name, model in models.items():
        if not isinstance(model, RSNet):
            raise TypeError(
                "`models` must be RSNet models. "
                f"Received: {name!r}, a {type(model).__name__}"
            )
    if resolutions is None:
        resolutions = {r for m in models.values() for r in m.resolutions}
        resolutions = sorted(resolutions, reverse=True)
    if not len(resolutions):
        raise ValueError(
            "`resolutions` must have at least one resolution. Received: resolutions=()"
        )
    points = [OperatingPoint(resolution=int(r)) for r in resolutions]
    correct, count = np.zeros((len(models), len(points))), 0
    for images, labels in labelled_batches(data, verbose):
        count += len(labels)
        for column, point in enumerate(points):
            view = images_at(images, point.resolution)
            for row, model in enumerate(models.values()):
                logits = ops.convert_to_numpy(model.logits(view, point))
                correct[row, column] += np.sum(logits.argmax(-1) == labels)
    accuracy = correct / count

    figure = Figure(
        figsize=(3 + 0.8 * len(points), 1.8 + 0.5 * len(models)),
        dpi=120,
        layout="constrained",
    )
    axes = figure.add_subplot()
    draw_heat_table(
        axes,
        100 * accuracy,
        list(models),
        [str(point.resolution) for point in points],
    )
    for row, model in enumerate(models.values()):
        for column, point in enumerate(points):
            if point.resolution in model.resolutions:
                axes.plot(column, row + 0.33, "_", color="tab:orange", ms=14)
    axes.set_xlabel(
        "resolution in the test (pixels), underlined: resolution of the training"
    )
    axes.set_title(plain(title) or "top-1 accuracy (%)", fontsize="medium")
    figure.savefig(path)
    return accuracy
