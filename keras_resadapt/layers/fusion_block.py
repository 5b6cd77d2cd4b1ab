"""RANet's fusion of a sub-network's features with coarser features."""

import math
from collections.abc import Sequence

from keras import ops

from keras_resadapt.layers.block import Block, LayerSet
from keras_resadapt.layers.conv_block import ConvBlock
from keras_resadapt.layers.dense_block import BottleneckConv
from keras_resadapt.layers.resize import resize_to_corners, spatial_size


class FusionBlock(Block):
    """A dense block that also takes the features of the coarser sub-network.

    Let `c` be the compress factor, `low_i` the x_i of the coarser sub-network's
    block, and `u` bilinear resizing to the size of F_i's output. Then (RANet,
    section 3.3.2, figures 3b and 3c)

        x_i = [u(x_{i-1}), u(G_i(low_{i-1})), F_i(x_{i-1})]
        y = [x_n, u(H(low_n))]

    F_i adds a share 1 - c of the growth rate and G_i a share c. H is a 1x1
    `ConvBlock` with c times the channels of x_n. With `downsample`, the last
    F_i has stride 2. A block may end with a transition, like a `DenseBlock`.

    Args:
        in_channels: Channels of the input.
        low_channels: Channels of each `low_i`, one more than the number of
            layers.
        growth_rate: Channels that each layer adds.
        bottleneck_factor: Bottleneck factor of F; see `BottleneckConv`.
        low_bottleneck_factor: Bottleneck factor of G.
        compress_factor: c, in [0, 1].
        downsample: Whether the block halves the resolution.
        reduction: Channels after the transition as a share of the channels
            before it; None for no transition.
        layers: Constructors of its layers.

    Call arguments:
        inputs: Tensor of shape (batch, height, width, in_channels).
        low: List of the tensors `low_i`.
        point: The operating point.

    Returns:
        The features after the transition, and the list of all x_i.

    Attributes:
        out_channels: Channels of the result.
    """

    def __init__(
        self,
        in_channels: int,
        low_channels: Sequence[int],
        growth_rate: int,
        bottleneck_factor: int,
        low_bottleneck_factor: int,
        compress_factor: float = 0.25,
        downsample: bool = False,
        reduction: float | None = None,
        layers: LayerSet = LayerSet(),
        **kwargs,
    ):
        super().__init__(**kwargs)
        num_layers = len(low_channels) - 1
        low_growth = math.floor(growth_rate * compress_factor)
        self.ups = [
            BottleneckConv(
                low_channels[i],
                low_growth,
                low_bottleneck_factor,
                layers=layers,
                name=f"up{i}",
            )
            for i in range(num_layers)
        ]
        self.convs = [
            BottleneckConv(
                in_channels + i * growth_rate,
                growth_rate - low_growth,
                bottleneck_factor,
                strides=2 if downsample and i == num_layers - 1 else 1,
                layers=layers,
                name=f"conv{i}",
            )
            for i in range(num_layers)
        ]
        self.joins = [
            layers.activation(None, non_negative=True, name=f"join{i}")
            for i in range(num_layers + 1)
        ]
        channels = in_channels + num_layers * growth_rate
        last_channels = math.floor(channels * compress_factor)
        self.last = ConvBlock(last_channels, 1, 1, layers.before_join(), name="last")
        self.out_channels = channels + last_channels
        self.transition = None
        if reduction is not None:
            self.out_channels = math.floor(self.out_channels * reduction)
            self.transition = ConvBlock(
                self.out_channels, 1, 1, layers, name="transition"
            )

    def call(self, inputs, low, point, training=None):
        outputs = [inputs]
        for conv, up, coarse, join in zip(self.convs, self.ups, low, self.joins):
            x = outputs[-1]
            new = conv(x, point=point)
            size = spatial_size(new)
            x = ops.concatenate(
                [
                    resize_to_corners(x, size),
                    resize_to_corners(up(coarse, point=point), size),
                    new,
                ],
                axis=-1,
            )
            outputs.append(point.call(join, x))
        x = outputs[-1]
        last = self.last(low[-1], point=point)
        last = resize_to_corners(last, spatial_size(x))
        x = ops.concatenate([x, last], axis=-1)
        x = point.call(self.joins[-1], x)
        if self.transition is not None:
            x = self.transition(x, point=point)
        return x, outputs
