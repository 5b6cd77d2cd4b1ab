"""Training targets of sampled anchors and proposals."""

from collections.abc import Mapping
from typing import Any

from keras import ops

from keras_resadapt.boxes.coding import clip, encode
from keras_resadapt.boxes.matching import iou, match
from keras_resadapt.boxes.sampling import Priorities, sample
from keras_resadapt.boxes.settings import (
    ANCHOR_WEIGHTS,
    BOX_WEIGHTS,
    DetectionSettings,
)

# Farthest coordinate of an object in pixels; the squares of others can be infinite.
_FARTHEST = 1e6


def take(values: Any, indices: Any) -> Any:
    """Returns the entries of each image at its indices.

    Args:
        values: Tensor of shape (batch, n, ...).
        indices: Integers of shape (batch, m).

    Returns:
        A tensor of shape (batch, m, ...).
    """
    shape = ops.shape(values)
    rows = ops.arange(shape[0])[:, None] * shape[1] + ops.cast(indices, "int32")
    flat = ops.reshape(values, (-1, *shape[2:]))
    return ops.take(flat, rows, axis=0)


def valid_targets(
    targets: Mapping[str, Any], sizes: Any, num_classes: int
) -> dict[str, Any]:
    """Returns the boxes and classes of objects, and which of them can be used.

    Left out are the unused entries, objects of classes out of range, and boxes
    without an area inside their image or with coordinates that are not finite or
    beyond a million pixels.

    Args:
        targets: `boxes` of shape (batch, objects, 4), `classes` of shape (batch,
            objects), and `count` of shape (batch,), the number of objects of each
            image, which come first.
        sizes: Height and width of each image, of shape (batch, 2).
        num_classes: Number of classes.

    Returns:
        `boxes` (float32), `classes` (int32) and `valid` (booleans). Boxes that are
        left out are 0.
    """
    boxes = ops.cast(targets["boxes"], "float32")
    classes = ops.cast(targets["classes"], "int32")
    count = ops.cast(targets["count"], "int32")
    valid = ops.arange(ops.shape(boxes)[1])[None] < ops.reshape(count, (-1, 1))
    # Comparisons with NaN are false.
    valid &= ops.all(ops.abs(boxes) < _FARTHEST, axis=-1)
    visible = clip(boxes, sizes)
    valid &= ops.all(visible[..., 2:] > visible[..., :2], axis=-1)
    valid &= (classes >= 0) & (classes < num_classes)
    boxes = ops.where(valid[..., None], boxes, 0.0)
    return {"boxes": boxes, "classes": classes, "valid": valid}


def assign_anchors(
    anchors: Any,
    sizes: Any,
    objects: Mapping[str, Any],
    settings: DetectionSettings,
    priorities: Priorities,
) -> dict[str, Any]:
    """Samples anchors, and returns their training targets.

    Args:
        anchors: Boxes of shape (anchors, 4).
        sizes: Height and width of each image, of shape (batch, 2).
        objects: What `valid_targets` returns.
        settings: The constants.
        priorities: Which anchors are sampled first.

    Returns:
        `indices`, `labels` (1 for an object), `weights` (1 for a sampled anchor, 0
        for an unused entry), each of shape (batch, samples), and the deltas
        `targets` of shape (batch, samples, 4).
    """
    overlaps = iou(anchors[None], objects["boxes"])
    labels, matched = match(
        overlaps, objects["valid"], *settings.rpn_iou, settings.rpn_least_iou
    )
    if settings.inside_anchors_only:
        limits = ops.cast(sizes, "float32")[:, None, ::-1]
        inside = ops.all(anchors[None, :, :2] >= 0, axis=-1)
        inside &= ops.all(anchors[None, :, 2:] < limits, axis=-1)
        labels = ops.where(inside, labels, -1)
    indices, labels, valid = sample(
        labels, settings.rpn_samples, settings.rpn_positives, priorities
    )
    boxes = take(objects["boxes"], take(matched, indices))
    sampled = ops.take(anchors, indices, axis=0)
    return {
        "indices": indices,
        "labels": labels,
        "weights": ops.cast(valid, "float32"),
        "targets": encode(boxes, sampled, ANCHOR_WEIGHTS),
    }


def assign_boxes(
    proposals: Any,
    valid: Any,
    objects: Mapping[str, Any],
    settings: DetectionSettings,
    priorities: Priorities,
) -> dict[str, Any]:
    """Samples proposals and the objects' own boxes, and returns their targets.

    Args:
        proposals: Boxes of shape (batch, proposals, 4).
        valid: Which of them exist, booleans of shape (batch, proposals).
        objects: What `valid_targets` returns.
        settings: The constants.
        priorities: Which boxes are sampled first. The objects come last.

    Returns:
        For every sample: `boxes` of shape (batch, samples, 4), `classes` (0 for the
        background, class + 1 for an object), `matched` (the index of the object) and
        `weights` (0 for an unused entry) of shape (batch, samples), and the deltas
        `targets` of shape (batch, samples, 4). Positive samples come first, at most
        `num_positives` of an image.
    """
    boxes = ops.concatenate([proposals, objects["boxes"]], axis=1)
    valid = ops.concatenate([valid, objects["valid"]], axis=1)
    threshold = settings.box_iou
    overlaps = iou(boxes, objects["boxes"])
    labels, matched = match(overlaps, objects["valid"], threshold, threshold)
    labels = ops.where(valid, labels, -1)
    indices, labels, valid = sample(
        labels, settings.box_samples, settings.box_positives, priorities
    )
    boxes = ops.where(valid[..., None], take(boxes, indices), 0.0)
    matched = take(matched, indices)
    classes = take(objects["classes"], matched) + 1
    return {
        "boxes": boxes,
        "classes": ops.where(labels == 1, classes, 0),
        "matched": matched,
        "weights": ops.cast(valid, "float32"),
        "targets": encode(take(objects["boxes"], matched), boxes, BOX_WEIGHTS),
    }
