"""Layers that run with the first of their channels only."""

import keras
from keras import ops

from keras_resadapt.layers.convolution import Conv2D, DepthwiseConv2D
from keras_resadapt.layers.dense import Dense
from keras_resadapt.points.operating_point import DrawnWidth


def make_divisible(channels: float, divisor: int = 8, min_value: int = 8) -> int:
    """The multiple of `divisor` nearest to `channels`, never below 90 % of it.

    Args:
        channels: Number of channels.
        divisor: Positive integer.
        min_value: The least result: MobileNets have 8, slimmable networks 1
            (with which fewer than 4 channels give 1 or 9).
    """
    rounded = max(min_value, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def slim_channels(filters: int, width, ratio: float | None = 1.0):
    """How many of a layer's channels a width has.

    Args:
        filters: Channels of the layer at width 1.
        width: Width multiplier: a float, or a `DrawnWidth`.
        ratio: Channels in units of which the width is rounded: a bottleneck's
            inner convolutions keep their ratio to its outer ones. None for a
            layer that has `filters` channels at every width.

    Returns:
        An int, or an int32 scalar tensor for a drawn width.
    """
    if ratio is None:
        return filters
    if not isinstance(width, DrawnWidth):
        return int(make_divisible(filters * width / ratio, min_value=1) * ratio)
    # The same in double precision, so that both round alike.
    channels = filters * width.value / ratio
    rounded = ops.maximum(1.0, ops.floor((channels + 4.0) / 8.0) * 8.0)
    rounded = ops.where(rounded < 0.9 * channels, rounded + 8.0, rounded)
    return ops.cast(ops.floor(rounded * ratio), "int32")


def channels_of(inputs):
    """The number of channels: an int where it is known."""
    known = inputs.shape[-1]
    return ops.shape(inputs)[-1] if known is None else known


def first_channels(weights, *channels):
    """The first channels of the last axes, `weights[..., :c1, :c2]`."""
    known = all(isinstance(c, int) for c in channels)
    if known and channels == tuple(weights.shape[-len(channels) :]):
        return weights  # the gradient of a slice is a copy
    return weights[(..., *(slice(c) for c in channels))]


class _AnyInputChannels:
    """Takes any number of input channels up to that it was built with."""

    def build(self, input_shape):
        super().build(input_shape)
        self.input_spec = None


@keras.saving.register_keras_serializable("keras_resadapt")
class SlimmableConv2D(_AnyInputChannels, Conv2D):
    """A convolution of which a width uses the first channels.

    It slices its kernel: input channels are those that come in, output
    channels those of the width. A width thus costs what its multiply-adds say
    (MutualNet, section 3.2: `W_{0:w}`).

    Args:
        filters: Number of output channels at width 1.
        kernel_size: Odd integer.
        max_width: The largest width, for which there are weights.
        ratio: As for `slim_channels`.
        **kwargs: As for `Conv2D`.

    Call arguments:
        inputs: Tensor of shape (batch, height, width, channels).
        width: Width multiplier, up to `max_width`.
    """

    depends_on = ("width",)

    def __init__(
        self,
        filters: int,
        kernel_size,
        max_width: float = 1.0,
        ratio: float | None = 1.0,
        **kwargs,
    ):
        super().__init__(
            slim_channels(filters, max_width, ratio), kernel_size, **kwargs
        )
        self.filters_at_width_1 = filters
        self.max_width = max_width
        self.ratio = ratio

    def channels(self, width):
        """Output channels at a width: rounded, but no more than there are."""
        channels = slim_channels(self.filters_at_width_1, width, self.ratio)
        if isinstance(channels, int):
            return min(channels, self.filters)
        return ops.minimum(channels, self.filters)

    def call(self, inputs, width, scale=None, offset=None, point=None):
        out_channels = self.channels(width)
        kernel = first_channels(self.whole_kernel(), channels_of(inputs), out_channels)
        bias = first_channels(self.bias, out_channels) if self.use_bias else None
        return self.convolve(inputs, kernel, bias, scale, offset, point)

    def _missing_channels(self, inputs):
        if inputs.shape[-1] is None and self._kernel_shape[2] <= 64:
            return ops.maximum(8 - ops.shape(inputs)[-1], 0)
        return super()._missing_channels(inputs)

    def compute_output_spec(self, inputs, width, scale=None, offset=None, point=None):
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
    """A depthwise convolution of as many channels as come in."""

    def call(self, inputs, scale=None, offset=None, point=None):
        kernel = first_channels(self.whole_kernel(), channels_of(inputs), 1)
        return self.convolve(inputs, kernel, None, scale, offset, point)


@keras.saving.register_keras_serializable("keras_resadapt")
class SlimmableDense(_AnyInputChannels, Dense):
    """A dense layer over as many features as come in."""

    def product(self, inputs, kernel):
        kernel = first_channels(kernel, channels_of(inputs), self.units)
        return super().product(inputs, kernel)
