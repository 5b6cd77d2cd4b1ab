"""The first features of the multi-scale networks, from fine to coarse."""

from collections.abc import Sequence

from keras_resadapt.layers.block import Block, LayerSet
from keras_resadapt.layers.conv_block import ConvBlock
from keras_resadapt.layers.exit_classifier import UNIFORM_FAN_IN
from keras_resadapt.layers.max_pooling import PaddedMaxPooling2D


class BaseFeatures(Block):
    """A chain of 3x3 `ConvBlock`s, each of which returns one base feature.

    RANet's "Initial layer" (section 3.3.1) and MSDNet's first layer.

    Args:
        filters: Channels of each base feature, the finest first.
        strides: Stride of each convolution after the first.
        stem: The layers before the first base feature: `"cifar"` is a 3x3
            `ConvBlock` of stride 1, `"imagenet"` a 7x7 one of stride 2 with a
            bias, and a max pooling of stride 2.
        layers: Constructors of its layers.

    Call arguments:
        inputs: Tensor of shape (batch, height, width, 3).
        point: The operating point.

    Returns:
        The list of base features, the finest first.
    """

    def __init__(
        self,
        filters: Sequence[int],
        strides: Sequence[int],
        stem: str = "cifar",
        layers: LayerSet = LayerSet(),
        **kwargs,
    ):
        super().__init__(**kwargs)
        if stem not in ("cifar", "imagenet"):
            raise ValueError(
                f"`stem` must be 'cifar' or 'imagenet'. Received: stem={stem!r}"
            )
        large = stem == "imagenet"
        shapes = [(7, 2) if large else (3, 1), *((3, s) for s in strides)]
        self.convs = [
            ConvBlock(
                channels,
                kernel_size,
                stride,
                layers if i else layers.first(),
                use_bias=large and i == 0,
                kernel_initializer=UNIFORM_FAN_IN,
                name=f"conv{i}",
            )
            for i, (channels, (kernel_size, stride)) in enumerate(zip(filters, shapes))
        ]
        self.pool = PaddedMaxPooling2D() if large else None

    def call(self, inputs, point, training=None):
        x = self.convs[0](inputs, point=point)
        if self.pool is not None:
            x = point.call(self.pool, x)
        features = [x]
        for conv in self.convs[1:]:
            features.append(conv(features[-1], point=point))
        return features
