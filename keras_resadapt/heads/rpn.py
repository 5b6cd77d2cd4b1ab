"""The region proposal network's head."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_resadapt.layers.block import Block, LayerSet


def small_normal(fan_in: int, deviation: float = 0.01) -> keras.Initializer:
    """Returns N(0, deviation) for layers of the published number of inputs.

    Other layers start with the same scale of their outputs.

    Args:
        fan_in: The published number of inputs of each output.
        deviation: Standard deviation at that number of inputs.
    """
    return keras.initializers.VarianceScaling(
        deviation**2 * fan_in, mode="fan_in", distribution="untruncated_normal"
    )


class RPNHead(Block):
    """The head of a region proposal network (Ren et al., 2015), shared by all levels.

    Args:
        num_anchors: Number of anchors per cell.
        channels: Number of channels of the features.
        layers: The layers that it is made of.

    Call arguments:
        features: List of features, each of shape (batch, height, width, channels).
        point: The operating point.

    Returns:
        Two lists with one float32 tensor per level: the logits of objectness,
        (batch, anchors), and the deltas of the anchors, (batch, anchors, 4), in the
        order of rows, columns and anchors of a cell.

    Reference:
        Faster R-CNN (https://arxiv.org/abs/1506.01497).
    """

    def __init__(
        self,
        num_anchors: int,
        channels: int = 256,
        layers: LayerSet = LayerSet(),
        **kwargs,
    ):
        super().__init__(**kwargs)

        def conv(layers, filters, kernel_size, fan_in, name):
            return layers.scaled_conv(
                filters,
                kernel_size,
                ratio=None,
                use_bias=True,
                kernel_initializer=small_normal(fan_in),
                name=name,
            )

        last = layers.last()
        self.conv = conv(layers, channels, 3, 3 * 3 * 256, "conv")
        self.act = layers.activation("relu", name="act")
        self.objectness = conv(last, num_anchors, 1, 256, "objectness")
        self.deltas = conv(last, 4 * num_anchors, 1, 256, "deltas")
        self.outs = [last.junction(name=f"out{i}") for i in range(2)]

    def call(self, features: Sequence, point, training=None):
        logits, deltas = [], []
        for x in features:
            x = point.call(self.act, point.call(self.conv, x))
            scores = point.call(self.outs[0], point.call(self.objectness, x))
            moves = point.call(self.outs[1], point.call(self.deltas, x))
            batch = ops.shape(x)[0]
            logits.append(ops.cast(ops.reshape(scores, (batch, -1)), "float32"))
            deltas.append(ops.cast(ops.reshape(moves, (batch, -1, 4)), "float32"))
        return logits, deltas
