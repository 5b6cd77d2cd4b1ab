"""Masks of semantic segmentation: a class for each pixel, and void pixels."""

from typing import Any

from keras import ops

from keras_resadapt.layers.replicas import num_replicas, sum_over_replicas


def is_one_hot(masks, num_classes: int) -> bool:
    """Whether masks have shape (batch, height, width, classes)."""
    return len(masks.shape) == 4 and masks.shape[-1] == num_classes


def labels_of(masks, num_classes: int) -> Any:
    """Returns class indices, int32 of shape (batch, height, width).

    Args:
        masks: Class indices of shape (batch, height, width) or
            (batch, height, width, 1), or one-hot of shape
            (batch, height, width, classes).
        num_classes: Number of classes.
    """
    if is_one_hot(masks, num_classes):
        return ops.argmax(masks, axis=-1)
    masks = ops.cast(masks, "int32")
    return ops.squeeze(masks, axis=-1) if len(masks.shape) == 4 else masks


def is_labelled(masks, num_classes: int, ignore_class: int | None) -> Any:
    """Returns which pixels are not void, a boolean (batch, height, width).

    In a one-hot mask, a pixel of zeros is void, and a pixel of `ignore_class` if
    that is one of the classes.
    """
    labels = labels_of(masks, num_classes)
    if ignore_class is None:
        labelled = ops.ones_like(labels, dtype="bool")
    else:
        labelled = ops.not_equal(labels, ignore_class)
    if is_one_hot(masks, num_classes):
        labelled = ops.logical_and(labelled, ops.any(masks, axis=-1))
    return labelled


def weights_of(
    masks, num_classes: int, ignore_class: int | None, sample_weight=None
) -> Any:
    """Returns the weight of each pixel, 0 for void pixels.

    Args:
        masks, num_classes, ignore_class: As for `is_labelled`.
        sample_weight: Optional weights of shape (batch,), (batch, height, width) or
            (batch, height, width, 1).

    Returns:
        float32 tensor of shape (batch, height, width).

    Raises:
        ValueError: `sample_weight` has another shape.
    """
    weights = ops.cast(is_labelled(masks, num_classes, ignore_class), "float32")
    if sample_weight is None:
        return weights
    sample_weight = ops.cast(sample_weight, "float32")
    shape = tuple(sample_weight.shape)
    if len(shape) == 1 or len(shape) == 2 and shape[1] == 1:
        return weights * ops.reshape(sample_weight, (-1, 1, 1))
    if len(shape) == 4 and shape[-1] == 1:
        sample_weight = ops.squeeze(sample_weight, axis=-1)
    expected = tuple(masks.shape[1:3])
    size = tuple(sample_weight.shape[1:])
    if len(size) != 2 or None not in (*size, *expected) and size != expected:
        raise ValueError(
            "`sample_weight` must have shape (batch,) for a weight per image, or that "
            "of the masks, (batch, height, width), for a weight per pixel. Received: "
            f"shape {shape} for masks of {expected[0]} x {expected[1]} pixels"
        )
    return weights * sample_weight


def per_labelled_pixel(weights, labelled) -> Any:
    """Returns weights whose mean over all pixels is a mean over labelled pixels.

    Under `tf.distribute`, the pixels of all replicas are counted.

    Args:
        weights: Weights of shape (batch, height, width), 0 for void pixels.
        labelled: Which pixels are not void.
    """
    labelled = ops.cast(labelled, "float32")
    counts = ops.stack([ops.sum(labelled), ops.sum(ops.ones_like(labelled))])
    if num_replicas() > 1:
        counts = sum_over_replicas(counts)
    return weights * (counts[1] / ops.maximum(counts[0], 1.0))
