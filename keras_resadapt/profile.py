"""The cost of an operating point: multiply-adds and parameters."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import keras

from keras_resadapt.points.operating_point import OperatingPoint
from keras_resadapt.points.recording import RecordingPoint, symbolic_call


@dataclasses.dataclass(frozen=True)
class ProfileRow:
    """The cost of one image at one operating point.

    Attributes:
        point: The operating point.
        madds: Multiply-adds of convolutions and dense layers. Biases, normalization,
            activations, pooling and resizing are not counted.
        params: Trainable parameters that this point uses.
        standalone_madds: Multiply-adds of `logits` at this point. In a cascade, they
            are fewer than `madds`: an image that exits has also run through the
            classifiers of all earlier exits.
    """

    point: OperatingPoint
    madds: int
    params: int
    standalone_madds: int


def profile_point(
    forward: Callable[[Any, OperatingPoint], Any],
    input_shape: tuple[int, ...],
    point: OperatingPoint,
) -> ProfileRow:
    """Counts the cost of the layers that `forward` calls, without running them.

    Args:
        forward: Function of (images, point) that calls every layer through
            `point.call`.
        input_shape: Shape of one image.
        point: The operating point.
    """
    calls = _record(forward, input_shape, point)
    madds = _sum_madds(calls)
    return ProfileRow(point, madds, _sum_params(calls), madds)


def _record(forward, input_shape, point) -> list:
    """Returns the calls that `forward` makes through a point.

    Each is a layer with the shapes of its inputs and outputs.
    """
    recorder = point.interpreted_by(RecordingPoint)

    def run(images):
        recorder.calls.clear()  # a backend may trace twice
        return forward(images, recorder)

    symbolic_call(run, keras.KerasTensor((1, *input_shape)))
    return recorder.calls


def channels_of_norms(
    model, point: OperatingPoint
) -> list[tuple[keras.layers.Layer, int]]:
    """Returns the normalization layers that run at a point.

    Returns:
        Pairs of a layer and the number of its channels at the point.
    """
    return [
        (layer, outputs[-1])
        for layer, _, outputs in _record(
            lambda images, point: model(images, point=point, training=True),
            (*model.image_size_of(point), 3),
            point,
        )
        if _is_norm(layer)
    ]


def profile_cascade(
    model, input_shape: tuple[int, ...], points: Iterable | None = None
) -> list[ProfileRow]:
    """Counts the cost of the exits of a cascade.

    Args:
        model: A `Cascade`.
        input_shape: Shape of one image.
        points: The exits to count; by default all of them.
    """
    recorder = RecordingPoint()
    calls_until = []

    def forward(images):
        recorder.calls.clear()  # a backend may trace twice
        calls_until.clear()
        state = model.start(images, recorder)
        for _ in range(model.num_exits):
            logits, state = model.advance(state)
            calls_until.append(len(recorder.calls))
        return logits

    symbolic_call(forward, keras.KerasTensor((1, *input_shape)))
    rows = []
    for point in points or model.operating_points:
        calls = recorder.calls[: calls_until[point.exit]]
        alone = profile_point(lambda x, p: model(x, point=p), input_shape, point)
        rows.append(
            ProfileRow(point, _sum_madds(calls), _sum_params(calls), alone.madds)
        )
    return rows


def _is_norm(layer) -> bool:
    return hasattr(layer, "normalize_by_batch")


def _sum_madds(calls) -> int:
    return sum(_madds(*call) for call in calls)


def _sum_params(calls) -> int:
    # A layer that runs on several levels of a pyramid counts once.
    return sum(
        {
            (id(layer), inputs[-1], outputs[-1]): _params(layer, inputs, outputs)
            for layer, inputs, outputs in calls
        }.values()
    )


def _madds(layer, inputs, outputs) -> int:
    """Returns the multiply-adds of one call, from its shapes."""
    if isinstance(layer, keras.layers.Dense):
        return math.prod(outputs) * inputs[-1]
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return math.prod(outputs) * math.prod(layer.kernel_size)
    if isinstance(layer, keras.layers.Conv2DTranspose):
        return math.prod(inputs) * outputs[-1] * math.prod(layer.kernel_size)
    if isinstance(layer, keras.layers.Conv2D):
        in_channels = inputs[-1] // layer.groups
        return math.prod(outputs) * in_channels * math.prod(layer.kernel_size)
    return 0


def _params(layer, inputs, outputs) -> int:
    """Returns the number of trainable parameters of one call, from its shapes."""
    if isinstance(layer, keras.layers.Dense):
        weights = inputs[-1] * outputs[-1]
    elif isinstance(layer, keras.layers.DepthwiseConv2D):
        weights = outputs[-1] * math.prod(layer.kernel_size)
    elif isinstance(layer, keras.layers.Conv2DTranspose):
        weights = inputs[-1] * outputs[-1] * math.prod(layer.kernel_size)
    elif isinstance(layer, keras.layers.Conv2D):
        in_channels = inputs[-1] // layer.groups
        weights = outputs[-1] * in_channels * math.prod(layer.kernel_size)
    elif _is_norm(layer):  # its scale and offset
        return 2 * outputs[-1]
    else:
        return 0
    return weights + (outputs[-1] if layer.use_bias else 0)
