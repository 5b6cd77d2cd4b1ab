"""Adaptive inference as one TensorFlow graph."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from keras_resadapt.inference.storing.thresholds import MOST_SURE


def adaptive_logits(
    stages: Sequence[Callable], images: tf.Tensor, thresholds
) -> tuple[tf.Tensor, tf.Tensor]:
    """Runs each image to the first exit that is sure of it (RANet, equation 2).

    The images that are sure leave the batch; the rest goes on, inside a
    `tf.cond`, so that nothing is computed where no image is left. A confidence
    that is not a number is not sure.

    Args:
        stages: What `cascade_stages` or `freeze_stages` returns.
        images: float32 tensor of shape (batch, height, width, 3), of at least
            one image.
        thresholds: float32 tensor of shape (exits - 1,).

    Returns:
        The logits, of shape (batch, classes), and the exits, int32 of shape
        (batch,).
    """

    def run(exit, tensors):
        logits, *features = stages[exit](*tensors)
        exits = tf.fill(tf.shape(logits)[:1], exit)
        if exit == len(stages) - 1:
            return logits, exits
        confidence = tf.minimum(
            tf.reduce_max(tf.nn.softmax(logits), axis=-1), MOST_SURE
        )
        # TensorFlow optimizes `not (a >= b)` to `a < b`, false for NaN.
        unsure = tf.where(tf.math.is_nan(confidence) | (confidence < thresholds[exit]))

        def go_on():
            rows = unsure[:, 0]
            rest = run(exit + 1, [tf.gather(x, rows) for x in features])
            return tuple(
                tf.tensor_scatter_nd_update(mine, unsure, later)
                for mine, later in zip((logits, exits), rest)
            )

        return tf.cond(tf.size(unsure) > 0, go_on, lambda: (logits, exits))

    return run(0, [images])
