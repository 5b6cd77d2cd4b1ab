"""Adaptive inference as one TensorFlow graph."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from keras_resadapt.inference.storing.confidence import MAX_CONFIDENCE

if TYPE_CHECKING:
    import tensorflow as tf


def adaptive_logits(
    stages: Sequence[Callable], images: "tf.Tensor", thresholds
) -> "tuple[tf.Tensor, tf.Tensor]":
    """Runs each image up to the first exit that is confident.

    RANet, equation 2. Confident images leave the batch. The other images
    continue inside a `tf.cond`, so that a stage without images costs nothing.
    An image whose confidence is NaN continues.

    Args:
        stages: The functions of `cascade_stages` or `freeze_stages`.
        images: float32 tensor of shape (batch, height, width, 3) with at
            least one image.
        thresholds: float32 tensor of shape (exits - 1,).

    Returns:
        The logits of shape (batch, classes), and the exit of each image,
        int32 of shape (batch,).
    """
    import tensorflow as tf

    def run(exit, tensors):
        logits, *features = stages[exit](*tensors)
        exits = tf.fill(tf.shape(logits)[:1], exit)
        if exit == len(stages) - 1:
            return logits, exits
        confidence = _confidence(logits)
        # TensorFlow rewrites `not (a >= b)` to `a < b`, which is false for NaN.
        remaining = tf.where(
            tf.math.is_nan(confidence) | (confidence < thresholds[exit])
        )

        def proceed():
            rows = remaining[:, 0]
            later = run(exit + 1, [tf.gather(x, rows) for x in features])
            return tuple(
                tf.tensor_scatter_nd_update(of_exit, remaining, of_later)
                for of_exit, of_later in zip((logits, exits), later)
            )

        return tf.cond(tf.size(remaining) > 0, proceed, lambda: (logits, exits))

    return run(0, [images])


def _confidence(logits):
    """Returns `storing.confidence.confidence` of the probabilities, in a graph."""
    import tensorflow as tf

    return tf.minimum(tf.reduce_max(tf.nn.softmax(logits), axis=-1), MAX_CONFIDENCE)
