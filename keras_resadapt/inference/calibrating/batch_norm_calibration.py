"""BatchNormalization statistics computed after training."""

import dataclasses
from collections.abc import Iterable, Sequence

import keras
import numpy as np
from keras import ops

from keras_resadapt.batches import images_at, labelled_batches
from keras_resadapt.compiled import compile_function
from keras_resadapt.models.cascade import Cascade
from keras_resadapt.models.network import Network
from keras_resadapt.models.point_cascade import PointCascade
from keras_resadapt.points import CollectingPoint, DrawnWidth, OperatingPoint


def calibrate_batch_norm(
    model: Network,
    data: Iterable,
    points: Sequence[OperatingPoint] | None = None,
    num_images: int = 2000,
    verbose: bool = True,
) -> None:
    """Computes the mean and variance of every normalization, at every point.

    Each becomes the average of the batches' own, over the whole of the images
    and not a moving one (MutualNet, section 3.1, "Post-Statistics of Batch
    Normalization"). They are kept with the model, a set a point, saved and
    exported with it. One pass over the data serves all points.

    A `MutualNet` needs it at every point but the full network, and again after
    further training. Any other family can be calibrated too, such as a
    fine-tuned `RSNet`; the statistics of a cascade are those of its one pass
    through all exits, those of a `PointCascade` its network's.

    Args:
        model: A classifier. It changes only after the last image has run.
        data: Batches of (images, labels) as the network was trained on, such
            as `data.training_batches` or `data.evaluation_batches` of training
            pictures; the labels count for nothing. Images at the largest
            resolution, from which others are resized, or a tuple with a tensor
            each. At least 32 a batch, so that the batches' statistics are good.
        points: By default `model.operating_points`. A cascade has no choice.
        num_images: How many images to run; the data may have fewer.
        verbose: Whether to show the progress.

    Raises:
        TypeError: The model is no `Network`.
        ValueError: `num_images` below 1, no points, bad data, or points that
            the model does not have.

    Example:

    >>> points = [OperatingPoint(r, w) for r in (224, 160) for w in (1.0, 0.5)]
    >>> calibrate_batch_norm(model, batches, points)
    >>> logits = model.logits(images, OperatingPoint(160, 0.5))
    """
    if isinstance(model, PointCascade):
        return calibrate_batch_norm(
            model.network, data, points or model.points, num_images, verbose
        )
    points = points_to_calibrate(model, points, num_images)
    sizes = [model.resolution_of(point) for point in points]  # checks them

    if hasattr(model, "points_without_statistics"):
        model.points_without_statistics(points)  # checks their names

    collect = _Collector(model)
    averages = [_Average() for _ in points]
    for images in first_images(data, num_images, verbose):
        for point, size, average in zip(points, sizes, averages):
            view = ops.convert_to_tensor(images_at(images, size))
            average.add(collect(view, point), len(view))
    if hasattr(model, "add_statistics"):
        model.add_statistics(points)
    for point, average in zip(points, averages):
        norms = collect.norms(point)
        for norm, statistics in zip(norms, average.value, strict=True):
            for variable, value in zip(point.statistics(norm), statistics):
                variable.assign(value)


def points_to_calibrate(model, points, num_images) -> list[OperatingPoint]:
    """The points that a calibration is to run at, its arguments checked."""
    if not isinstance(model, Network):
        raise TypeError(
            "`model` must be a network of this package, such as a "
            f"`MutualNet`. Received: {type(model).__name__}"
        )
    if not hasattr(num_images, "__index__") or num_images < 1:
        raise ValueError(
            "`num_images` must be a positive integer. "
            f"Received: num_images={num_images}"
        )
    if isinstance(points, OperatingPoint):
        points = [points]
    if isinstance(model, Cascade):
        if points is not None:
            raise ValueError(
                "A cascade is calibrated as a whole: leave out `points`. "
                f"Received: points={points}"
            )
        points = [OperatingPoint()]
    points = list(model.operating_points if points is None else points)
    if not points:
        raise ValueError("`points` must name at least one operating point.")
    return points


class _Collector:
    """The statistics of a batch at any point, from as few graphs as can be."""

    def __init__(self, model):
        self._model = model
        self._norms = {}
        self._functions = {}
        # Where a graph can slice to a width that it is given, all widths
        # share one.
        self._any_width = keras.backend.backend() == "tensorflow"

    def norms(self, point) -> list:
        """The normalization layers in the order of `__call__`'s result."""
        return self._norms[self._key(point)]

    def __call__(self, images, point) -> list:
        """Mean and variance of each normalization, as NumPy arrays."""
        key = self._key(point)
        if key not in self._functions:
            self._functions[key] = compile_function(
                lambda images, *width: self._run(images, point, key, *width)
            )
        width = ()
        if self._any_width and point.width is not None:
            width = (ops.convert_to_tensor(point.width, "float64"),)
        return [
            tuple(map(np.asarray, pair))
            for pair in self._functions[key](images, *width)
        ]

    def _key(self, point):
        if self._any_width:
            point = dataclasses.replace(point, width=None)
        return point.name

    def _run(self, images, point, key, *width):
        axes = point.axes()
        if width:
            axes["width"] = DrawnWidth(*width)
        point = CollectingPoint(**axes)
        self._model(images, point=point, training=True)
        self._norms[key] = point.norms
        return point.values


class _Average:
    """The average of lists of pairs of arrays, weighted."""

    def __init__(self):
        self.value = None
        self._weight = 0

    def add(self, pairs, weight):
        self._weight += weight
        new = [[x.astype("float64") for x in pair] for pair in pairs]
        if self.value is None:
            self.value = new
            return
        for mean, x in zip(self.value, new):
            for i in range(2):
                mean[i] += (x[i] - mean[i]) * (weight / self._weight)


def first_images(data, num_images, verbose):
    """The images of the first batches, `num_images` in all."""
    missing = num_images
    for images, labels in labelled_batches(data, verbose):
        if isinstance(images, (tuple, list)):
            yield tuple(view[:missing] for view in images)
        else:
            yield images[:missing]
        missing -= len(labels)
        if missing <= 0:
            return
