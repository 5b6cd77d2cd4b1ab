"""Plot of the exits of easy and hard images."""

import os

import numpy as np

from keras_resadapt.analysis.text import plain


def plot_exit_difficulty(
    exits: np.ndarray,
    difficulty: np.ndarray,
    path: str | os.PathLike,
    num_exits: int | None = None,
    bins: int = 10,
    title: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """Plots the fraction of images at each exit, from easy to hard images.

    RANet, figure 7, shows this by examples. This plot is for data with a measure of
    difficulty, such as `data.demo_set`.

    Args:
        exits: The exit of each image, integers from 0 of shape (images,), as returned
            by `plot_exit_gallery` and `inference.AdaptivePredictor`.
        difficulty: The difficulty of each image, high for hard images, of shape
            (images,).
        path: The image file to write.
        num_exits: Number of exits. None for one more than the largest of `exits`.
        bins: Number of ranges of the difficulty, all of the same width.
        title: Title of the plot.

    Returns:
        The number of images in each range, int64 of shape (exits, bins), and the
        edges of the ranges, of shape (bins + 1,).

    Raises:
        ValueError: If there are no images, the arrays have different lengths, values
            are not finite, or exits are not integers in [0, num_exits).
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    exits, difficulty = np.asarray(exits), np.asarray(difficulty, "float64")
    if exits.ndim != 1 or not len(exits) or exits.shape != difficulty.shape:
        raise ValueError(
            "`exits` and `difficulty` must have one number per image. "
            f"Received: shapes {exits.shape} and {difficulty.shape}"
        )
    if not np.isfinite(difficulty).all():
        raise ValueError(
            "`difficulty` must be finite. Received: "
            f"{np.count_nonzero(~np.isfinite(difficulty))} values that are not"
        )
    if exits.dtype.kind not in "iu":
        raise ValueError(f"`exits` must be integers. Received: {exits.dtype}")
    num_exits = int(exits.max()) + 1 if num_exits is None else num_exits
    if exits.min() < 0 or exits.max() >= num_exits:
        raise ValueError(
            f"`exits` must be from 0 to {num_exits - 1}. "
            f"Received: {exits.min()} to {exits.max()}"
        )
    edges = np.histogram_bin_edges(difficulty, bins)
    counts = np.array(
        [np.histogram(difficulty[exits == exit], edges)[0] for exit in range(num_exits)]
    )

    totals = counts.sum(axis=0)
    shares = 100 * counts / np.maximum(totals, 1)
    colors = colormaps["viridis"](np.linspace(0.95, 0.1, num_exits))
    figure = Figure(figsize=(7.5, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    bottom = np.zeros(len(totals))
    for exit, (share, color) in enumerate(zip(shares, colors)):
        here = exits == exit
        mean = f", mean {difficulty[here].mean():.2f}" if here.any() else ""
        axes.bar(
            edges[:-1],
            share,
            np.diff(edges) * 0.95,
            bottom,
            align="edge",
            color=color,
            label=f"exit {exit}{mean}",
        )
        bottom += share
    for place, total in zip((edges[:-1] + edges[1:]) / 2, totals):
        axes.annotate(
            f"{total}",
            (place, 100),
            xytext=(0, 2),
            fontsize="small",
            textcoords="offset points",
            ha="center",
        )
    axes.set_xlabel("difficulty (above the bars: number of images)")
    axes.set_ylabel("images at the exit (%)")
    axes.set_ylim(0, 106)
    figure.legend(loc="outside right upper", reverse=True)
    figure.suptitle(plain(title))
    figure.savefig(path)
    return counts, edges
