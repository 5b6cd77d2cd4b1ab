"""Calibration of activation ranges."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import keras

from keras_resadapt.batches import first_images, view_at_point
from keras_resadapt.compiled import compile_function
from keras_resadapt.points import CalibratingPoint, ListingPoint, OperatingPoint
from keras_resadapt.points.recording import symbolic_call
from keras_resadapt.quantization.scheme import check_network


def calibrate_ranges(
    model: keras.Model,
    data: Iterable,
    points: Sequence[OperatingPoint] | None = None,
    num_images: int = 1000,
    verbose: bool = True,
) -> None:
    """Computes the range, or basis, of all activations at every operating point.

    A range becomes the average of the ranges of all batches, in inference with
    unrounded activations. A basis is the result of a search from batch to batch.
    Training can start from them. Without any training, this is post-training
    quantization.

    Private ranges of a `MutualNet` belong to single points: first call
    `inference.calibrate_batch_norm` with these points.

    Args:
        model: A quantized network.
        data: Batches of images, or of (images, labels), as for
            `inference.calibrate_batch_norm`.
        points: Operating points; by default `model.operating_points`. Must be None
            for a cascade.
        num_images: The number of images to run. The data may have fewer.
        verbose: Whether to show a progress bar.

    Raises:
        TypeError: If `model` is not a network of this package.
        ValueError: If the model is not quantized, or an argument is out of its range.
    """
    check_network(model)
    if model.scheme is None:
        raise ValueError(
            f"{model.name!r} is not quantized: see "
            "`keras_resadapt.quantization.quantize`."
        )
    points, model = model.points_to_calibrate(points), model.inner_network()
    counters = [
        layer.counter(**axes)
        for point in points
        for layer, axes in _quantizers_at(model, point)
    ]
    passes = [
        compile_function(
            functools.partial(model, point=point.interpreted_by(CalibratingPoint))
        )
        for point in points
    ]
    for number, images in enumerate(first_images(data, num_images, verbose)):
        if number == 0:  # the data is there
            for counter in counters:
                counter.assign(0)
        for run, point in zip(passes, points):
            view = keras.ops.convert_to_tensor(view_at_point(model, images, point))
            run(keras.ops.cast(view, "float32"))


def check_calibrated(model: keras.Model, points: Sequence[OperatingPoint]) -> None:
    """Raises a `ValueError` for a point whose activation ranges are unknown.

    They are found by training or by `calibrate_ranges`.
    """
    for point in dict.fromkeys(
        dataclasses.replace(point, exit=None) for point in points
    ):
        for layer, axes in _quantizers_at(model, point):
            if not all(int(counter) for counter in layer.counters(**axes)):
                raise ValueError(
                    f"The activation ranges at {point.name!r} were never "
                    "calibrated: train the network, or call `keras_resadapt."
                    "quantization.calibrate_ranges(model, data)`. The first: "
                    f"{layer.path}"
                )


def _quantizers_at(model, point) -> list:
    """Returns the activation quantizers of a point, and its axes for each."""
    lister = point.interpreted_by(ListingPoint)
    size = model.resolution_of(point)
    symbolic_call(
        lambda images: model.call(images, point=lister),
        keras.KerasTensor((1, size, size, 3)),
    )
    return lister.quantizers
