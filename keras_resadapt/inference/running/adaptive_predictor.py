"""Adaptive prediction: each image runs only as far as it needs."""

import dataclasses
from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_resadapt.backend import require_tensorflow
from keras_resadapt.batches import check_finite
from keras_resadapt.checks import check_cascade
from keras_resadapt.inference.running.adaptive import adaptive_logits
from keras_resadapt.inference.running.stages import check_resolution, freeze_stages
from keras_resadapt.inference.storing.thresholds import Thresholds
from keras_resadapt.models.cascade import Cascade
from keras_resadapt.number_checks import check_integer


@dataclasses.dataclass(frozen=True)
class AdaptivePrediction:
    """The predictions of a cascade for some images, in order.

    Attributes:
        probabilities: float32 of shape (images, classes).
        classes: The most probable class, int64 of shape (images,).
        exits: The exit of each image, from 0, int32 of shape (images,).
        madds: The multiply-adds of each image, int64 of shape (images,).
    """

    probabilities: np.ndarray
    classes: np.ndarray
    exits: np.ndarray
    madds: np.ndarray


class AdaptivePredictor:
    """A cascade that stops computing for each image at the first confident exit.

    Needs the TensorFlow backend. The weights are copied into a graph of
    constants when the predictor is created, which makes it fast. Create a new
    predictor after further training.

    Args:
        model: A `Cascade`.
        thresholds: `Thresholds`, for example from `calibrate`, or a sequence
            with a number in [0, 1] for each exit but the last.
        batch_size: The number of images that run together. Larger inputs are
            split.
        resolution: Height and width of the images in pixels, by default the
            model's own.

    Raises:
        RuntimeError: On any backend other than TensorFlow.
        TypeError: If the model is not a cascade.
        ValueError: If the number of thresholds is wrong, a threshold is
            outside [0, 1], or the thresholds were calibrated for another
            model.

    Example:

    >>> predictor = AdaptivePredictor(model, [0.9, 0.8])
    >>> prediction = predictor.predict(images)
    >>> prediction.classes, prediction.exits
    """

    def __init__(
        self,
        model: Cascade,
        thresholds: Thresholds | Sequence[float],
        batch_size: int = 128,
        resolution: int | None = None,
    ):
        require_tensorflow("AdaptivePredictor")
        check_cascade(model)
        self.batch_size = check_integer(batch_size, "batch_size")
        self.thresholds = Thresholds.of(thresholds)
        self.thresholds.check(model)
        self.model = model
        self.resolution = check_resolution(model, resolution)
        self._madds = np.array(
            [row.madds for row in model.profile(resolution=self.resolution)]
        )
        self._run = self._compile()

    def _compile(self) -> Callable:
        """Returns one graph from images to probabilities and exits."""
        import tensorflow as tf

        size = self.resolution
        stages = freeze_stages(self.model, self.thresholds.temperatures, size)
        thresholds = tf.constant(self.thresholds.values, tf.float32)

        def run(images):
            logits, exits = adaptive_logits(stages, images, thresholds)
            return tf.nn.softmax(logits), exits

        spec = tf.TensorSpec((None, size, size, 3), tf.float32)
        compiled = tf.function(run, input_signature=[spec], autograph=False)
        return compiled.get_concrete_function()

    def predict(self, images) -> AdaptivePrediction:
        """Returns the predictions for any number of images, including none.

        Args:
            images: Array of shape (images, resolution, resolution, 3), in the
                value range of the model's preprocessing.

        Raises:
            ValueError: If the images have another shape, a pixel is not
                finite, or the probabilities of the last exit are NaN.
        """
        images = np.asarray(keras.ops.convert_to_numpy(images), "float32")
        shape = (self.resolution, self.resolution, 3)
        if images.ndim != 4 or images.shape[1:] != shape:
            raise ValueError(
                f"`images` must have shape {(None, *shape)}. "
                f"Received: shape {images.shape}"
            )
        check_finite(images, "`images`")
        probabilities = [np.zeros((0, self.model.num_classes), "float32")]
        exits = [np.zeros(0, "int32")]
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            outputs = self._run(keras.ops.convert_to_tensor(batch))
            probabilities.append(outputs[0].numpy())
            exits.append(outputs[1].numpy())
        probabilities, exits = np.concatenate(probabilities), np.concatenate(exits)
        if not np.isfinite(probabilities).all():
            raise ValueError(
                f"The probabilities of {self.model.name!r} are NaN for some "
                "images: look for NaN in its weights, and for pixel values "
                "outside the range of its preprocessing."
            )
        return AdaptivePrediction(
            probabilities,
            probabilities.argmax(axis=-1),
            exits,
            self._madds[exits],
        )
