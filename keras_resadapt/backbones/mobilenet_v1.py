"""MobileNet (Howard et al., 2017)."""

from collections.abc import Sequence

import keras

from keras_resadapt.backbones.backbone import Backbone, check_stages, check_stem
from keras_resadapt.layers import Block, LayerSet, conv_norm, make_divisible
from keras_resadapt.layers.conv_block import HE_NORMAL_FAN_OUT, ConvBlock


class SeparableBlock(Block):
    """A 3x3 depthwise and a 1x1 convolution, each with normalization and ReLU."""

    def __init__(self, filters, stride, activation, layers, **kwargs):
        super().__init__(**kwargs)
        self.depthwise = layers.depthwise(
            3,
            strides=stride,
            use_bias=False,
            depthwise_initializer=HE_NORMAL_FAN_OUT.clone(),
            name="depthwise",
        )
        self.depthwise_bn = layers.norm(name="depthwise_bn")
        self.depthwise_act = layers.activation(activation, name="depthwise_act")
        self.pointwise = ConvBlock(filters, 1, 1, layers, activation, name="pointwise")

    def call(self, inputs, point, training=None):
        x = conv_norm(self.depthwise, self.depthwise_bn, inputs, point, training)
        return self.pointwise(point.call(self.depthwise_act, x), point=point)


@keras.saving.register_keras_serializable("keras_resadapt")
class MobileNetV1(Backbone):
    """MobileNet without the classifier.

    Args:
        depths: Number of blocks of each stage (table 1 of its paper). Every stage but
            the first halves height and width.
        filters: Output channels of each stage's blocks, before `alpha`. The stem has
            half as many as the first stage.
        alpha: Width multiplier; channels are rounded to multiples of 8.
        stem: `"imagenet"` has a first convolution of stride 2, `"small"` of stride 1,
            for images of 32 or 64 pixels.
        activation: `"relu"` as in its paper, or `"relu6"` as in most implementations.
        layers: The constructors of its layers.

    Call arguments:
        inputs: Float tensor of shape (batch, height, width, 3).
        point: The operating point.

    Reference:
        MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
        Applications (https://arxiv.org/abs/1704.04861).
    """

    def __init__(
        self,
        depths: Sequence[int] = (1, 2, 2, 6, 2),
        filters: Sequence[int] = (64, 128, 256, 512, 1024),
        alpha: float = 1.0,
        stem: str = "imagenet",
        activation: str = "relu",
        layers: LayerSet = LayerSet(),
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_stages(depths, filters=filters)
        if not alpha > 0:
            raise ValueError(f"`alpha` must be positive. Received: alpha={alpha}")
        check_stem(stem)
        self.depths = tuple(depths)
        self.filters = tuple(filters)
        self.alpha = alpha
        self.stem = stem
        self.activation = activation

        stride = 2 if stem == "imagenet" else 1
        stem_block = ConvBlock(
            make_divisible(filters[0] / 2 * alpha),
            3,
            stride,
            layers.first(),
            activation,
            name="stem",
        )
        self.stages = [[stem_block]]
        self.stage_strides = [stride]
        for i, (depth, width) in enumerate(zip(depths, filters)):
            stage_stride = 1 if i == 0 else 2
            stride *= stage_stride
            self.stage_strides.append(stride)
            self.stages.append(
                [
                    SeparableBlock(
                        make_divisible(width * alpha),
                        stage_stride if j == 0 else 1,
                        activation,
                        layers,
                        name=f"stage{i + 1}_{j}",
                    )
                    for j in range(depth)
                ]
            )

    def get_config(self):
        return {
            **super().get_config(),
            "depths": self.depths,
            "filters": self.filters,
            "alpha": self.alpha,
            "stem": self.stem,
            "activation": self.activation,
        }
