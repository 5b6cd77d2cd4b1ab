"""What a network says about a data set at several operating points."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from keras import ops

from keras_resadapt.analysis.batches import images_at
from keras_resadapt.analysis.batches import labelled_batches
from keras_resadapt.models.cascade import Cascade
from keras_resadapt.models.classifier import Classifier
from keras_resadapt.operating_point import OperatingPoint


@dataclasses.dataclass(frozen=True)
class PointPredictions:
    """The answers at each operating point.

    Attributes:
        points: The operating points, P of them.
        classes: The most probable class, int64 of shape (P, images).
        confidence: Its probability, float32 of shape (P, images).
        labels: The right class, int64 of shape (images,).
    """

    points: tuple[OperatingPoint, ...]
    classes: np.ndarray
    confidence: np.ndarray
    labels: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """Whether an answer is right, bool of shape (P, images)."""
        return self.classes == self.labels


def predict_points(
    model: Classifier,
    data: Iterable,
    points: Sequence[OperatingPoint] | None = None,
    verbose: bool = True,
) -> PointPredictions:
    """Runs every image at every point; keeps answers instead of logits.

    Args:
        model: A classifier.
        data: Batches of (images, labels), labels being class indices. For
            operating points with a resolution, images can be a tuple with a
            tensor each; those that are missing are resized from the largest.
        points: Where to run; by default all operating points.
        verbose: Whether to show the progress.

    Raises:
        TypeError: The model is no `Classifier`.
        ValueError: Data without batches, with labels that the model does not
            have, or for which it gives NaN.
    """
    if not isinstance(model, Classifier):
        raise TypeError(
            "`model` must be a network of this package, such as an `RSNet`. "
            f"Received: {type(model).__name__}"
        )
    points = tuple(points or model.operating_points)
    classes, confidence, labels = [], [], []
    for images, batch_labels in labelled_batches(data, verbose):
        if batch_labels.min() < 0 or batch_labels.max() >= model.num_classes:
            raise ValueError(
                f"Labels must be from 0 to {model.num_classes - 1}, the "
                f"classes of {model.name!r}. Received: "
                f"{batch_labels.min()} to {batch_labels.max()}"
            )
        probabilities = ops.convert_to_numpy(
            ops.softmax(ops.stack(_logits(model, images, points)))
        )
        classes.append(probabilities.argmax(axis=-1))
        confidence.append(probabilities.max(axis=-1))
        labels.append(batch_labels.astype("int64"))
    confidence = np.concatenate(confidence, axis=1)
    if not np.isfinite(confidence).all():
        raise ValueError(
            f"{model.name!r} gives NaN for some images: look for NaN in the "
            "pixels or the weights."
        )
    return PointPredictions(
        points,
        np.concatenate(classes, axis=1),
        confidence,
        np.concatenate(labels),
    )


def _logits(model, images, points):
    """The logits at each point; a cascade computes what they share once."""
    if not isinstance(model, Cascade):
        return [
            model.logits(images_at(images, model.resolution_of(point)), point)
            for point in points
        ]
    wanted = [point.exit for point in points]
    if None in wanted or max(wanted) >= model.num_exits:
        raise ValueError(
            f"The points of {model.name!r} must be exits from 0 to "
            f"{model.num_exits - 1}. Received: points={points}"
        )
    if isinstance(images, (tuple, list)):
        images = images_at(images, model.resolution)
    state = model.start(images)
    logits = []
    while state.exit <= max(wanted):
        of_exit, state = model.advance(state)
        logits.append(of_exit)
    return [logits[exit] for exit in wanted]
