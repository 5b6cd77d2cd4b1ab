"""Pictures side by side in one file, from easy to hard."""

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
    """Writes a PNG with one row a class: its easiest picture on the left, its hardest on the right.

    Args:
        path: the file to write.
        images: uint8 (number, height, width, 3).
        labels: int (number,), indices into `class_names`.
        difficulty: float (number,), low is easy. Any measure serves, for example a network's confidence.
        class_names: one name a label; classes without pictures get no row.
        columns: pictures a row, at least 2, evenly spread from easy to hard.

    Raises:
        ValueError: no pictures, arrays of different lengths, or `columns` below 2.
        ImportError: matplotlib is not installed.
    """
    if not len(images) or not len(images) == len(labels) == len(difficulty):
        raise ValueError(
            "images, labels and difficulty must have the same length, at least 1; "
            f"got {len(images)}, {len(labels)} and {len(difficulty)}."
        )
    if columns < 2:
        raise ValueError(f"columns must be at least 2; got {columns!r}.")
    try:
        # The object interface draws without a display and leaves the user's pyplot state alone.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "save_contact_sheet needs matplotlib: pip install matplotlib."
        ) from error

    present = np.unique(labels)
    figure = Figure(figsize=(1.1 * columns, 1.3 * len(present)), layout="constrained")
    axes = figure.subplots(len(present), columns, squeeze=False)
    for row, label in zip(axes, present):
        members = np.flatnonzero(np.asarray(labels) == label)
        members = members[np.argsort(np.asarray(difficulty)[members], kind="stable")]
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
        )
        name.set_in_layout(False)  # a long name may run under the next picture
    figure.savefig(path, dpi=120)
