"""What an operating point costs: multiply-adds and parameters."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras

from keras_resadapt.operating_point import OperatingPoint


@dataclasses.dataclass(frozen=True)
class ProfileRow:
    """The cost of one image at one operating point.

    Attributes:
        point: The operating point.
        madds: Multiply-adds of convolutions and dense layers; nothing for
            biases, normalization, activations, pooling and resizing.
        params: Trainable parameters that this point uses.
    """

    point: OperatingPoint
    madds: int
    params: int


@dataclasses.dataclass(frozen=True)
class _RecordingPoint(OperatingPoint):
    """An operating point that notes every layer that is called through it."""

    calls: list = dataclasses.field(default_factory=list)

    def call(self, layer, inputs, **kwargs) -> Any:
        outputs = super().call(layer, inputs, **kwargs)
        self.calls.append((layer, tuple(inputs.shape), tuple(outputs.shape)))
        return outputs


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
    recorder = _RecordingPoint(**dataclasses.asdict(point))
    images = keras.KerasTensor((1, *input_shape))
    symbolic_call(lambda x: forward(x, recorder), images)
    return ProfileRow(
        point,
        madds=sum(_madds(*call) for call in recorder.calls),
        params=sum(
            {
                (id(layer), inputs, outputs): _params(layer, inputs, outputs)
                for layer, inputs, outputs in recorder.calls
            }.values()
        ),
    )


def symbolic_call(function, inputs: keras.KerasTensor):
    """Runs a function of layers on shapes alone, which builds the layers."""

    class Symbolic(keras.layers.Layer):
        def build(self, input_shape):
            self.built = True

        def call(self, inputs):
            return function(inputs)

    return Symbolic()(inputs)


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
    elif hasattr(layer, "gamma_initializer"):  # a normalization's two vectors
        return 2 * outputs[-1]
    else:
        return 0
    return weights + (outputs[-1] if layer.use_bias else 0)
