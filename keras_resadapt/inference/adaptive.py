"""Adaptive inference as one TensorFlow graph."""

import tensorflow as tf

from keras_resadapt.models.cascade import Cascade
from keras_resadapt.models.cascade import CascadeState


def adaptive_logits(
    model: Cascade, images: tf.Tensor, thresholds, temperatures
) -> tuple[tf.Tensor, tf.Tensor]:
    """Runs each image to the first exit that is sure of it (RANet, equation 2).

    The images that are sure leave the batch; the rest goes on, inside a
    `tf.cond`, so that nothing is computed where no image is left. A confidence
    that is not a number is not sure.

    Args:
        model: The cascade, built.
        images: float32 tensor of shape (batch, height, width, 3), of at least
            one image.
        thresholds: float32 tensor of shape (exits - 1,).
        temperatures: A number an exit, which divides its logits.

    Returns:
        The logits divided by the temperature, of shape (batch, classes), and
        the exits, int32 of shape (batch,).
    """

    def run(state: CascadeState):
        exit = state.exit
        logits, state = model.advance(state)
        logits = logits / temperatures[exit]
        exits = tf.fill(tf.shape(logits)[:1], exit)
        if state.exit == model.num_exits:
            return logits, exits
        confidence = tf.reduce_max(tf.nn.softmax(logits), axis=-1)
        # Not `confidence < threshold`, which is false for NaN as well.
        sure = confidence >= thresholds[exit]
        unsure = tf.where(tf.logical_not(sure))

        def go_on():
            rest = run(state.take(unsure[:, 0]))
            return tuple(
                tf.tensor_scatter_nd_update(mine, unsure, later)
                for mine, later in zip((logits, exits), rest)
            )

        return tf.cond(
            tf.size(unsure) > 0, go_on, lambda: (logits, exits)
        )

    return run(model.start(images))
