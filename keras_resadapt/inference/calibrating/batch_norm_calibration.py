"""BatchNormalization statistics computed after training."""

import dataclasses
from collections.abc import Iterable, Sequence

import keras
import numpy as np
from keras import ops

from keras_resadapt.backend import require_tensorflow_or_jax
from keras_resadapt.batches import first_images, view_at_point
from keras_resadapt.checks import check_network
from keras_resadapt.compiled import compile_function
from keras_resadapt.models.network import Network
from keras_resadapt.number_checks import check_integer
from keras_resadapt.points import CollectingPoint, DrawnWidth, OperatingPoint
from keras_resadapt.profile import channels_of_norms


def calibrate_batch_norm(
    model: Network,
    data: Iterable,
    points: Sequence[OperatingPoint] | None = None,
    num_images: int = 2000,
    verbose: bool = True,
) -> None:
    """Computes the mean and variance of every normalization at every point.

    Each mean and variance becomes the average of the batches' values over all
    images, not a moving average (MutualNet, section 3.1, "Post-Statistics of
    Batch Normalization"). The model stores one set of statistics per point,
    which is saved and exported with it. All points share one pass over the
    data.

    A `MutualNet` needs this calibration at every point but the full network,
    and again after further training. Any other family can be calibrated too,
    for example a fine-tuned `RSNet`. The statistics of a cascade come from one
    pass through all exits. For a `PointCascade`, its network is calibrated.

    With `frozen_bn=True`, the statistics that the network was trained with are not
    changed. These are all statistics of an `RSNet`, and those of the full network of
    a `MutualNet`, whose sub-networks are normalized by their batches.

    Args:
        model: A network of this package. It changes only after all images
            have run.
        data: Batches of training images with the training's preprocessing,
            or tuples whose first element is such a batch and whose other
            elements, such as labels, are ignored. For example
            `data.training_batches`, or `data.evaluation_batches` of training
            images. Images have the largest resolution, from which smaller ones
            are resized; in a tuple, they can be a tuple with one tensor per
            resolution, the largest first. For a network that runs on images of
            any shape, images need not be square: both sides are multiplied by the
            resolution of the point divided by the largest resolution, as in
            `fit`. Batches should hold at least 32 images.
        points: Operating points; by default `model.operating_points`. Must be
            None for a cascade.
        num_images: The number of images to run. The data may have fewer.
        verbose: Whether to show a progress bar.

    Raises:
        RuntimeError: On any backend other than TensorFlow and JAX.
        TypeError: If `model` is not a network of this package.
        ValueError: If `num_images` is not a positive integer, there are no
            points or no images, images have a wrong shape, the model does
            not have one of the points, or all statistics of all points are frozen.

    Example:

    >>> points = [OperatingPoint(r, w) for r in (224, 160) for w in (1.0, 0.5)]
    >>> calibrate_batch_norm(model, batches, points)
    >>> logits = model.logits(images, OperatingPoint(160, 0.5))
    """
    require_tensorflow_or_jax("calibrate_batch_norm")
    check_network(model)
    check_integer(num_images, "num_images")
    points, model = model.points_to_calibrate(points), model.inner_network()
    if hasattr(model, "points_without_statistics"):
        model.points_without_statistics(points)  # validates their names
    points = _points_to_change(model, points)

    collect = _Collector(model)
    averages = [_Average() for _ in points]
    for images in first_images(data, num_images, verbose):
        for point, average in zip(points, averages):
            view = ops.convert_to_tensor(_view(model, images, point))
            average.add(collect(view, point), len(view))
    if hasattr(model, "add_statistics"):
        model.add_statistics(points)
    for point, average in zip(points, averages):
        norms = collect.norms(point)
        for norm, statistics in zip(norms, average.value, strict=True):
            if _is_frozen(model, norm, point):
                continue
            for variable, value in zip(point.statistics(norm), statistics):
                variable.assign(value)


def _points_to_change(model, points) -> list[OperatingPoint]:
    """Returns the points with statistics that are not frozen.

    Raises:
        ValueError: There are none.
    """
    if not getattr(model, "frozen_bn", False):
        return points
    changed = [
        point
        for point in points
        if not all(
            _is_frozen(model, norm, point)
            for norm, _ in channels_of_norms(model, point)
        )
    ]
    if not changed:
        raise ValueError(
            "`model` must have statistics that are not frozen at `points`: "
            f"{model.name!r} has `frozen_bn=True`, and keeps the statistics that it "
            f"was trained with. Received: points={[point.name for point in points]}"
        )
    return changed


def _is_frozen(model, norm, point) -> bool:
    """Returns whether training uses running statistics that it does not change."""
    return (
        getattr(model, "frozen_bn", False)
        and not norm.trainable
        and point == getattr(model, "full_point", point)
    )


def _view(model, images, point):
    """Returns the images of a batch at a point."""
    if model.task.padded:
        return model.view_at(images, None, point)[0]
    return view_at_point(model, images, point)


class _Collector:
    """The statistics of a batch at any point, from few compiled functions."""

    def __init__(self, model):
        self._model = model
        self._norms = {}
        self._functions = {}
        # TensorFlow graphs can slice to a width given as a tensor, so that all
        # widths share one graph.
        self._any_width = keras.backend.backend() == "tensorflow"

    def norms(self, point) -> list:
        """Returns the normalization layers in the order of `__call__`'s result."""
        return self._norms[self._key(point)]

    def __call__(self, images, point) -> list:
        """Returns the mean and variance of each normalization as NumPy arrays."""
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
    """The weighted average of lists of pairs of arrays."""

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
