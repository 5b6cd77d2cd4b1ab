"""ResNet (He et al., 2015 and 2016), with the stride on the 3x3 convolution."""

from collections.abc import Sequence

import keras

from keras_resadapt.backbones.backbone import Backbone, check_stages, check_stem
from keras_resadapt.layers import Block, LayerSet, PaddedMaxPooling2D, conv_norm
from keras_resadapt.layers.conv_block import HE_NORMAL_FAN_OUT


def _conv(layers, filters, kernel_size, strides=1, ratio=1.0, *, name):
    return layers.scaled_conv(
        filters,
        kernel_size,
        ratio=ratio,
        strides=strides,
        use_bias=False,
        kernel_initializer=HE_NORMAL_FAN_OUT.clone(),
        name=name,
    )


class Stem(Block):
    """The first convolution, followed by a pooling for large images."""

    def __init__(self, filters, kind, layers, ratio=1.0, **kwargs):
        super().__init__(**kwargs)
        large = kind == "imagenet"
        self.conv1 = _conv(
            layers,
            filters,
            7 if large else 3,
            2 if large else 1,
            ratio,
            name="conv1",
        )
        self.bn1 = layers.norm(name="bn1")
        self.act1 = layers.activation("relu", name="act1")
        self.pool = PaddedMaxPooling2D() if large else None

    def call(self, inputs, point, training=None):
        x = conv_norm(self.conv1, self.bn1, inputs, point, training)
        x = point.call(self.act1, x)
        if self.pool is not None:
            x = point.call(self.pool, x)
        return x


class ResidualBlock(Block):
    """y = relu(F(x) + shortcut(x)).

    F has two 3x3 convolutions, or a 1x1, a 3x3 and a 1x1 convolution.
    """

    def __init__(
        self, filters, stride, project, bottleneck, zero_init, layers, **kwargs
    ):
        super().__init__(**kwargs)
        shapes = _shapes(filters, stride, bottleneck)
        self.convs = _convs(layers, shapes)
        self.bns = [layers.norm(name=f"bn{i}") for i in range(1, len(shapes))] + [
            layers.norm(
                name=f"bn{len(shapes)}",
                gamma_initializer="zeros" if zero_init else "ones",
            )
        ]
        self.acts = [
            layers.activation("relu", name=f"act{i}") for i in range(1, len(shapes))
        ]
        self.residual = layers.junction(name="residual")
        self.shortcut = self.shortcut_bn = self.projection = None
        if project:
            self.shortcut = _conv(layers, shapes[-1][0], 1, stride, name="shortcut")
            self.shortcut_bn = layers.norm(name="shortcut_bn")
            self.projection = layers.junction(name="projection")
        self.out = layers.activation("relu", name="out")

    def call(self, inputs, point, training=None):
        x = inputs
        for conv, bn, act in zip(self.convs, self.bns, self.acts):
            x = point.call(act, conv_norm(conv, bn, x, point, training))
        x = conv_norm(self.convs[-1], self.bns[-1], x, point, training)
        shortcut = inputs
        if self.shortcut is not None:
            shortcut = conv_norm(
                self.shortcut, self.shortcut_bn, inputs, point, training
            )
            shortcut = point.call(self.projection, shortcut)
        x = point.call(self.residual, x)
        return point.call(self.out, x + shortcut)


class PreActivationBlock(Block):
    """y = F(a) + shortcut, with a = relu(norm(x)).

    F is that of a `ResidualBlock`, with normalization and ReLU between the
    convolutions. The shortcut is x, or a 1x1 convolution of a (He et al., Identity
    Mappings in Deep Residual Networks, ECCV 2016, figure 4e).
    """

    def __init__(self, filters, stride, project, bottleneck, layers, **kwargs):
        super().__init__(**kwargs)
        shapes = _shapes(filters, stride, bottleneck)
        self.convs = _convs(layers, shapes)
        self.bns = [layers.norm(name=f"bn{i}") for i in range(len(shapes))]
        self.acts = [
            layers.activation("relu", name=f"act{i}") for i in range(len(shapes))
        ]
        self.residual = layers.junction(name="residual")
        self.shortcut = self.projection = None
        if project:
            self.shortcut = _conv(layers, shapes[-1][0], 1, stride, name="shortcut")
            self.projection = layers.junction(name="projection")
        self.out = layers.junction(name="out")

    def call(self, inputs, point, training=None):
        activated = point.call(self.acts[0], point.call(self.bns[0], inputs))
        x = activated
        for conv, bn, act in zip(self.convs, self.bns[1:], self.acts[1:]):
            x = point.call(act, conv_norm(conv, bn, x, point, training))
        x = point.call(self.residual, point.call(self.convs[-1], x))
        shortcut = inputs
        if self.shortcut is not None:
            shortcut = point.call(self.shortcut, activated)
            shortcut = point.call(self.projection, shortcut)
        return point.call(self.out, x + shortcut)


class Head(Block):
    """`relu(norm(x))`, the end of a network with pre-activation."""

    def __init__(self, layers, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.norm(name="norm")
        self.act = layers.activation("relu", name="act")

    def call(self, inputs, point, training=None):
        return point.call(self.act, point.call(self.norm, inputs))


def _shapes(filters, stride, bottleneck):
    """Returns filters, kernel size, stride and ratio of a block's convolutions."""
    if bottleneck:
        # In a slimmable network, the inner convolutions keep a quarter of the
        # channels of the outer ones.
        return [
            (filters, 1, 1, 1 / 4),
            (filters, 3, stride, 1 / 4),
            (4 * filters, 1, 1),
        ]
    return [(filters, 3, stride), (filters, 3, 1)]


def _convs(layers, shapes):
    return [_conv(layers, *shape, name=f"conv{i}") for i, shape in enumerate(shapes, 1)]


@keras.saving.register_keras_serializable("keras_resadapt")
class ResNet(Backbone):
    """ResNet as torchvision defines it, without the classifier.

    Args:
        depths: Number of residual blocks of each stage. (2, 2, 2, 2) with basic
            blocks is ResNet-18, (3, 4, 6, 3) with bottlenecks is ResNet-50.
        filters: Channels of each stage; a bottleneck's output has four times as
            many. Every stage but the first halves height and width.
        bottleneck: Whether blocks have a 1x1, a 3x3 and a 1x1 convolution instead of
            two 3x3 convolutions.
        stem: `"imagenet"` is a 7x7 convolution and a max pooling, both of stride 2;
            `"small"` is a 3x3 convolution of stride 1, for images of 32 or 64 pixels.
        zero_init_residual: Whether the scale of each block's last
            BatchNormalization starts at zero.
        pre_activation: Whether normalization and ReLU come before each convolution
            instead of after it, and once more at the end.
        layers: The constructors of its layers.

    Call arguments:
        inputs: Float tensor of shape (batch, height, width, 3).
        point: The operating point.
    """

    def __init__(
        self,
        depths: Sequence[int] = (2, 2, 2, 2),
        filters: Sequence[int] = (64, 128, 256, 512),
        bottleneck: bool = False,
        stem: str = "imagenet",
        zero_init_residual: bool = False,
        pre_activation: bool = False,
        layers: LayerSet = LayerSet(),
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_stages(depths, filters=filters)
        check_stem(stem)
        if zero_init_residual and pre_activation:
            raise ValueError(
                "With `pre_activation=True`, blocks do not end with a "
                "normalization. Received: zero_init_residual=True"
            )
        self.depths = tuple(depths)
        self.filters = tuple(filters)
        self.bottleneck = bottleneck
        self.stem = stem
        self.zero_init_residual = zero_init_residual
        self.pre_activation = pre_activation
        self.non_negative = not pre_activation
        self.normalizes_first = pre_activation

        channels = filters[0]
        ratio = 1 / 4 if bottleneck else 1
        first = Stem(channels, stem, layers.first(), ratio, name="stem")
        self.stages = [[first]]
        for i, (depth, width) in enumerate(zip(depths, filters)):
            stage = []
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                out_channels = 4 * width if bottleneck else width
                project = stride > 1 or channels != out_channels
                args = (width, stride, project, bottleneck)
                name = f"layer{i + 1}_{j}"
                if pre_activation:
                    block = PreActivationBlock(*args, layers, name=name)
                else:
                    block = ResidualBlock(*args, zero_init_residual, layers, name=name)
                stage.append(block)
                channels = out_channels
            if pre_activation and i == len(depths) - 1:
                stage.append(Head(layers, name="head"))
            self.stages.append(stage)
        first_stride = 4 if stem == "imagenet" else 1
        strides = [first_stride * 2**i for i in range(len(depths))]
        self.stage_strides = [first_stride, *strides]

    def get_config(self):
        return {
            **super().get_config(),
            "depths": self.depths,
            "filters": self.filters,
            "bottleneck": self.bottleneck,
            "stem": self.stem,
            "zero_init_residual": self.zero_init_residual,
            "pre_activation": self.pre_activation,
        }
