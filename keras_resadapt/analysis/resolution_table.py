"""Networks tested at resolutions other than they were trained at."""

import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from keras import ops

from keras_resadapt.analysis.heat_table import draw_heat_table
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
    """Draws the accuracy of each network at each resolution, as a table.

    RS-Net, table 2 (column I-224) and figure 4 (right): an individually
    trained network loses accuracy at other resolutions, an RS-Net does not.

    Args:
        models: By name, `RSNet`s. Outside the resolutions that one was trained
            at, it needs `extrapolate=True`.
        data: Batches of (images, labels). Best with a tuple of images, a
            tensor a resolution, each resized from the original pictures; those
            that are missing are resized from the largest. All networks run on
            each batch, so that the data is read once.
        path: The picture to write.
        resolutions: To test at; by default all that any network was trained
            at.
        title: Above the picture.
        verbose: Whether to show the progress.

    Returns:
        Array of shape (models, resolutions): top-1 accuracy in [0, 1].

    Raises:
        TypeError: A model is no `RSNet`.
        ValueError: No models, bad data, or a resolution that a model or the
            data has not.
    """
    from matplotlib.figure import Figure

    if not models:
        raise ValueError("`models` must name at least one network.")
    for name, model in models.items():
        if not isinstance(model, RSNet):
            raise TypeError(
                f"`models` must be RSNets. Received: {name!r}, a {type(model).__name__}"
            )
    if resolutions is None:
        resolutions = {r for m in models.values() for r in m.resolutions}
        resolutions = sorted(resolutions, reverse=True)
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
    axes.set_xlabel("tested at (pixels); underlined: trained at")
    axes.set_title(title or "top-1 accuracy (%)", fontsize="medium")
    figure.savefig(path)
    return accuracy
