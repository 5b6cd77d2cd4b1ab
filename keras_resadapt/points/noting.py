"""An interpreter that follows quantized tensors through a pass."""

import dataclasses
from typing import Any

import keras

from keras_resadapt.points.operating_point import OperatingPoint


@dataclasses.dataclass(frozen=True)
class NotingPoint(OperatingPoint):
    """An operating point that notes which quantizer each tensor came from.

    It gives every quantized convolution and dense layer its `input_step`: a
    function from an operating point to the distance between the levels of its
    inputs.
    """

    origins: dict = dataclasses.field(default_factory=dict, compare=False)

    def call(self, layer, inputs, **kwargs) -> Any:
        if hasattr(layer, "input_step"):
            quantizer = layer.input_quantizer or self.origin(inputs)
            if hasattr(quantizer, "step"):
                # A function, because an attribute that is a layer would be
                # tracked as a part of this layer.
                layer.input_step = lambda point: point.step(quantizer)
        outputs = super().call(layer, inputs, **kwargs)
        if hasattr(layer, "calibrate"):
            self._note(outputs, layer)
        elif isinstance(layer, keras.layers.MaxPooling2D):
            self._note(outputs, self.origin(inputs))
        return outputs

    def origin(self, tensor):
        """Returns the quantizer that a tensor came from, or None."""
        quantizer, _ = self.origins.get(id(tensor), (None, None))
        return quantizer

    def _note(self, tensor, quantizer) -> None:
        # The tensor is kept, so that its id is not used again.
        self.origins[id(tensor)] = (quantizer, tensor)
