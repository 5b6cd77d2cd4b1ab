"""Masks of boxes as masks of whole images."""

from typing import Any

from keras import ops


def paste_masks(masks: Any, boxes: Any, image_size: tuple[Any, Any]) -> Any:
    """Returns the masks of boxes at the size of the image, 0 outside the boxes.

    Masks are interpolated bilinearly, with a border of zeros.

    Args:
        masks: Probabilities of shape (..., size, size).
        boxes: Boxes of shape (..., 4), in pixels of the image.
        image_size: Height and width of the image.

    Returns:
        Probabilities of shape (..., height, width). The image has the object where
        they are at least 0.5.
    """
    size = masks.shape[-1]
    border = [(0, 0)] * (len(masks.shape) - 2) + [(1, 1)] * 2
    masks = ops.pad(ops.cast(masks, "float32"), border)
    boxes = ops.cast(boxes, "float32")
    center = (boxes[..., 2:] + boxes[..., :2]) * 0.5
    half = (boxes[..., 2:] - boxes[..., :2]) * 0.5 * ((size + 2) / size)
    # Whole pixels, rounded towards zero
    start = ops.trunc(center - half)
    length = ops.maximum(ops.trunc(center + half) - start + 1.0, 1.0)
    rows, columns = (
        _interpolation(start[..., axis], length[..., axis], size + 2, pixels)
        for axis, pixels in ((1, image_size[0]), (0, image_size[1]))
    )
    columns = ops.swapaxes(columns, -1, -2)
    return ops.matmul(rows, ops.matmul(masks, columns))


def _interpolation(start, length, size, pixels):
    """Returns the weights of a mask's pixels, of shape (..., pixels, size)."""
    place = ops.cast(ops.arange(pixels), "float32") - start[..., None]
    inside = (place >= 0) & (place < length[..., None])
    points = (place + 0.5) * (size / length[..., None]) - 0.5
    points = ops.clip(points, 0, size - 1)
    distance = ops.abs(points[..., None] - ops.arange(size, dtype="float32"))
    weights = ops.maximum(1.0 - distance, 0.0)
    return ops.where(inside[..., None], weights, 0.0)
