"""One layer of MSDNet: dense connections at several scales."""

from collections.abc import Sequence

from keras import ops

from keras_resadapt.layers.block import Block, LayerSet
from keras_resadapt.layers.dense_block import BottleneckConv
from keras_resadapt.layers.exit_classifier import UNIFORM_FAN_IN


class MultiScaleLayer(Block):
    """`y_s = [x_s, D_s(x_{s-1}), F_s(x_s)]`, at each scale s.

    D_s is a strided `BottleneckConv` from the next finer scale, and F_s a
    `BottleneckConv` of stride 1. Each adds half of the new channels. The finest
    scale has no D_s, unless the layer drops the scale above it.

    Args:
        channels: Channels of each input scale, the finest first.
        growth: Channels that are added to each output scale. The output
            scales are the coarsest of the input scales.
        bottleneck_factors: One factor per input scale.
        layers: Constructors of its layers.

    Call arguments:
        inputs: List of tensors, the finest first.
        point: The operating point.
        num_scales: Number of scales to compute, from the coarsest; all by
            default. Finer scales may then be missing from `inputs`.

    Returns:
        The list of y_s, the finest first.
    """

    def __init__(
        self,
        channels: Sequence[int],
        growth: Sequence[int],
        bottleneck_factors: Sequence[int],
        layers: LayerSet = LayerSet(),
        **kwargs,
    ):
        super().__init__(**kwargs)
        dropped = len(channels) - len(growth)
        self.downs, self.convs = [], []
        self.joins = [
            layers.activation(None, non_negative=True, name=f"join{i}")
            for i in range(len(growth))
        ]
        for i, added in enumerate(growth):
            scale = i + dropped
            down = None
            if scale > 0:
                added //= 2
                down = BottleneckConv(
                    channels[scale - 1],
                    added,
                    bottleneck_factors[scale - 1],
                    2,
                    layers,
                    UNIFORM_FAN_IN,
                    name=f"down{i}",
                )
            self.downs.append(down)
            self.convs.append(
                BottleneckConv(
                    channels[scale],
                    added,
                    bottleneck_factors[scale],
                    1,
                    layers,
                    UNIFORM_FAN_IN,
                    name=f"conv{i}",
                )
            )

    def call(self, inputs, point, num_scales=None, training=None):
        count = min(num_scales or len(self.convs), len(self.convs))
        outputs = []
        for i in range(-count, 0):  # counted from the coarsest
            parts = [inputs[i]]
            if self.downs[i] is not None:
                parts.append(self.downs[i](inputs[i - 1], point=point))
            parts.append(self.convs[i](inputs[i], point=point))
            x = ops.concatenate(parts, axis=-1)
            outputs.append(point.call(self.joins[i], x))
        return outputs
