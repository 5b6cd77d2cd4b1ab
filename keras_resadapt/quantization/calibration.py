"""Activation ranges computed without training."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from keras_resadapt.points.operating_point import OperatingPoint


@dataclasses.dataclass(frozen=True)
class _CalibratingPoint(OperatingPoint):
    """An operating point at which activation quantizers look at what they
    get, and round nothing."""

    def call(self, layer, inputs, **kwargs) -> Any:
        if not hasattr(layer, "calibrate"):
            return super().call(layer, inputs, **kwargs)
        layer.calibrate(inputs, **self._axes(layer))
        return inputs


@dataclasses.dataclass(frozen=True)
class _ListingPoint(OperatingPoint):
    """An operating point that notes the activation quantizers."""

    quantizers: list = dataclasses.field(default_factory=list)

    def call(self, layer, inputs, **kwargs) -> Any:
        if hasattr(layer, "calibrate"):
            self.quantizers.append((layer, self._axes(layer)))
            return inputs
        return super().call(layer, inputs, **kwargs)


def calibrate_ranges(
    model: keras.Model,
    data: Iterable,
    points: Sequence[OperatingPoint] | None = None,
    num_images: int = 1000,
    verbose: bool = True,
) -> None:
    """Computes the range, or basis, of all activations at every point.

    Ranges become the averages of the batches' own in inference with
    unrounded activations; bases come out of a search from batch to batch.
    Training afterwards starts there, and inference needs no more: without any
    training this is post-training quantization.

    Private ranges of a `MutualNet` belong to single points: call it after
    `inference.calibrate_batch_norm` of these points.

    Args:
        model: A quantized classifier.
        data: Batches of (images, labels) as for
            `inference.calibrate_batch_norm`.
        points: By default `model.operating_points`. A cascade has no choice.
        num_images: How many images to run; the data may have fewer.
        verbose: Whether to show the progress.

    Raises:
        TypeError: The model is no classifier of this package.
        ValueError: The model is not quantized, or an argument is bad.
    """
    from keras_resadapt.batches import images_at
    from keras_resadapt.compiled import compile_function
    from keras_resadapt.inference.calibrating.batch_norm_calibration import (
        first_images,
        points_to_calibrate,
    )
    from keras_resadapt.models.point_cascade import PointCascade

    if isinstance(model, PointCascade):
        return calibrate_ranges(
            model.network, data, points or model.points, num_images, verbose
        )
    points = points_to_calibrate(model, points, num_images)
    if model.quantization is None:
        raise ValueError(
            f"{model.name!r} is not quantized: see "
            "`keras_resadapt.quantization.quantize`."
        )
    sizes = [model.resolution_of(point) for point in points]
    counters = [
        layer.counter(**axes)
        for point in points
        for layer, axes in _quantizers_at(model, point)
    ]
    passes = [
        compile_function(
            lambda images, point=point: run_all(
                model, images, _CalibratingPoint(**dataclasses.asdict(point))
            )
        )
        for point in points
    ]
    for number, images in enumerate(first_images(data, num_images, verbose)):
        if number == 0:  # the data is there
            for counter in counters:
                counter.assign(0)
        for run, size in zip(passes, sizes):
            view = keras.ops.convert_to_tensor(images_at(images, size))
            run(keras.ops.cast(view, "float32"))


def check_calibrated(model: keras.Model, points: Sequence[OperatingPoint]) -> None:
    """Raises a `ValueError` for a point with activation ranges that neither
    training nor calibration has found."""
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


def run_all(model, images, point):
    """The logits at a point; of a cascade, after all its exits."""
    from keras_resadapt.models.cascade import Cascade

    if not isinstance(model, Cascade):
        return model(images, point=point)
    state = model.start(images, point)
    while state.exit < model.num_exits:
        logits, state = model.advance(state)
    return logits


def _quantizers_at(model, point) -> list:
    """The activation quantizers of a point, and its axes for each."""
    from keras_resadapt.profile import symbolic_call

    lister = _ListingPoint(**dataclasses.asdict(point))
    size = model.resolution_of(point)
    symbolic_call(
        lambda images: run_all(model, images, lister),
        keras.KerasTensor((1, size, size, 3)),
    )
    return lister.quantizers
