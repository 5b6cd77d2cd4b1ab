"""Decoders of semantic segmentation: RefineNet and Light-Weight RefineNet."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_resadapt.layers.block import Block, LayerSet
from keras_resadapt.layers.resize import resize_to_corners, spatial_size

# The published standard deviation of 0.01 belongs to 3x3 convolutions of 256 channels.
# Other convolutions start with the same scale of their outputs.
_SMALL_NORMAL = keras.initializers.VarianceScaling(
    0.01**2 * 3 * 3 * 256, mode="fan_in", distribution="untruncated_normal"
)

# Levels of the pyramid that a decoder refines, from the coarsest
_MOST_LEVELS = 4

# Convolutions of a chained residual pooling
_POOLINGS = 4


class ResidualUnit(Block):
    """`x + conv2(relu(conv1(relu(x))))`, two 3x3 convolutions, the first with a bias.

    Args:
        channels: Number of channels.
        layers: The layers that it is made of.
    """

    def __init__(self, channels: int, layers: LayerSet, **kwargs):
        super().__init__(**kwargs)
        self.act1 = layers.activation("relu", name="act1")
        self.conv1 = _conv(layers, channels, 3, use_bias=True, name="conv1")
        self.act2 = layers.activation("relu", name="act2")
        self.conv2 = _conv(layers, channels, 3, name="conv2")
        self.residual = layers.junction(name="residual")
        self.out = layers.junction(name="out")

    def call(self, inputs, point, training=None):
        x = point.call(self.conv1, point.call(self.act1, inputs))
        x = point.call(self.conv2, point.call(self.act2, x))
        return point.call(self.out, inputs + point.call(self.residual, x))


class ChainedPooling(Block):
    """Chained residual pooling: each step pools the previous one and adds to the sum.

    `t = conv(max_pooling(t))` four times, starting from the inputs. The output is
    the sum of the inputs and all `t`. The pooling is 5x5 with a stride of 1.

    Args:
        channels: Number of channels.
        kernel_size: Of the convolutions.
        layers: The layers that it is made of.
    """

    def __init__(self, channels: int, kernel_size: int, layers: LayerSet, **kwargs):
        super().__init__(**kwargs)
        self.pool = keras.layers.MaxPooling2D(5, 1, padding="same", name="pool")
        steps = range(1, _POOLINGS + 1)
        self.convs = [
            _conv(layers, channels, kernel_size, name=f"conv{i}") for i in steps
        ]
        self.residuals = [layers.junction(name=f"residual{i}") for i in steps]
        self.sums = [layers.junction(name=f"sum{i}") for i in steps]

    def call(self, inputs, point, training=None):
        total = step = inputs
        for conv, residual, out in zip(self.convs, self.residuals, self.sums):
            step = point.call(conv, point.call(self.pool, step))
            step = point.call(residual, step)
            total = point.call(out, total + step)
        return total


class Refinement(Block):
    """One level of a decoder, which fuses the level's features with coarser ones.

    Args:
        channels: Number of channels.
        out_channels: Number of channels that the next level takes; None for the
            finest level, which ends without a convolution.
        fuses: Whether it also takes the output of a coarser level.
        kernel_size: Of the convolutions outside the residual units.
        num_units: Number of residual units before the fusion and at the end.
        layers: The layers that it is made of.

    Call arguments:
        features: Features of the level.
        coarser: Output of the coarser level, or None.
        point: The operating point.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int | None,
        fuses: bool,
        kernel_size: int,
        num_units: tuple[int, int],
        layers: LayerSet,
        **kwargs,
    ):
        super().__init__(**kwargs)
        before, after = num_units
        self.reduce = _conv(layers, channels, kernel_size, name="reduce")
        self.reduced = layers.junction(name="reduced")
        self.units = _units(before, "unit", channels, layers)
        self.fuse = self.fused = None
        if fuses:
            self.fuse = _conv(layers, channels, kernel_size, name="fuse")
            self.fused = layers.junction(name="fused")
        self.act = layers.activation("relu", name="act")
        self.pooling = ChainedPooling(channels, kernel_size, layers, name="pooling")
        self.out_units = _units(after, "out_unit", channels, layers)
        self.out_conv = self.out = None
        if out_channels is not None:
            self.out_conv = _conv(layers, out_channels, kernel_size, name="out_conv")
            self.out = layers.junction(name="out")

    def call(self, features, coarser, point, training=None):
        x = point.call(self.reduced, point.call(self.reduce, features))
        for unit in self.units:
            x = unit(x, point=point)
        if self.fuse is not None:
            x = point.call(self.fused, point.call(self.fuse, x))
            x = x + resize_to_corners(coarser, spatial_size(x))
        x = self.pooling(point.call(self.act, x), point=point)
        for unit in self.out_units:
            x = unit(x, point=point)
        if self.out_conv is not None:
            x = point.call(self.out, point.call(self.out_conv, x))
        return x


class RefineNet(Block):
    """The decoder of RefineNet (Lin et al., 2017), of 3x3 convolutions.

    It refines the coarsest features with those of finer levels, up to four levels.
    No layer normalizes. With a ResNet, logits have a quarter of the images' height
    and width, rounded up.

    Args:
        num_classes: Number of classes.
        channels: Number of channels; the coarsest level has twice as many.
        dropout: Rate of the dropout of the two coarsest levels of the pyramid and
            before the classifier.
        layers: The layers that it is made of.
        num_levels: Number of levels of the pyramid.

    Call arguments:
        pyramid: Features by level, from fine to coarse, each of shape
            (batch, height, width, channels).
        point: The operating point.

    Returns:
        float32 logits of shape (batch, height, width, classes), with the height and
        width of the finest level that it takes.

    Reference:
        RefineNet: Multi-Path Refinement Networks for High-Resolution Semantic
        Segmentation (https://arxiv.org/abs/1611.06612), as DrSleep's port computes
        it.
    """

    kernel_size = 3
    num_units = (2, 3)
    drops_before_classifier = True

    def __init__(
        self,
        num_classes: int,
        channels: int = 256,
        dropout: float = 0.5,
        layers: LayerSet = LayerSet(),
        num_levels: int = _MOST_LEVELS,
        **kwargs,
    ):
        super().__init__(**kwargs)
        num_levels = min(num_levels, _MOST_LEVELS)
        self.dropout = keras.layers.Dropout(dropout, name="dropout")
        self.levels = [
            Refinement(
                channels if i else 2 * channels,
                channels if i < num_levels - 1 else None,
                i > 0,
                self.kernel_size,
                self.num_units,
                layers,
                name=f"level{i + 1}",
            )
            for i in range(num_levels)
        ]
        last = layers.last()
        self.classifier = last.scaled_conv(
            num_classes,
            3,
            ratio=None,
            use_bias=True,
            kernel_initializer=_SMALL_NORMAL.clone(),
            name="classifier",
        )
        self.logits = last.junction(name="logits")

    def call(self, pyramid: Mapping[str, Any], point, training=None):
        features = list(pyramid.values())[::-1][: len(self.levels)]
        x = None
        for i, (level, y) in enumerate(zip(self.levels, features, strict=True)):
            x = level(self.drop(y, point) if i < 2 else y, x, point=point)
        if self.drops_before_classifier:
            x = self.drop(x, point)
        x = point.call(self.logits, point.call(self.classifier, x))
        return ops.cast(x, "float32")  # for probabilities and losses

    def drop(self, x, point):
        """Returns features with dropout in training."""
        return point.call(self.dropout, x)


class LightWeightRefineNet(RefineNet):
    """The decoder of Light-Weight RefineNet (Nekrasov et al., 2018).

    A `RefineNet` whose convolutions are 1x1, except for the classifier, without
    residual units, and without dropout before the classifier. Arguments as for
    `RefineNet`.

    Reference:
        Light-Weight RefineNet for Real-Time Semantic Segmentation
        (https://arxiv.org/abs/1810.03272).
    """

    kernel_size = 1
    num_units = (0, 0)
    drops_before_classifier = False


def _conv(layers: LayerSet, filters: int, kernel_size: int, use_bias=False, *, name):
    return layers.scaled_conv(
        filters,
        kernel_size,
        ratio=1.0,
        use_bias=use_bias,
        kernel_initializer=_SMALL_NORMAL.clone(),
        name=name,
    )


def _units(count: int, name: str, channels: int, layers: LayerSet) -> Sequence[Block]:
    return [
        ResidualUnit(channels, layers, name=f"{name}{i}") for i in range(1, count + 1)
    ]
