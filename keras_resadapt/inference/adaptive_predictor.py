"""Predicts with as much of a cascade as each image needs."""

import dataclasses
from collections.abc import Sequence

import keras
import numpy as np

from keras_resadapt.inference.batches import check_finite
from keras_resadapt.inference.thresholds import Thresholds
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
        thresholds: `Thresholds`, such as `calibrate` finds, or a number in
            [0, 1] for every exit but the last.
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
        if keras.backend.backend() != "tensorflow":
            raise RuntimeError(
                "`AdaptivePredictor` needs the TensorFlow backend. The "
                f"backend is {keras.backend.backend()!r}."
            )
        if not isinstance(model, Cascade):
            raise TypeError(
                "`model` must be a `Cascade`, such as a `RANet`. An `RSNet` "
                "becomes one as `ResolutionCascade(model)`. "
                f"Received: model of type {type(model).__name__}"
            )
        if not hasattr(batch_size, "__index__") or batch_size < 1:
            raise ValueError(
                "`batch_size` must be a positive integer. "
                f"Received: batch_size={batch_size!r}"
            )
        from keras_resadapt.inference.stages import freeze_stages

        self.thresholds = Thresholds.of(thresholds)
        self.thresholds.check(model)
        self.model = model
        self.batch_size = batch_size
        self.resolution = resolution or model.resolution
        self._madds = np.array(
            [row.madds for row in model.profile(resolution=self.resolution)]
        )
        self._stages = freeze_stages(
            model, self.thresholds.temperatures, self.resolution
        )

    def _predict_batch(self, images):
        """Probabilities and exits of images that run together."""
        import tensorflow as tf

        thresholds = np.array([*self.thresholds.values, 0], "float32")
        probabilities = np.zeros(
            (len(images), self.model.num_classes), "float32"
        )
        exits = np.zeros(len(images), "int32")
        rows = np.arange(len(images))
        tensors = [keras.ops.convert_to_tensor(images, "float32")]
        for exit, stage in enumerate(self._stages):
            answer, *tensors = stage(*tensors)
            answer = answer.numpy()
            # What is not a number is not sure.
            sure = answer.max(axis=-1) >= thresholds[exit]
            if exit == self.model.num_exits - 1:
                sure[:] = True
            probabilities[rows[sure]] = answer[sure]
            exits[rows[sure]] = exit
            if sure.all():
                break
            if sure.any():
                unsure = np.flatnonzero(~sure)
                tensors = [tf.gather(x, unsure) for x in tensors]
                rows = rows[unsure]
        return probabilities, exits

    def predict(self, images) -> AdaptivePrediction:
        """Predicts for any number of images, from none to thousands.

        Args:
            images: Array of shape (images, resolution, resolution, 3), in the
                range that the model's preprocessing expects.

        Raises:
            ValueError: For images of another shape or with pixels that are
                not finite, and where the last exit says nothing but NaN.
        """
        shape = (None, self.resolution, self.resolution, 3)
        if len(np.shape(images)) != 4 or np.shape(images)[1:] != shape[1:]:
            raise ValueError(
                f"`images` must have shape {shape}. "
                f"Received: shape {np.shape(images)}"
            )
        check_finite(images, "`images`")
        probabilities = [np.zeros((0, self.model.num_classes), "float32")]
        exits = [np.zeros(0, "int32")]
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            for done, new in zip(
                (probabilities, exits), self._predict_batch(batch)
            ):
                done.append(new)
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
