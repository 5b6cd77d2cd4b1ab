"""Interpreters for the calibration of activation quantizers."""

import dataclasses
from typing import Any

from keras_resadapt.points.operating_point import OperatingPoint


@dataclasses.dataclass(frozen=True)
class CalibratingPoint(OperatingPoint):
    """An operating point that calibrates activation quantizers, and rounds nothing."""

    def call(self, layer, inputs, **kwargs) -> Any:
        if not hasattr(layer, "calibrate"):
            return super().call(layer, inputs, **kwargs)
        layer.calibrate(inputs, **self.axes_of(layer))
        return inputs


@dataclasses.dataclass(frozen=True)
class ListingPoint(OperatingPoint):
    """An operating point that lists the activation quantizers of a pass.

    Attributes:
        quantizers: One pair per call: the quantizer, and the axes that it depends
            on with their values.
    """

    quantizers: list = dataclasses.field(default_factory=list)

    def call(self, layer, inputs, **kwargs) -> Any:
        if hasattr(layer, "calibrate"):
            self.quantizers.append((layer, self.axes_of(layer)))
            return inputs
        return super().call(layer, inputs, **kwargs)
