"""Non-maximum suppression: from scored boxes to proposals and detections."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_resadapt.boxes.assignment import take
from keras_resadapt.boxes.coding import clip, decode, is_at_least
from keras_resadapt.boxes.settings import (
    ANCHOR_WEIGHTS,
    LEAST_DETECTION,
    LEAST_PROPOSAL,
)


def suppress(boxes: Any, scores: Any, count: int, threshold: float) -> tuple:
    """Runs NMS for each group of boxes, and returns the best of all groups.

    A box is dropped if its IoU with a better box of its group is above the threshold.

    Args:
        boxes: Boxes of shape (batch, n, groups, 4).
        scores: Scores of shape (batch, n, groups); boxes of negative scores are
            left out.
        count: Number of boxes to return per image.
        threshold: IoU in [0, 1].

    Returns:
        Boxes (batch, count, 4), scores and groups (batch, count), in descending
        order of scores, with zeros at the end; and their true number, (batch,).
    """
    import tensorflow as tf

    boxes, scores, groups, number = tf.image.combined_non_max_suppression(
        boxes,
        scores,
        max_output_size_per_class=count,
        max_total_size=count,
        iou_threshold=threshold,
        score_threshold=-0.5,
        clip_boxes=False,
    )
    return boxes, scores, tf.cast(groups, tf.int32), number


def select_proposals(
    objectness: Sequence,
    deltas: Sequence,
    anchors: Sequence,
    sizes: Any,
    num_candidates: int,
    num_proposals: int,
    threshold: float,
) -> tuple[Any, Any, Any]:
    """Returns the proposals of a region proposal network.

    Of each level, the anchors of the highest scores are moved by their deltas,
    clipped to the image and dropped if they are smaller than 0.001 pixels. NMS
    runs within each level.

    Args:
        objectness: Logits of each level, of shape (batch, anchors).
        deltas: Deltas of each level, of shape (batch, anchors, 4).
        anchors: Anchors of each level, of shape (anchors, 4).
        sizes: Height and width of each image, of shape (batch, 2).
        num_candidates: Number of anchors that each level proposes.
        num_proposals: Number of proposals per image.
        threshold: IoU above which NMS drops a box.

    Returns:
        Boxes of shape (batch, num_proposals, 4) in descending order of scores, their
        scores in [0, 1] of shape (batch, num_proposals), and their true number, of
        shape (batch,).
    """
    counts = [logits.shape[1] for logits in objectness]
    if None not in counts:
        num_candidates = min(num_candidates, max(counts))
    boxes, scores = [], []
    for logits, moves, starts in zip(objectness, deltas, anchors, strict=True):
        # So that there are at least `num_candidates` entries
        unused = ops.full((ops.shape(logits)[0], num_candidates), -float("inf"))
        values, indices = ops.top_k(
            ops.concatenate([logits, unused], axis=1), num_candidates
        )
        indices = ops.minimum(indices, ops.shape(logits)[1] - 1)
        box = decode(
            take(moves, indices), ops.take(starts, indices, axis=0), ANCHOR_WEIGHTS
        )
        box = clip(box, sizes)
        valid = (values > -float("inf")) & is_at_least(box, LEAST_PROPOSAL)
        boxes.append(box)
        scores.append(ops.where(valid, ops.sigmoid(values), -1.0))
    boxes, scores = ops.stack(boxes, axis=2), ops.stack(scores, axis=2)
    boxes, scores, _, number = suppress(boxes, scores, num_proposals, threshold)
    return boxes, scores, number


def select_detections(
    boxes: Any,
    scores: Any,
    sizes: Any,
    score_threshold: float,
    threshold: float,
    max_detections: int,
) -> dict[str, Any]:
    """Returns the detections among the boxes of all classes.

    Boxes are clipped to the image, and dropped if they are smaller than 0.01 pixels
    or have no score above the threshold. NMS runs within each class.

    Args:
        boxes: Boxes of shape (batch, boxes, classes, 4), without the background.
        scores: Probabilities of shape (batch, boxes, classes).
        sizes: Height and width of each image, of shape (batch, 2).
        score_threshold: Probability above which a box is a detection.
        threshold: IoU above which NMS drops a box.
        max_detections: Number of detections per image.

    Returns:
        `boxes` of shape (batch, max_detections, 4) in descending order of scores,
        `scores` and `classes` of shape (batch, max_detections), and `count`, of
        shape (batch,). Unused entries have a class of -1 and zeros.
    """
    boxes = clip(boxes, sizes)
    valid = (scores > score_threshold) & is_at_least(boxes, LEAST_DETECTION)
    scores = ops.where(valid, scores, -1.0)
    boxes, scores, classes, count = suppress(boxes, scores, max_detections, threshold)
    used = ops.arange(max_detections)[None] < count[:, None]
    classes = ops.where(used, classes, -1)
    return {"boxes": boxes, "scores": scores, "classes": classes, "count": count}
