"""The anchors of a region proposal network."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops


def cell_anchors(size: float, aspect_ratios: Sequence[float]) -> np.ndarray:
    """Returns the anchors around the origin, in whole pixels.

    Args:
        size: Square root of the area in pixels.
        aspect_ratios: Height over width of each anchor.

    Returns:
        A float32 array of shape (ratios, 4).
    """
    heights = np.sqrt(np.asarray(aspect_ratios, "float32"))
    widths = 1 / heights
    width, height = widths * np.float32(size), heights * np.float32(size)
    anchors = np.stack([-width, -height, width, height], axis=1) / 2
    return np.round(anchors).astype("float32")


def grid_anchors(
    grids: Sequence[tuple[Any, Any]],
    image_size: tuple[Any, Any],
    sizes: Sequence[float],
    aspect_ratios: Sequence[float],
) -> list:
    """Returns the anchors of each level.

    The anchors of a cell are centered on its top left corner. The stride of a level
    is the whole number of pixels per cell, 53 for a grid of 3 cells and an image
    of 160 pixels.

    Args:
        grids: Height and width of each level's features: integers, or scalar
            tensors.
        image_size: Height and width of the padded images.
        sizes: Size in pixels of each level's anchors; see `cell_anchors`.
        aspect_ratios: Height over width of each cell's anchors.

    Returns:
        One float32 tensor of shape (height * width * ratios, 4) for each level, in
        the order of rows, columns and ratios.
    """
    anchors = []
    for grid, size in zip(grids, sizes, strict=True):
        y, x = (
            ops.cast(ops.arange(cells) * (length // cells), "float32")
            for cells, length in zip(grid, image_size)
        )
        y, x = ops.meshgrid(y, x, indexing="ij")
        shifts = ops.stack([x, y, x, y], axis=-1)[:, :, None]
        cell = ops.convert_to_tensor(cell_anchors(size, aspect_ratios))
        anchors.append(ops.reshape(shifts + cell, (-1, 4)))
    return anchors
