"""MobileNetV2 (Sandler et al., 2018)."""

from collections.abc import Sequence

import keras

from keras_resadapt.backbones.backbone import Backbone, check_stages, check_stem
from keras_resadapt.layers import Block, LayerSet, conv_norm, make_divisible
from keras_resadapt.layers.conv_block import HE_NORMAL_FAN_OUT, ConvBlock


def _conv(layers, filters, ratio=1.0, *, name):
    return layers.scaled_conv(
        filters,
        1,
        ratio=ratio,
        use_bias=False,
        kernel_initializer=HE_NORMAL_FAN_OUT.clone(),
        name=name,
    )


class InvertedResidual(Block):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection, and a shortcut
    where input and output have the same shape."""

    def __init__(self, in_channels, out_channels, stride, expansion, layers, **kwargs):
        super().__init__(**kwargs)
        self.residual = stride == 1 and in_channels == out_channels
        self.expand = self.expand_bn = None
        if expansion > 1:
            self.expand = _conv(
                layers, in_channels * expansion, expansion, name="expand"
            )
            self.expand_bn = layers.norm(name="expand_bn")
            self.expand_act = layers.activation("relu6", name="expand_act")
        self.depthwise = layers.depthwise(
            3,
            strides=stride,
            use_bias=False,
            # Fan-in of a depthwise kernel here is fan-out in the paper's code.
            depthwise_initializer=keras.initializers.VarianceScaling(
                2.0, mode="fan_in", distribution="untruncated_normal"
            ),
            name="depthwise",
        )
        self.depthwise_bn = layers.norm(name="depthwise_bn")
        self.depthwise_act = layers.activation("relu6", name="depthwise_act")
        self.project = _conv(layers, out_channels, name="project")
        self.project_bn = layers.norm(name="project_bn")
        if self.residual:
            self.summand = layers.junction(name="summand")
        self.out = layers.activation(None, name="out")

    def call(self, inputs, point, training=None):
        x = inputs
        if self.expand is not None:
            x = conv_norm(self.expand, self.expand_bn, x, point, training)
            x = point.call(self.expand_act, x)
        x = conv_norm(self.depthwise, self.depthwise_bn, x, point, training)
        x = point.call(self.depthwise_act, x)
        x = conv_norm(self.project, self.project_bn, x, point, training)
        if self.residual:
            x = inputs + point.call(self.summand, x)
        return point.call(self.out, x)


@keras.saving.register_keras_serializable("keras_resadapt")
class MobileNetV2(Backbone):
    """MobileNetV2 without the classifier.

    Args:
        depths: Number of blocks of each stage (table 2 of its paper).
        filters: Output channels of each stage's blocks, before `alpha`.
        strides: Stride of each stage's first block.
        expansions: Expansion factor of each stage's blocks.
        alpha: Width multiplier; channels are rounded to multiples of 8.
        stem: `"imagenet"` has a first convolution of stride 2, `"small"` of stride 1,
            for images of 32 or 64 pixels.
        head_width: Width multiplier of the last convolution; by default `alpha`, but
            at least 1, as in the paper.
        layers: The constructors of its layers.

    Call arguments:
        inputs: Float tensor of shape (batch, height, width, 3).
        point: The operating point.
    """

    non_negative = False

    def __init__(
        self,
        depths: Sequence[int] = (1, 2, 3, 4, 3, 3, 1),
        filters: Sequence[int] = (16, 24, 32, 64, 96, 160, 320),
        strides: Sequence[int] = (1, 2, 2, 2, 1, 2, 1),
        expansions: Sequence[int] = (1, 6, 6, 6, 6, 6, 6),
        alpha: float = 1.0,
        stem: str = "imagenet",
        head_width: float | None = None,
        layers: LayerSet = LayerSet(),
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_stages(depths, filters=filters, strides=strides, expansions=expansions)
        if not alpha > 0:
            raise ValueError(f"`alpha` must be positive. Received: alpha={alpha}")
        check_stem(stem)
        self.depths = tuple(depths)
        self.filters = tuple(filters)
        self.strides = tuple(strides)
        self.expansions = tuple(expansions)
        self.alpha = alpha
        self.stem = stem
        self.head_width = max(alpha, 1.0) if head_width is None else head_width

        channels = make_divisible(32 * alpha)
        stem_stride = 2 if stem == "imagenet" else 1
        stem_block = ConvBlock(
            channels, 3, stem_stride, layers.first(), "relu6", name="stem"
        )
        self.stages = [[stem_block]]
        self.stage_strides = [stem_stride]
        for i, (depth, width, stride, expansion) in enumerate(
            zip(depths, filters, strides, expansions), 1
        ):
            self.stage_strides.append(self.stage_strides[-1] * stride)
            stage = []
            for j in range(depth):
                out_channels = make_divisible(width * alpha)
                stage.append(
                    InvertedResidual(
                        channels,
                        out_channels,
                        stride if j == 0 else 1,
                        expansion,
                        layers,
                        name=f"stage{i}_{j}",
                    )
                )
                channels = out_channels
            self.stages.append(stage)
        head = ConvBlock(
            make_divisible(1280 * self.head_width),
            1,
            1,
            layers,
            "relu6",
            ratio=None,
            name="head",
        )
        self.stages.append([head])
        self.stage_strides.append(self.stride)

    def get_config(self):
        return {
            **super().get_config(),
            "depths": self.depths,
            "filters": self.filters,
            "strides": self.strides,
            "expansions": self.expansions,
            "alpha": self.alpha,
            "stem": self.stem,
            "head_width": self.head_width,
        }
