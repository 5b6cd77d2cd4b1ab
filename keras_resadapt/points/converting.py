"""An interpreter for the conversion to LiteRT."""

import dataclasses
from typing import Any

from keras import ops

from keras_resadapt.points.operating_point import OperatingPoint


@dataclasses.dataclass(frozen=True)
class ConvertiblePoint(OperatingPoint):
    """An operating point whose normalizations the LiteRT converter can process.

    The converter folds a normalization with constants into the preceding
    convolution. Multiplying the constants by `one`, if it is given, prevents this.
    In a quantized convolution, the normalization becomes the scale of the integer
    weights, which must not be close to zero.

    Attributes:
        one: A list of a scalar tensor, a 1 that the converter cannot fold; or an
            empty list.
    """

    one: list = dataclasses.field(default_factory=list)

    def call(self, layer, inputs, scale=None, offset=None, **kwargs) -> Any:
        if scale is None:
            return super().call(layer, inputs, **kwargs)
        if self.one:
            outputs = super().call(layer, inputs, **kwargs)
            return outputs * (scale * self.one[0]) + offset * self.one[0]
        quantizer = getattr(layer, "weight_quantizer", None)
        if hasattr(quantizer, "magnitude"):
            scale = _limit_scale(scale, quantizer)
        return super().call(layer, inputs, scale=scale, offset=offset, **kwargs)


def _limit_scale(scale, quantizer):
    """Returns the scale with a lower limit of its absolute values.

    Scaled weights have at least a thousandth of the magnitude of the channel with
    the largest weights, so that int32 can represent the offsets.
    """
    magnitude = quantizer.magnitude(scale.shape[-1])
    product = ops.abs(scale) * magnitude
    least = ops.maximum(1e-3 * ops.max(product), 1e-4)
    sign = ops.where(scale < 0, -1.0, 1.0)
    return ops.where(product < least, sign * least / magnitude, scale)
