"""Predicts with as much of a cascade as each image needs."""

import dataclasses
from collections.abc import Sequence

import keras
import numpy as np

from keras_resadapt.backend import require_tensorflow
from keras_resadapt.batches import check_finite
from keras_resadapt.inference.measuring.exit_latency import check_resolution
from keras_resadapt.inference.storing.thresholds import Thresholds
from keras_resadapt.models.cascade import Cascade


@dataclasses.dataclass(frozen=True)
class AdaptivePrediction:
    """What a cascade says about some images, in their order.

    Attributes:
        probabilities: float32 of shape (images, classes).
        classes: The most probable class, int64 of shape (images,).
        exits: The exit at which each image left, from 0, int32.
        madds: The multiply-adds that each image cost, int64.
    """

    probabilities: np.ndarray
    classes: np.ndarray
    exits: np.ndarray
    madds: np.ndarray


class AdaptivePredictor:
    """Stops computing, image by image, at the first exit that is sure.

    Needs the TensorFlow backend. The weights are copied into a graph of
    constants when the predictor is made, which is what makes it fast: make a
    new one after more training.

    Args:
        model: A `Cascade`.
        thresholds: `Thresholds`, such as `calibrate` finds, or a sequence
            with a number in [0, 1] for each exit but the last.
        batch_size: Images that run together; more of them are split.
        resolution: Height and width of the images, by default the model's
            own.

    Raises:
        RuntimeError: On another backend.
        TypeError: If the model is not a cascade.
        ValueError: For the wrong number of thresholds, values outside [0, 1],
            and thresholds that were made for another model.

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
        if not isinstance(model, Cascade):
            raise TypeError(
                "`model` must be a `Cascade`, such as a `RANet`. An `RSNet` "
                "becomes one as `PointCascade(model)`. "
                f"Received: model of type {type(model).__name__}"
            )
        if not hasattr(batch_size, "__index__") or batch_size < 1:
            raise ValueError(
                "`batch_size` must be a positive integer. "
                f"Received: batch_size={batch_size!r}"
            )
        self.thresholds = Thresholds.of(thresholds)
        self.thresholds.check(model)
        self.model = model
        self.batch_size = batch_size
        self.resolution = check_resolution(model, resolution)
        self._madds = np.array(
            [row.madds for row in model.profile(resolution=self.resolution)]
        )
        self._run = self._compile()

    def _compile(self):
        """From images to probabilities and exits, in one graph."""
        import tensorflow as tf

        from keras_resadapt.inference.running.adaptive import adaptive_logits
        from keras_resadapt.inference.running.stages import freeze_stages

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
        """Predicts for any number of images, from none to thousands.

        Args:
            images: Array of shape (images, resolution, resolution, 3), in the
                range that the model's preprocessing expects.

        Raises:
            ValueError: For images of another shape or with pixels that are
                not finite, and where the last exit says nothing but NaN.
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
            answers = self._run(keras.ops.convert_to_tensor(batch))
            for done, new in zip((probabilities, exits), answers):
                done.append(new.numpy())
        probabilities, exits = map(np.concatenate, (probabilities, exits))
        if not np.isfinite(probabilities).all():
            raise ValueError(
                f"{self.model.name!r} gives no number for some images: look "
                "for NaN in its weights."
            )
        return AdaptivePrediction(
            probabilities,
            probabilities.argmax(axis=-1),
            exits,
            self._madds[exits],
        )
