"""The feature pyramid network."""

from collections.abc import Mapping
from typing import Any

import keras

from keras_resadapt.layers.block import Block, LayerSet
from keras_resadapt.layers.resize import spatial_size

# Uniform with a variance of 1 / fan-in
_KERNEL = keras.initializers.VarianceScaling(1.0, mode="fan_in", distribution="uniform")


class FPN(Block):
    """A feature pyramid network (Lin et al., 2017), as torchvision computes it.

    Its convolutions have biases, and there are neither normalizations nor
    activations. In a slimmable network, only the lateral convolutions depend on the
    width: they take as many channels as the backbone returns.

    Args:
        num_levels: Number of levels of the backbone's pyramid.
        channels: Number of output channels of each level.
        layers: The layers that it is made of.

    Call arguments:
        pyramid: Features by level, from fine to coarse, each of shape
            (batch, height, width, channels).
        point: The operating point.

    Returns:
        A list of features with `channels` channels and the heights and widths of the
        pyramid, from fine to coarse; and one more level, every second pixel of the
        coarsest one, for anchors alone.

    Reference:
        Feature Pyramid Networks for Object Detection
        (https://arxiv.org/abs/1612.03144).
    """

    def __init__(
        self,
        num_levels: int,
        channels: int = 256,
        layers: LayerSet = LayerSet(),
        **kwargs,
    ):
        super().__init__(**kwargs)
        levels = range(1, num_levels + 1)
        self.laterals = [_conv(layers, channels, 1, name=f"lateral{i}") for i in levels]
        self.sums = [layers.junction(name=f"sum{i}") for i in levels]
        self.outputs = [_conv(layers, channels, 3, name=f"output{i}") for i in levels]
        self.outs = [layers.junction(name=f"out{i}") for i in levels]

    def call(self, pyramid: Mapping[str, Any], point, training=None):
        levels = zip(
            self.laterals, self.sums, self.outputs, self.outs, pyramid.values()
        )
        features, coarser = [], None
        for lateral, total, output, out, x in reversed(list(levels)):
            x = point.call(lateral, x)
            if coarser is not None:
                x = x + _enlarge(coarser, spatial_size(x))
            coarser = point.call(total, x)
            features.insert(0, point.call(out, point.call(output, coarser)))
        return [*features, features[-1][:, ::2, ::2]]


def _conv(layers: LayerSet, filters: int, kernel_size: int, *, name: str):
    return layers.scaled_conv(
        filters,
        kernel_size,
        ratio=None,
        use_bias=True,
        kernel_initializer=_KERNEL.clone(),
        name=name,
    )


def _enlarge(x, size):
    """Resizes to the nearest pixel above and to the left."""
    import tensorflow as tf

    return tf.raw_ops.ResizeNearestNeighbor(images=x, size=tf.stack(size))
