"""Statistics of the BatchNormalization of every resolution."""

import dataclasses
import os
import re

import keras
import numpy as np
from keras import ops

from keras_resadapt.analysis.text import plain

VECTORS = {
    "gamma": "scale $\\gamma$",
    "beta": "bias $\\beta$",
    "moving_mean": "mean $\\mu$",
    "moving_variance": "variance $\\sigma^2$",
}


@dataclasses.dataclass(frozen=True)
class BNStatistics:
    """Means and deviations of BatchNormalization vectors over their channels.

    Attributes:
        layers: Names of the layers, in the order of the network's variables.
        resolutions: Resolutions in pixels, with the largest first.
        mean: Mean over the channels, float64 of shape (4, resolutions, layers). The
            first axis is gamma, beta, moving mean and moving variance.
        spread: Standard deviation over the channels, of the same shape.
    """

    layers: tuple[str, ...]
    resolutions: tuple[int, ...]
    mean: np.ndarray
    spread: np.ndarray


def bn_statistics(model: keras.Model, layers: str = "") -> BNStatistics:
    """Computes statistics of every branch of every switchable normalization.

    Args:
        model: An `RSNet`, or another model that has
            `layers.SwitchableBatchNormalization` layers.
        layers: Regular expression that is searched in the names of the layers, for
            example `"bn1$"` for the first convolution of each block.

    Returns:
        The statistics.

    Raises:
        TypeError: If the model has no switchable normalizations.
        ValueError: If no layer has such a name.
    """
    table = {}  # by layer, resolution and vector
    for variable in model.variables:
        found = re.fullmatch(rf"(.+)/r(\d+)/({'|'.join(VECTORS)})", variable.path)
        if found:
            layer, resolution, vector = found.groups()
            values = ops.convert_to_numpy(variable).astype("float64")
            table.setdefault(layer, {})[int(resolution), vector] = values
    if not table:
        raise TypeError(
            "`model` must have SwitchableBatchNormalization layers, as an RSNet has. "
            f"Received: {model.name!r}, a {type(model).__name__} without them"
        )
    names = _short_names(list(table))
    chosen = [i for i, name in enumerate(names) if re.search(layers, name)]
    if not chosen:
        raise ValueError(
            f"`layers` must be found in the name of a layer. Received: "
            f"layers={layers!r} for the layers {', '.join(names)}"
        )
    kept = [list(table.values())[i] for i in chosen]
    resolutions = sorted({r for r, _ in kept[0]}, reverse=True)
    mean, spread = (
        np.array(
            [
                [[reduce(layer[r, v]) for layer in kept] for r in resolutions]
                for v in VECTORS
            ]
        )
        for reduce in (np.mean, np.std)
    )
    return BNStatistics(
        tuple(names[i] for i in chosen), tuple(resolutions), mean, spread
    )


def plot_bn_statistics(
    model: keras.Model,
    path: str | os.PathLike,
    layers: str = "",
    title: str = "",
) -> BNStatistics:
    """Plots BatchNormalization statistics by layer, with one line per resolution.

    The upper row is the mean over the channels of scale, bias, mean and variance.
    The lower row is their standard deviation over the channels. RS-Net, figure 6, is
    the upper row for the first layers of all blocks (`layers="bn1$"`) and for the
    second layers (`layers="bn2$"`).

    Args:
        model: As for `bn_statistics`.
        path: The image file to write.
        layers: As for `bn_statistics`.
        title: Title of the plot.

    Returns:
        The statistics.

    Raises:
        TypeError, ValueError: As for `bn_statistics`.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    statistics = bn_statistics(model, layers)
    count = len(statistics.layers)
    colors = colormaps["viridis"](np.linspace(0, 0.9, len(statistics.resolutions)))
    figure = Figure(figsize=(13, 6), dpi=120, layout="constrained")
    grid = figure.subplots(2, len(VECTORS), sharex=True)
    places = np.arange(1, count + 1)
    for row, values in zip(grid, (statistics.mean, statistics.spread)):
        for axes, of_vector, name in zip(row, values, VECTORS):
            for line, resolution, color in zip(
                of_vector, statistics.resolutions, colors
            ):
                axes.plot(
                    places,
                    line,
                    marker=".",
                    color=color,
                    label=f"{resolution} x {resolution}",
                )
            if name == "moving_variance" and np.all(of_vector > 0):
                axes.set_yscale("log")  # it spans decades
            axes.grid(alpha=0.3)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes, name in zip(grid[0], VECTORS.values()):
        axes.set_title(name)
    grid[0, 0].set_ylabel("mean over channels")
    grid[1, 0].set_ylabel("standard deviation over channels")
    if count <= 12:
        for axes in grid[1]:
            axes.set_xticks(places, statistics.layers, rotation=90)
    else:
        figure.supxlabel("layer")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", title="resolution")
    figure.suptitle(plain(title))
    figure.savefig(path)
    return statistics


def _short_names(paths: list[str]) -> list[str]:
    """Returns the paths without the folders that all of them share."""
    folders = [path.split("/")[:-1] for path in paths]
    common = len(os.path.commonprefix(folders))
    return ["/".join(path.split("/")[common:]) for path in paths]
