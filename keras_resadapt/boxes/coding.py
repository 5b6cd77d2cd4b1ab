"""Boxes as deltas from other boxes, and the limits of boxes."""

import math
from collections.abc import Sequence
from typing import Any

from keras import ops

# Upper limit of the logarithm of a scale
_MOST_LOG_SCALE = math.log(1000 / 16)


def _center_and_size(boxes):
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * size, size


def encode(boxes: Any, anchors: Any, weights: Sequence[float]) -> Any:
    """Returns the deltas that move anchors to boxes.

    Args:
        boxes: Boxes of shape (..., 4).
        anchors: The boxes to start from, of the same shape.
        weights: Factors of the four deltas.

    Returns:
        Deltas of shape (..., 4): the shift of the center, as a share of the anchor's
        width and height, and the logarithm of the scale of width and height. They
        are 0 where a box or an anchor has no area.
    """
    center, size = _center_and_size(boxes)
    start, unit = _center_and_size(anchors)
    valid = ops.all((size > 0) & (unit > 0), axis=-1, keepdims=True)
    size, unit = ops.where(valid, size, 1.0), ops.where(valid, unit, 1.0)
    deltas = [(center - start) / unit, ops.log(size / unit)]
    deltas = ops.concatenate(deltas, axis=-1)
    return ops.where(valid, deltas, 0.0) * ops.convert_to_tensor(weights, deltas.dtype)


def decode(deltas: Any, anchors: Any, weights: Sequence[float]) -> Any:
    """Returns the boxes to which deltas move anchors, the inverse of `encode`.

    Args:
        deltas: Deltas of shape (..., 4). The logarithm of a scale has an upper limit
            of log(1000 / 16) and no lower one.
        anchors: Boxes of a shape that broadcasts with `deltas`.
        weights: Factors of the four deltas.
    """
    start, unit = _center_and_size(anchors)
    deltas = deltas / ops.convert_to_tensor(weights, deltas.dtype)
    center = deltas[..., :2] * unit + start
    size = ops.exp(ops.minimum(deltas[..., 2:], _MOST_LOG_SCALE)) * unit
    return ops.concatenate([center - 0.5 * size, center + 0.5 * size], axis=-1)


def clip(boxes: Any, sizes: Any) -> Any:
    """Returns the parts of boxes that are inside their images.

    Args:
        boxes: Boxes of shape (batch, ..., 4).
        sizes: Height and width of each image, of shape (batch, 2).
    """
    sizes = ops.cast(sizes, boxes.dtype)
    limits = ops.stack([sizes[:, 1], sizes[:, 0]] * 2, axis=-1)
    middle = (1,) * (len(boxes.shape) - 2)
    limits = ops.reshape(limits, (-1, *middle, 4))
    return ops.minimum(ops.maximum(boxes, 0.0), limits)


def is_at_least(boxes: Any, size: float) -> Any:
    """Returns whether boxes have at least this height and width in pixels.

    Args:
        boxes: Boxes of shape (..., 4).
        size: Number of pixels.

    Returns:
        Booleans of shape (...); false for a box with NaN.
    """
    return ops.all(boxes[..., 2:] - boxes[..., :2] >= size, axis=-1)
