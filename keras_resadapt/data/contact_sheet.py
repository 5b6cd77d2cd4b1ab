"""Images side by side in one file, from easy to hard."""

import os
from collections.abc import Sequence

import numpy as np


def save_contact_sheet(
    path: str | os.PathLike,
    images: np.ndarray,
    labels: np.ndarray,
    difficulty: np.ndarray,
    class_names: Sequence[str],
    columns: int = 8,
) -> None:
    """Writes a PNG with one row per class, from its easiest to its hardest image.

    Args:
        path: The file to write.
        images: uint8 (number, height, width, 3).
        labels: Integers (number,), indices into `class_names`.
        difficulty: float (number,), low for easy images. Any measure serves, for
            example the confidence of a network.
        class_names: One name per label. Classes without images get no row.
        columns: Images per row, at least 2, evenly spread from easy to hard.

    Raises:
        ValueError: If there are no images, the arrays have different lengths, a label
            has no name, or `columns` is below 2.
        ImportError: If matplotlib is not installed.
    """
    labels, difficulty = np.asarray(labels), np.asarray(difficulty)
    if not len(images) or not len(images) == len(labels) == len(difficulty):
        raise ValueError(
            "`images`, `labels` and `difficulty` must have the same length, at least "
            f"1. Received: {len(images)}, {len(labels)} and {len(difficulty)}"
        )
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise ValueError(
            f"`labels` must be from 0 to {len(class_names) - 1}. "
            f"Received: {labels.min()} to {labels.max()}"
        )
    if columns < 2:
        raise ValueError(f"`columns` must be at least 2. Received: columns={columns!r}")
    try:
        # The object interface needs no display and leaves the state of pyplot alone.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "`save_contact_sheet` needs matplotlib: `pip install matplotlib`."
        ) from error

    present = np.unique(labels)
    figure = Figure(figsize=(1.1 * columns, 1.3 * len(present)), layout="constrained")
    axes = figure.subplots(len(present), columns, squeeze=False)
    for row, label in zip(axes, present):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(difficulty[members], kind="stable")]
        shown = members[np.linspace(0, len(members) - 1, columns).round().astype(int)]
        for axis, member in zip(row, shown):
            axis.imshow(images[member], interpolation="nearest")
            axis.set_axis_off()
            axis.set_title(f"{difficulty[member]:.2f}", fontsize=7, pad=2)
        name = row[0].text(
            0,
            -0.04,
            class_names[label],
            transform=row[0].transAxes,
            fontsize=8,
            va="top",
            parse_math=False,  # a name can have dollar signs
        )
        name.set_in_layout(False)  # a long name can run under the next image
    figure.savefig(path, dpi=120)
