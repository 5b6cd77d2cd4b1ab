"""Which quantizer every tensor of a pass came from."""

import dataclasses
from typing import Any

import keras

from keras_resadapt.points.operating_point import OperatingPoint


@dataclasses.dataclass(frozen=True)
class NotingPoint(OperatingPoint):
    """An operating point that notes which quantizer a tensor came from, and
    lets quantized layers know the step of their inputs."""

    origins: dict = dataclasses.field(default_factory=dict, compare=False)

    def call(self, layer, inputs, **kwargs) -> Any:
        if hasattr(layer, "input_step"):
            quantizer = layer.input_quantizer or self.origin(inputs)
            if hasattr(quantizer, "step"):
                # A function: a layer would become a part of that one.
                layer.input_step = lambda point: point.step(quantizer)
        outputs = super().call(layer, inputs, **kwargs)
        if hasattr(layer, "calibrate"):
            self._note(outputs, layer)
        elif isinstance(layer, keras.layers.MaxPooling2D):
            self._note(outputs, self.origin(inputs))
        return outputs

    def origin(self, tensor):
        """The quantizer of a tensor; None for none."""
        quantizer, _ = self.origins.get(id(tensor), (None, None))
        return quantizer

    def _note(self, tensor, quantizer) -> None:
        # With the tensor, so that its id is not used again
        self.origins[id(tensor)] = (quantizer, tensor)
