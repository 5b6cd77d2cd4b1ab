"""An interpreter that collects the statistics of batches."""

import dataclasses
from typing import Any

from keras_resadapt.points.operating_point import OperatingPoint


@dataclasses.dataclass(frozen=True)
class CollectingPoint(OperatingPoint):
    """An operating point at which normalizations use the statistics of the batch.

    It changes no running statistics. Activation quantizers round to levels that
    fit the batch.

    Attributes:
        norms: The normalization layers of the pass, in order.
        values: The mean and variance of the batch, one pair per entry of `norms`.
    """

    norms: list = dataclasses.field(default_factory=list)
    values: list = dataclasses.field(default_factory=list)

    def call(self, layer, inputs, **kwargs) -> Any:
        if hasattr(layer, "quantize_by_batch"):
            return layer.quantize_by_batch(inputs, **self.axes_of(layer))
        if not hasattr(layer, "normalize_by_batch"):
            return super().call(layer, inputs, **kwargs)
        outputs, mean, variance = layer.normalize_by_batch(
            inputs, **self.axes_of(layer)
        )
        self.norms.append(layer)
        self.values.append((mean, variance))
        return outputs
