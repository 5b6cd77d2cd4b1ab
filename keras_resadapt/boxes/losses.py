"""The losses of a Faster or Mask R-CNN."""

from collections.abc import Mapping
from typing import Any

from keras import ops


def detection_losses(
    outputs: Mapping[str, Any],
    rpn_beta: float = 1 / 9,
    box_beta: float = 1 / 9,
    sample_weight: Any = None,
    counts: Any = None,
) -> dict[str, Any]:
    """Returns the losses of a batch, which are finite without any objects.

    Args:
        outputs: What `heads.MaskRCNN` returns for targets.
        rpn_beta, box_beta: Absolute error below which the smooth L1 loss is
            quadratic.
        sample_weight: A factor for each image, of shape (batch,), or None.
        counts: The numbers by which sums are divided; by default `count_samples` of
            the batch. With its mean over replicas, the mean of their losses is the
            loss of the global batch.

    Returns:
        Scalars by name: `objectness` and `rpn_box` of the sampled anchors, `class`
        and `box` of the sampled boxes, and `mask` of the positive ones, if there are
        masks. The box losses are sums over positive samples, divided by the number
        of all samples.
    """

    def mean(values, weights, count):
        """Sums values, and divides them by the number of counted samples."""
        if sample_weight is not None:
            weights = weights * ops.cast(sample_weight, "float32")[:, None]
        # Not a product alone: an unused entry can be infinite.
        values = ops.where(weights > 0, values, 0.0)
        return ops.sum(values * weights) / count

    anchors = outputs["anchor_weights"]
    labels = ops.cast(outputs["anchor_labels"], "float32")
    boxes = outputs["box_weights"]
    classes = outputs["box_classes"]
    positives = boxes * ops.cast(classes > 0, "float32")
    counts = count_samples(outputs) if counts is None else counts
    # Without any samples, the sums are 0.
    anchor_count, box_count, mask_count = ops.unstack(
        ops.where(counts > 0, counts, 1.0)
    )
    losses = {
        "objectness": mean(
            _binary_crossentropy(labels, outputs["objectness"]), anchors, anchor_count
        ),
        "rpn_box": mean(
            _smooth_l1(outputs["anchor_targets"], outputs["anchor_deltas"], rpn_beta),
            anchors * labels,
            anchor_count,
        ),
        "class": mean(
            -_take_class(ops.log_softmax(outputs["class_logits"]), classes),
            boxes,
            box_count,
        ),
        "box": mean(
            _smooth_l1(outputs["box_targets"], outputs["box_deltas"], box_beta),
            positives,
            box_count,
        ),
    }
    if "mask_logits" in outputs:
        pixels = _binary_crossentropy(outputs["mask_targets"], outputs["mask_logits"])
        weights = outputs["mask_weights"]
        losses["mask"] = mean(ops.mean(pixels, axis=(2, 3)), weights, mask_count)
    return losses


def count_samples(outputs: Mapping[str, Any]) -> Any:
    """Returns the numbers of sampled anchors, sampled boxes and positive boxes.

    Args:
        outputs: What `heads.MaskRCNN` returns for targets.

    Returns:
        A float32 vector of length 3. Without masks, its last entry is 0.
    """
    names = ("anchor_weights", "box_weights", "mask_weights")
    return ops.stack([ops.sum(outputs.get(name, 0.0)) for name in names])


def _binary_crossentropy(targets, logits):
    return (
        ops.maximum(logits, 0.0)
        - logits * targets
        + ops.log1p(ops.exp(-ops.abs(logits)))
    )


def _smooth_l1(targets, values, beta):
    """Returns the sum over the four coordinates."""
    error = ops.abs(values - targets)
    quadratic = 0.5 * ops.square(error) / beta
    return ops.sum(ops.where(error < beta, quadratic, error - 0.5 * beta), axis=-1)


def _take_class(values, classes):
    one_hot = ops.one_hot(classes, values.shape[-1], dtype=values.dtype)
    return ops.sum(values * one_hot, axis=-1)
