"""DenseNet (Huang et al., 2017), with bottlenecks and compression."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_resadapt.backbones.backbone import Backbone, check_stem
from keras_resadapt.backbones.resnet import Head, Stem
from keras_resadapt.layers import Block, LayerSet, conv_norm
from keras_resadapt.layers.conv_block import HE_NORMAL_FAN_OUT


def _conv(layers, filters, kernel_size, *, name):
    return layers.conv(
        filters,
        kernel_size,
        use_bias=False,
        kernel_initializer=HE_NORMAL_FAN_OUT.clone(),
        name=name,
    )


class DenseLayer(Block):
    """[x, F(x)]; F is a 1x1 and a 3x3 convolution, each after a norm and ReLU."""

    def __init__(self, growth_rate, bottleneck_factor, layers, **kwargs):
        super().__init__(**kwargs)
        self.norm1 = layers.norm(name="norm1")
        self.act1 = layers.activation("relu", name="act1")
        self.conv1 = _conv(layers, bottleneck_factor * growth_rate, 1, name="conv1")
        self.norm2 = layers.norm(name="norm2")
        self.act2 = layers.activation("relu", name="act2")
        self.conv2 = _conv(layers, growth_rate, 3, name="conv2")
        self.new = layers.junction(name="new")
        self.all = layers.junction(name="all")

    def call(self, inputs, point, training=None):
        x = point.call(self.act1, point.call(self.norm1, inputs))
        x = conv_norm(self.conv1, self.norm2, x, point, training)
        x = point.call(self.conv2, point.call(self.act2, x))
        x = ops.concatenate([inputs, point.call(self.new, x)], axis=-1)
        return point.call(self.all, x)


class Transition(Block):
    """Normalization, ReLU, 1x1 convolution and 2x2 average pooling."""

    def __init__(self, filters, layers, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.norm(name="norm")
        self.act = layers.activation("relu", name="act")
        self.conv = _conv(layers, filters, 1, name="conv")
        self.out = layers.junction(name="out")
        self.pool = keras.layers.AveragePooling2D(2)

    def call(self, inputs, point, training=None):
        x = point.call(self.act, point.call(self.norm, inputs))
        return self.pool(point.call(self.out, point.call(self.conv, x)))


@keras.saving.register_keras_serializable("keras_resadapt")
class DenseNet(Backbone):
    """DenseNet-BC without the classifier.

    Each stage after the stem is a dense block. Its transition comes first, so that
    all stages but the first start by halving height and width, as in other backbones.
    The last stage ends with a normalization and a ReLU.

    Args:
        depths: Number of layers of each dense block. (6, 12, 24, 16) is DenseNet-121
            (table 1 of its paper).
        growth_rate: Channels that a layer adds, k in the paper.
        bottleneck_factor: Channels of the 1x1 convolutions, divided by `growth_rate`.
        compression: Share of the channels that a transition keeps, theta in the
            paper.
        stem: As for `ResNet`, with `2 * growth_rate` channels.
        layers: The constructors of its layers.

    Call arguments:
        inputs: Float tensor of shape (batch, height, width, 3).
        point: The operating point.

    Reference:
        Densely Connected Convolutional Networks
        (https://arxiv.org/abs/1608.06993).
    """

    non_negative = False
    normalizes_first = True

    def __init__(
        self,
        depths: Sequence[int] = (6, 12, 24, 16),
        growth_rate: int = 32,
        bottleneck_factor: int = 4,
        compression: float = 0.5,
        stem: str = "imagenet",
        layers: LayerSet = LayerSet(),
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not depths or min(depths) < 1:
            raise ValueError(
                "`depths` must have one positive entry per dense block. "
                f"Received: depths={depths}"
            )
        for name, value in (
            ("growth_rate", growth_rate),
            ("bottleneck_factor", bottleneck_factor),
        ):
            if not hasattr(value, "__index__") or value < 1:
                raise ValueError(
                    f"`{name}` must be a positive integer. Received: {name}={value!r}"
                )
        if not 0 < compression <= 1:
            raise ValueError(
                f"`compression` must be in (0, 1]. Received: compression={compression}"
            )
        check_stem(stem)
        self.depths = tuple(depths)
        self.growth_rate = growth_rate
        self.bottleneck_factor = bottleneck_factor
        self.compression = compression
        self.stem = stem

        channels = 2 * growth_rate
        stages = [[Stem(channels, stem, layers.first(), name="stem")]]
        for i, depth in enumerate(depths):
            stage = []
            if i > 0:
                channels = int(channels * compression)
                stage.append(Transition(channels, layers, name=f"transition{i}"))
            for j in range(depth):
                stage.append(
                    DenseLayer(
                        growth_rate,
                        bottleneck_factor,
                        layers,
                        name=f"block{i + 1}_{j}",
                    )
                )
            channels += depth * growth_rate
            stages.append(stage)
        stages[-1].append(Head(layers, name="head"))
        # Keras does not track what is added to a list of lists later.
        self.stages = stages
        first_stride = 4 if stem == "imagenet" else 1
        strides = [first_stride * 2**i for i in range(len(depths))]
        self.stage_strides = [first_stride, *strides]

    def get_config(self):
        return {
            **super().get_config(),
            "depths": self.depths,
            "growth_rate": self.growth_rate,
            "bottleneck_factor": self.bottleneck_factor,
            "compression": self.compression,
            "stem": self.stem,
        }
