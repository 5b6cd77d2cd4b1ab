"""Intersection over union, and the matching of boxes with objects."""

from typing import Any

from keras import ops


def iou(boxes: Any, objects: Any) -> Any:
    """Returns the intersection over union of all pairs.

    Args:
        boxes: Boxes of shape (..., boxes, 4).
        objects: Boxes of shape (..., objects, 4), with dimensions before that
            broadcast.

    Returns:
        A tensor of shape (..., boxes, objects), 0 for two boxes without area.
    """
    first, second = boxes[..., :, None, :], objects[..., None, :, :]
    # Of all pairs, each axis alone: the tensors are large.
    width, height = (
        ops.maximum(
            ops.minimum(first[..., axis + 2], second[..., axis + 2])
            - ops.maximum(first[..., axis], second[..., axis]),
            0.0,
        )
        for axis in (0, 1)
    )
    intersection = width * height
    union = _area(first) + _area(second) - intersection
    return ops.where(union > 0, intersection / ops.where(union > 0, union, 1.0), 0.0)


def _area(boxes):
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def match(
    overlaps: Any,
    valid: Any,
    positive: float,
    negative: float,
    least: float | None = None,
) -> tuple[Any, Any]:
    """Matches each box with the object that it overlaps most.

    Args:
        overlaps: IoU of shape (batch, boxes, objects), with at least one object.
        valid: Which objects exist, booleans of shape (batch, objects).
        positive: IoU from which a box is positive.
        negative: IoU below which a box is negative; boxes between both are ignored.
        least: If given, every box with the largest IoU of an object is positive,
            too, if this IoU is at least `least` and not 0. Its object remains the one
            that it overlaps most itself.

    Returns:
        Labels of shape (batch, boxes), 1 for positive, 0 for negative and -1 for
        ignored boxes; and the index of the object of each box. All boxes of an image
        without objects are negative.
    """
    overlaps = ops.where(valid[:, None, :], overlaps, -1.0)
    best = ops.max(overlaps, axis=2)
    labels = ops.where(best >= positive, 1, ops.where(best < negative, 0, -1))
    if least is not None:
        best_of_object = ops.max(overlaps, axis=1, keepdims=True)
        restored = (overlaps == best_of_object) & (best_of_object > 0)
        restored = restored & (best_of_object >= least)
        labels = ops.where(ops.any(restored, axis=2), 1, labels)
    return labels, ops.argmax(overlaps, axis=2)
