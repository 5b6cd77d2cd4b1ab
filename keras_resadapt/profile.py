"""What an operating point costs: multiply-adds and parameters."""

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
        madds: Multiply-adds of convolutions and dense layers; nothing for
            biases, normalization, activations, pooling and resizing.
        params: Trainable parameters that this point uses.
        standalone_madds: Multiply-adds of `logits` at this point. Less than
            `madds` in a cascade, where an image that leaves at an exit has
            paid for all exits before it.
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
    """Counts the layers that `forward` calls for one image, and runs none.

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
    """The calls that `forward` makes through a point, each with the layer and
    the shapes of what goes in and out."""
    recorder = point.interpreted_by(RecordingPoint)
    images = keras.KerasTensor((1, *input_shape))
    symbolic_call(lambda x: forward(x, recorder), images)
    return recorder.calls


def channels_of_norms(
    model, point: OperatingPoint
) -> list[tuple[keras.layers.Layer, int]]:
    """The normalization layers that a point runs through, each with the
    number of its channels there."""
    return [
        (layer, outputs[-1])
        for layer, _, outputs in _record(
            lambda images, point: model(images, point=point, training=True),
            (model.resolution_of(point),) * 2 + (3,),
            point,
        )
        if _is_norm(layer)
    ]


def profile_cascade(
    model, input_shape: tuple[int, ...], points: Iterable | None = None
) -> list[ProfileRow]:
    """Counts a cascade's exits, in one pass through all and one for each.

    Args:
        model: A `Cascade`.
        input_shape: Shape of one image.
        points: The exits to count; by default all.
    """
    recorder = RecordingPoint()
    calls_until = []

    def forward(images):
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
    return sum(
        {
            (id(layer), inputs, outputs): _params(layer, inputs, outputs)
            for layer, inputs, outputs in calls
        }.values()
    )


def _madds(layer, inputs, outputs) -> int:
    """Multiply-adds of one call, from the shapes of what went in and out."""
    if isinstance(layer, keras.layers.Dense):
        return math.prod(outputs) * inputs[-1]
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return math.prod(outputs) * math.prod(layer.kernel_size)
    if isinstance(layer, keras.layers.Conv2D):
        in_channels = inputs[-1] // layer.groups
        return math.prod(outputs) * in_channels * math.prod(layer.kernel_size)
    return 0


def _params(layer, inputs, outputs) -> int:
    """Trainable parameters that one call used, from its shapes."""
    if isinstance(layer, keras.layers.Dense):
        weights = inputs[-1] * outputs[-1]
    elif isinstance(layer, keras.layers.DepthwiseConv2D):
        weights = outputs[-1] * math.prod(layer.kernel_size)
    elif isinstance(layer, keras.layers.Conv2D):
        in_channels = inputs[-1] // layer.groups
        weights = outputs[-1] * in_channels * math.prod(layer.kernel_size)
    elif _is_norm(layer):  # its scale and offset
        return 2 * outputs[-1]
    else:
        return 0
    return weights + (outputs[-1] if layer.use_bias else 0)
