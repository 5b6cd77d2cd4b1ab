"""An interpreter that records the layers of a pass."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

# There is no public way to trace a function on shapes alone: `keras.Operation`
# wraps the errors of the function, among them those that users are to read.
from keras.src import backend

from keras_resadapt.points.operating_point import OperatingPoint


@dataclasses.dataclass(frozen=True)
class RecordingPoint(OperatingPoint):
    """An operating point that records every layer that is called through it.

    It runs no layer: it returns zeros of the right shape.

    Attributes:
        calls: One tuple per call: the layer, the shape of its inputs and the shape
            of its outputs.
    """

    calls: list = dataclasses.field(default_factory=list)

    def call(self, layer, inputs, **kwargs) -> Any:
        spec = layer.compute_output_spec(inputs, **self.axes_of(layer))
        self.calls.append((layer, tuple(inputs.shape), tuple(spec.shape)))
        return ops.zeros(spec.shape, spec.dtype)

    def affine(self, norm):
        scale, offset = super().affine(norm)
        self.calls.append((norm, tuple(scale.shape), tuple(scale.shape)))
        return scale, offset


def symbolic_call(function: Callable, *inputs: keras.KerasTensor) -> Any:
    """Runs a function of tensors on shapes alone.

    Args:
        function: A function of tensors that returns tensors.
        *inputs: The shapes and dtypes of its arguments.

    Returns:
        The results of the function, as `KerasTensor`s.
    """
    return backend.compute_output_spec(function, *inputs)
