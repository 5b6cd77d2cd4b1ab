"""The signatures of a SavedModel that take pixels."""

from collections.abc import Callable

import tensorflow as tf

from keras_resadapt.export.signature import Signature, images_spec, signature_of
from keras_resadapt.inference.running.adaptive import adaptive_logits
from keras_resadapt.inference.running.frozen import freeze as freeze_function
from keras_resadapt.inference.running.stages import cascade_stages, freeze_stages
from keras_resadapt.inference.storing.thresholds import Thresholds
from keras_resadapt.models.cascade import Cascade
from keras_resadapt.models.network import Network
from keras_resadapt.points.operating_point import OperatingPoint

# From the outputs of a network to those of a signature; see `tasks.Task.response`
Respond = Callable[[tf.Tensor], dict[str, tf.Tensor]]


def point_signature(
    model: Network, point: OperatingPoint, respond: Respond, freeze: bool
) -> Signature:
    """Returns the signature of one operating point.

    Args:
        model: A network of this package.
        point: The operating point.
        respond: A function from logits to the outputs.
        freeze: Whether to store the weights as constants.
    """
    size = model.resolution_of(point)

    def logits_of(images):
        return model.logits(images, point)

    if freeze:
        frozen = freeze_function(logits_of, [images_spec(size)])
        logits_of = lambda images: frozen(images)[0]

    def run(images):
        rows = tf.shape(images)[0]
        logits = _check_logits(logits_of(_check_images(images, size)))[:rows]
        # Aligned last, because logits per pixel are larger at the size of the images
        return respond(model.task.align(logits, (size, size)))

    return signature_of(run, [images_spec(size)])


def adaptive_signatures(
    model: Cascade, thresholds: Thresholds | None, respond: Respond, freeze: bool
) -> dict[str, Signature]:
    """Returns the signatures that stop at the first confident exit.

    Args:
        model: A cascade.
        thresholds: The thresholds of `"adaptive_default"`; None for no such
            signature.
        respond, freeze: As for `point_signature`.
    """
    size, num_thresholds = model.resolution, model.num_exits - 1
    if thresholds is None:
        temperatures = (1.0,) * model.num_exits
    else:
        temperatures = thresholds.temperatures
    if freeze:
        stages = freeze_stages(model, temperatures, size)
    else:
        stages = cascade_stages(model, temperatures)
    madds = tf.constant([row.madds for row in model.profile()], tf.int64)

    def run(images, values):
        rows = tf.shape(images)[0]
        logits, exits = adaptive_logits(stages, _check_images(images, size), values)
        exits = exits[:rows]
        return {
            **respond(_check_logits(logits)[:rows]),
            "exits": exits,
            "madds": tf.gather(madds, exits),
        }

    def adaptive(images, thresholds):
        values = tf.ensure_shape(thresholds, (num_thresholds,))
        message = "`thresholds` must be in [0, 1]"
        tf.debugging.assert_greater_equal(values, 0.0, message)
        tf.debugging.assert_less_equal(values, 1.0, message)
        return run(images, values)

    spec = tf.TensorSpec((num_thresholds,), tf.float32, name="thresholds")
    signatures = {"adaptive": signature_of(adaptive, [images_spec(size), spec])}
    if thresholds is not None:
        values = tf.constant(thresholds.values, tf.float32)
        signatures["adaptive_default"] = signature_of(
            lambda images: run(images, values), [images_spec(size)]
        )
    return signatures


def _check_images(images: tf.Tensor, size: int) -> tf.Tensor:
    """Validates the images of a request when the graph runs.

    Servers and loaded signatures do not compare shapes with the signature, so
    that the graph does it.

    Returns:
        The images, or one black image if there are none, because oneDNN's
        convolutions fail with an empty batch.
    """
    images = tf.ensure_shape(images, (None, size, size, 3))
    images = tf.debugging.assert_all_finite(
        images, "`images` must hold finite pixel values"
    )
    missing = tf.maximum(1 - tf.shape(images)[0], 0)
    return tf.concat([images, tf.zeros((missing, size, size, 3))], axis=0)


def _check_logits(logits: tf.Tensor) -> tf.Tensor:
    """Validates the logits of a request when the graph runs."""
    return tf.debugging.assert_all_finite(
        logits,
        "`images` must be in the value range of the model's preprocessing, such "
        "as [0, 255]: the logits are not finite",
    )
