"""Dense blocks, in which each layer's output is concatenated to its input."""

import math

import keras
from keras import ops

from keras_resadapt.layers.block import Block, LayerSet
from keras_resadapt.layers.conv_block import HE_NORMAL_FAN_OUT, ConvBlock


class BottleneckConv(Block):
    """A 1x1 and a 3x3 `ConvBlock` (RANet, section 3.3.1, "Regular-Conv").

    With a stride of 2 it is the paper's "Strided-Conv". The convolutions come
    before BatchNormalization and ReLU, as in the authors' code.

    Args:
        in_channels: Channels of the input.
        filters: Channels of the output.
        bottleneck_factor: The 1x1 convolution has this many times `filters`
            channels, but no more than the input.
        strides: Stride of the 3x3 convolution.
        layers: Constructors of its layers.
        kernel_initializer: Initializer of both kernels.

    Call arguments:
        inputs: Tensor of shape (batch, height, width, in_channels).
        point: The operating point.
    """

    def __init__(
        self,
        in_channels: int,
        filters: int,
        bottleneck_factor: int,
        strides: int = 1,
        layers: LayerSet = LayerSet(),
        kernel_initializer: str | dict | keras.Initializer = HE_NORMAL_FAN_OUT,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.reduce = ConvBlock(
            min(in_channels, bottleneck_factor * filters),
            1,
            1,
            layers,
            kernel_initializer=kernel_initializer,
            name="reduce",
        )
        self.conv = ConvBlock(
            filters,
            3,
            strides,
            layers.before_join(),
            kernel_initializer=kernel_initializer,
            name="conv",
        )

    def call(self, inputs, point, training=None):
        return self.conv(self.reduce(inputs, point=point), point=point)


class DenseBlock(Block):
    """`x_i = [x_{i-1}, F_i(x_{i-1})]` (RANet, section 3.3.2, figure 3a).

    A block may end with a transition, a 1x1 `ConvBlock` that compresses the
    channels.

    Args:
        in_channels: Channels of the input.
        num_layers: Number of layers F_i.
        growth_rate: Channels that each layer adds.
        bottleneck_factor: See `BottleneckConv`.
        reduction: Channels after the transition as a share of the channels
            before it; None for no transition.
        layers: Constructors of its layers.

    Call arguments:
        inputs: Tensor of shape (batch, height, width, in_channels).
        point: The operating point.

    Returns:
        The features after the transition, and the list of all x_i, which the
        next sub-network fuses.

    Attributes:
        out_channels: Channels of the features.
    """

    def __init__(
        self,
        in_channels: int,
        num_layers: int,
        growth_rate: int,
        bottleneck_factor: int,
        reduction: float | None = None,
        layers: LayerSet = LayerSet(),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.convs = [
            BottleneckConv(
                in_channels + i * growth_rate,
                growth_rate,
                bottleneck_factor,
                layers=layers,
                name=f"conv{i}",
            )
            for i in range(num_layers)
        ]
        self.joins = [
            layers.activation(None, non_negative=True, name=f"join{i}")
            for i in range(num_layers)
        ]
        self.out_channels = in_channels + num_layers * growth_rate
        self.transition = None
        if reduction is not None:
            self.out_channels = math.floor(self.out_channels * reduction)
            self.transition = ConvBlock(
                self.out_channels, 1, 1, layers, name="transition"
            )

    def call(self, inputs, point, training=None):
        outputs = [inputs]
        for conv, join in zip(self.convs, self.joins):
            x = outputs[-1]
            x = ops.concatenate([x, conv(x, point=point)], axis=-1)
            outputs.append(point.call(join, x))
        x = outputs[-1]
        if self.transition is not None:
            x = self.transition(x, point=point)
        return x, outputs
