"""Layers that run with their first channels only."""

from typing import Any

import keras
from keras import ops

from keras_resadapt.layers.convolution import Conv2D, DepthwiseConv2D
from keras_resadapt.layers.dense import Dense
from keras_resadapt.layers.few_channels import pad_channels
from keras_resadapt.number_checks import check_integer
from keras_resadapt.points.operating_point import DrawnWidth


def make_divisible(channels: float, divisor: int = 8, min_value: int = 8) -> int:
    """Returns the multiple of `divisor` nearest to `channels`.

    The result is never below 90 % of `channels`.

    Args:
        channels: Number of channels.
        divisor: Positive integer.
        min_value: Smallest result. MobileNets use 8, slimmable networks 1,
            with which fewer than 4 channels give 1 or 9.
    """
    rounded = max(min_value, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def slim_channels(filters: int, width: Any, ratio: float | None = 1.0) -> Any:
    """Returns the number of channels that a layer has at a width.

    Args:
        filters: Number of channels of the layer at width 1.
        width: Width multiplier, a float or a `DrawnWidth`.
        ratio: Unit of the rounding, in channels: the inner convolutions of a
            bottleneck keep their ratio to the outer ones. None for a layer
            that has `filters` channels at every width.

    Returns:
        An int, or an int32 scalar tensor for a drawn width.
    """
    if ratio is None:
        return filters
    if not isinstance(width, DrawnWidth):
        return int(make_divisible(filters * width / ratio, min_value=1) * ratio)
    # Also in double precision, so that both branches round equally.
    channels = filters * width.value / ratio
    rounded = ops.maximum(1.0, ops.floor((channels + 4.0) / 8.0) * 8.0)
    rounded = ops.where(rounded < 0.9 * channels, rounded + 8.0, rounded)
    return ops.cast(ops.floor(rounded * ratio), "int32")


def channels_of(inputs):
    """Returns the number of channels: an int where it is known."""
    known = inputs.shape[-1]
    return ops.shape(inputs)[-1] if known is None else known


def first_channels(weights, *channels):
    """Returns the first channels of the last axes, `weights[..., :c1, :c2]`."""
    known = all(isinstance(c, int) for c in channels)
    if known and channels == tuple(weights.shape[-len(channels) :]):
        return weights  # the gradient of a slice is a copy
    return weights[(..., *(slice(c) for c in channels))]


class _AnyInputChannels:
    """Accepts any number of input channels up to the number it was built with."""

    def build(self, input_shape):
        super().build(input_shape)
        self.input_spec = None


@keras.saving.register_keras_serializable("keras_resadapt")
class SlimmableConv2D(_AnyInputChannels, Conv2D):
    """A convolution that uses its first channels at a width.

    It slices its kernel. The number of input channels is that of the inputs,
    the number of output channels follows from the width. A width thus costs
    what its multiply-adds say (MutualNet, section 3.2: `W_{0:w}`).

    Args:
        filters: Number of output channels at width 1.
        kernel_size: Odd integer.
        max_width: The largest width, for which there are weights.
        ratio: As for `slim_channels`.
        **kwargs: As for `Conv2D`.

    Call arguments:
        inputs: Tensor of shape (batch, height, width, channels).
        width: Width multiplier, up to `max_width`.
        scale, offset: As for `Conv2D`.
    """

    depends_on = ("width",)

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        max_width: float = 1.0,
        ratio: float | None = 1.0,
        **kwargs,
    ):
        filters = check_integer(filters, "filters")
        max_width = float(max_width)
        ratio = None if ratio is None else float(ratio)
        super().__init__(
            slim_channels(filters, max_width, ratio), kernel_size, **kwargs
        )
        if self.groups > 1:
            raise ValueError(
                f"`groups` must be 1 in a slimmable layer. Received: {self.groups}"
            )
        self.filters_at_width_1 = filters
        self.max_width = max_width
        self.ratio = ratio

    def channels(self, width):
        """Returns the number of output channels at a width, rounded.

        It is at most the number of channels that have weights.
        """
        channels = slim_channels(self.filters_at_width_1, width, self.ratio)
        if isinstance(channels, int):
            return min(channels, self.filters)
        return ops.minimum(channels, self.filters)

    def call(self, inputs, width, scale=None, offset=None):
        return self.convolve(inputs, *self.weights_for(inputs, width), scale, offset)

    def weights_for(self, inputs, width):
        """The slices of the kernel and of the bias (or None) at a width."""
        kernel, bias = super().weights_for(inputs)
        out_channels = self.channels(width)
        kernel = first_channels(kernel, channels_of(inputs), out_channels)
        return kernel, None if bias is None else first_channels(bias, out_channels)

    def pad_channels(self, inputs, kernel):
        return pad_channels(inputs, kernel, most=self.max_input_channels)

    def build(self, input_shape):
        super().build(input_shape)
        self.max_input_channels = input_shape[-1]

    def compute_output_spec(self, inputs, width, scale=None, offset=None):
        shape = self.compute_output_shape(inputs.shape)
        return keras.KerasTensor(
            (*shape[:-1], self.channels(width)), dtype=self.compute_dtype
        )

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters_at_width_1,
            "max_width": self.max_width,
            "ratio": self.ratio,
        }


@keras.saving.register_keras_serializable("keras_resadapt")
class SlimmableDepthwiseConv2D(_AnyInputChannels, DepthwiseConv2D):
    """A depthwise convolution with as many channels as its inputs have.

    Args:
        kernel_size: Odd integer.
        **kwargs: As for `DepthwiseConv2D`.
    """

    def weights_for(self, inputs):
        kernel, bias = super().weights_for(inputs)
        kernel = first_channels(kernel, channels_of(inputs), self.depth_multiplier)
        if bias is not None:
            bias = first_channels(bias, channels_of(inputs) * self.depth_multiplier)
        return kernel, bias


@keras.saving.register_keras_serializable("keras_resadapt")
class SlimmableDense(_AnyInputChannels, Dense):
    """A dense layer over as many features as its inputs have.

    Args:
        units: Number of outputs.
        **kwargs: As for `Dense`.
    """

    def kernel_for(self, inputs):
        return first_channels(self.kernel, channels_of(inputs), self.units)
