"""An interpreter that masks channels instead of slicing kernels."""

import dataclasses
from typing import Any

from keras import ops

from keras_resadapt.points.operating_point import OperatingPoint


@dataclasses.dataclass(frozen=True)
class MaskedPoint(OperatingPoint):
    """An operating point in training whose layers have all channels at every width.

    The channels beyond the width are zero, because the kernels of convolutions and
    the parameters of normalizations are multiplied by a mask. Outputs, gradients and
    statistics of the other channels are those of the sliced network, and the
    gradients of masked weights are zero. All shapes are static, so that XLA compiles
    one program for all widths. Every width costs the multiply-adds of the largest
    one.

    A normalization has the channels of the preceding convolution. Backbones that
    concatenate features before a normalization, such as `backbones.DenseNet`, cannot
    be masked.

    Attributes:
        masks: A list of the mask of the last convolution of the pass, a float32
            vector with one entry per channel; an empty list before the first one.
    """

    masks: list = dataclasses.field(default_factory=list, compare=False, repr=False)

    def call(self, layer, inputs, **kwargs) -> Any:
        if hasattr(layer, "max_width"):
            return self._convolve(layer, inputs, **kwargs)
        if hasattr(layer, "normalize_by_batch"):
            return self._normalize(layer, inputs)
        # Zero channels in, zero channels out
        return super().call(layer, inputs, **kwargs)

    def affine(self, norm):
        raise ValueError("A `MaskedPoint` is for training.")

    def _convolve(self, layer, inputs):
        channels = layer.channels(self.width)
        mask = ops.cast(ops.arange(layer.filters) < channels, "float32")
        self.masks[:] = [mask]
        full = OperatingPoint(self.resolution, layer.max_width)
        # A scale multiplies the kernel and the bias, not the features.
        offset = ops.zeros_like(mask) if layer.use_bias else None
        return full.call(layer, inputs, scale=mask, offset=offset)

    def _normalize(self, layer, inputs):
        (mask,) = self.masks
        if mask.shape[0] != inputs.shape[-1]:
            raise ValueError(
                "`backbone` must not concatenate features before a normalization to "
                "be trained on JAX or with `jit_compile=True`: train it on TensorFlow "
                f"without XLA. Received: {inputs.shape[-1]} channels after a "
                f"convolution of {mask.shape[0]} filters"
            )
        gamma, beta = layer.affine_vectors(self.resolution)
        mask = ops.cast(mask, gamma.dtype)
        outputs, _, _ = layer.normalize_with(
            inputs, gamma * mask, beta * mask, layer.moving_mean
        )
        return outputs
