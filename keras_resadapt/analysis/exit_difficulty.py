"""Whether hard images leave a cascade later than easy ones."""

import os

import numpy as np


def plot_exit_difficulty(
    exits: np.ndarray,
    difficulty: np.ndarray,
    path: str | os.PathLike,
    num_exits: int | None = None,
    bins: int = 10,
    title: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """Draws, for easy to hard images, which shares left at which exit.

    What RANet, figure 7, shows by examples, for data whose images have a
    number for how hard they are, such as `data.demo_set`'s.

    Args:
        exits: The exit of each image, from 0, of shape (images,), as
            `plot_exit_gallery` or an `inference.AdaptivePredictor` gives them.
        difficulty: A number for each image, high for hard.
        path: The picture to write.
        num_exits: By default one more than the largest in `exits`.
        bins: Ranges of the difficulty, all of the same width.
        title: Above the picture.

    Returns:
        The numbers of images, int64 of shape (exits, bins), and the edges of
        the ranges, of shape (bins + 1,).

    Raises:
        ValueError: No images, arrays of different lengths, numbers that are
            not finite, or exits outside [0, num_exits).
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    exits, difficulty = np.asarray(exits), np.asarray(difficulty, "float64")
    if exits.ndim != 1 or not len(exits) or exits.shape != difficulty.shape:
        raise ValueError(
            "`exits` and `difficulty` must have a number each image. "
            f"Received: shapes {exits.shape} and {difficulty.shape}"
        )
    if not np.isfinite(difficulty).all():
        raise ValueError("`difficulty` must be finite.")
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
        left = exits == exit
        mean = f", mean {difficulty[left].mean():.2f}" if left.any() else ""
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
    axes.set_ylabel("left at the exit (%)")
    axes.set_ylim(0, 106)
    figure.legend(loc="outside right upper", reverse=True)
    figure.suptitle(title)
    figure.savefig(path)
    return counts, edges
