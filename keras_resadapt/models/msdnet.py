"""MSDNet: multi-scale dense networks (Huang et al., ICLR 2018)."""

import math
from collections.abc import Sequence

import keras

from keras_resadapt.layers import Preprocessing
from keras_resadapt.layers.base_features import BaseFeatures
from keras_resadapt.layers.conv_block import ConvBlock
from keras_resadapt.layers.exit_classifier import UNIFORM_FAN_IN, ExitClassifier
from keras_resadapt.layers.multi_scale_layer import MultiScaleLayer
from keras_resadapt.models.cascade import Cascade
from keras_resadapt.models.multi_scale import check_multi_scale, check_size
from keras_resadapt.models.weights import load_weights_file


@keras.saving.register_keras_serializable("keras_resadapt")
class MSDNet(Cascade):
    """A multi-scale dense network, the baseline of RANet.

    All layers compute features at several scales, and classifiers take the coarsest
    features. Twice, a transition drops the finest scale and compresses the channels.
    A static exit is evaluated lazily: the last layers before it compute only the
    scales that its classifier needs.

    Args:
        num_classes: Number of classes.
        num_blocks: Number of blocks; each ends with an exit.
        base: Number of layers of the first block.
        step: Number of layers of the other blocks; see `step_mode`.
        step_mode: `"even"`: `step` layers each; `"lin_grow"`: `i step + 1`
            layers in block i, from 0.
        channels: Channels of a base feature, divided by its growth factor.
        growth_rate: Channels that a layer adds, divided by its growth factor.
        growth_factors: One factor per scale, the finest first.
        bottleneck_factors: One factor per scale: channels of the 1x1 convolutions,
            relative to those of the 3x3 convolutions.
        reduction: Share of the channels that a transition keeps, in (0, 1].
        stem: `"cifar"` for small images, `"imagenet"` for large ones.
        preprocessing: See `layers.Preprocessing`.
        resolution: Height and width in pixels of the images that it is made for; by
            default 32 for the CIFAR stem and 224 for the ImageNet stem. The network
            runs on images of other sizes too.
        **kwargs: `gradient_equilibrium`, `distillation_weight` and
            `temperature` of `Cascade`.

    Reference:
        Multi-Scale Dense Networks for Resource Efficient Image Classification
        (https://arxiv.org/abs/1703.09844).
    """

    def __init__(
        self,
        num_classes: int = 10,
        num_blocks: int = 7,
        base: int = 4,
        step: int = 2,
        step_mode: str = "even",
        channels: int = 16,
        growth_rate: int = 6,
        growth_factors: Sequence[int] = (1, 2, 4),
        bottleneck_factors: Sequence[int] = (1, 2, 4),
        reduction: float = 0.5,
        stem: str = "cifar",
        preprocessing: str | None = "cifar10",
        resolution: int | None = None,
        **kwargs,
    ):
        super().__init__(num_classes, **kwargs)
        check_multi_scale(
            num_blocks=num_blocks,
            base=base,
            step=step,
            channels=channels,
            growth_rate=growth_rate,
            growth_factors=growth_factors,
            bottleneck_factors=bottleneck_factors,
            reduction=reduction,
        )
        if step_mode not in ("even", "lin_grow"):
            raise ValueError(
                "`step_mode` must be 'even' or 'lin_grow'. "
                f"Received: step_mode={step_mode!r}"
            )
        if any(growth_rate * factor % 2 for factor in growth_factors[1:]):
            raise ValueError(
                "`growth_rate` times every growth factor but the first must "
                f"be even. Received: growth_rate={growth_rate}, "
                f"growth_factors={tuple(growth_factors)}"
            )
        self.num_blocks = self.num_exits = num_blocks
        self.base = base
        self.step = step
        self.step_mode = step_mode
        self.channels = channels
        self.growth_rate = growth_rate
        self.growth_factors = tuple(growth_factors)
        self.bottleneck_factors = tuple(bottleneck_factors)
        self.reduction = reduction
        self.stem = stem
        self.resolution = resolution or (32 if stem == "cifar" else 224)

        # === Layers ===
        layers = self.layer_set()
        self.preprocessing = Preprocessing(preprocessing, name="preprocessing")
        self.base_features = BaseFeatures(
            [channels * factor for factor in self.growth_factors],
            [2] * (len(self.growth_factors) - 1),
            stem,
            layers,
            name="base_features",
        )
        # One list of layers per block. A transition is a list of `ConvBlock`s, one
        # per scale.
        self.blocks = []
        self.classifiers = []
        width = channels
        for num_layers in self._depths():
            block, width = self._block(num_layers, width, layers)
            self.blocks.append(block)
            in_channels = width * self.growth_factors[-1]
            filters = 128 if stem == "cifar" else in_channels
            limit = filters**-0.5
            self.classifiers.append(
                ExitClassifier(
                    filters,
                    num_classes,
                    layers,
                    UNIFORM_FAN_IN,
                    keras.initializers.RandomUniform(-limit, limit),
                    name=f"classifier{len(self.classifiers)}",
                )
            )
        self.build_from_point()

    def _depths(self) -> list[int]:
        """Returns the number of layers of each block."""
        if self.step_mode == "even":
            rest = [self.step] * (self.num_blocks - 1)
        else:
            rest = [self.step * i + 1 for i in range(1, self.num_blocks)]
        return [self.base, *rest]

    def _num_scales(self, layer: int) -> int:
        """Returns the number of scales after a layer, 0 for the base features."""
        interval = math.ceil(sum(self._depths()) / len(self.growth_factors))
        return len(self.growth_factors) - max(0, layer - 1) // interval

    def _block(self, num_layers, width, layers):
        """Returns the layers of the next block, and the width after them."""
        first = sum(
            isinstance(layer, MultiScaleLayer)
            for block in self.blocks
            for layer in block
        )
        block = []
        for i in range(first + 1, first + num_layers + 1):
            before, after = self._num_scales(i - 1), self._num_scales(i)
            name = f"block{len(self.blocks)}_layer{i - first - 1}"
            factors = self.growth_factors[-after:]
            block.append(
                MultiScaleLayer(
                    [width * f for f in self.growth_factors[-before:]],
                    [self.growth_rate * f for f in factors],
                    self.bottleneck_factors[-before:],
                    layers,
                    name=name,
                )
            )
            width += self.growth_rate
            if after < before:
                width = math.floor(width * self.reduction)
                block.append(
                    [
                        ConvBlock(
                            width * factor,
                            1,
                            1,
                            layers,
                            kernel_initializer=UNIFORM_FAN_IN,
                            name=f"{name}_transition{j}",
                        )
                        for j, factor in enumerate(factors)
                    ]
                )
        return block, width

    # === Forward ===

    def check_images(self, images) -> None:
        super().check_images(images)
        halvings = len(self.growth_factors) - 1
        check_size(images.shape[1:3], halvings + (2 if self.stem == "imagenet" else 0))

    def begin(self, images, point, training=None):
        return self.base_features(
            self.preprocessing(images), point=point, training=training
        )

    def extend(self, features, exit, point, training=None):
        # Lazy evaluation: i layers before the exit's, its classifier needs
        # only the i + 1 coarsest scales.
        needed = None
        if point.exit is not None:
            needed = sum(self._depths()[exit : point.exit + 1])
        for layer in self.blocks[exit]:
            if isinstance(layer, MultiScaleLayer):
                features = layer(
                    features,
                    point=point,
                    num_scales=needed,
                    training=training,
                )
                needed = needed and needed - 1
            else:
                features = [
                    conv(x, point=point, training=training)
                    for conv, x in zip(layer[-len(features) :], features)
                ]
        return features

    def exit_features(self, features, exit):
        return features[-1]

    def classify(self, features, exit, point, training=None):
        return self.classifiers[exit](features[-1], point=point, training=training)

    # === Config ===

    def get_config(self):
        return {
            **super().get_config(),
            "num_blocks": self.num_blocks,
            "base": self.base,
            "step": self.step,
            "step_mode": self.step_mode,
            "channels": self.channels,
            "growth_rate": self.growth_rate,
            "growth_factors": self.growth_factors,
            "bottleneck_factors": self.bottleneck_factors,
            "reduction": self.reduction,
            "stem": self.stem,
            "preprocessing": self.preprocessing.mode,
            "resolution": self.resolution,
        }


def MSDNetCIFAR(
    num_classes: int = 10,
    weights: str | None = None,
    name: str = "msdnet_cifar",
    **kwargs,
) -> MSDNet:
    """Returns the authors' CIFAR network for anytime prediction, with 7 exits.

    Args:
        num_classes: Number of classes.
        weights: `None` for random weights, or the path of a `.weights.h5` file of a
            model with the same arguments.
        **kwargs: Further arguments of `MSDNet`.
    """
    model = MSDNet(num_classes, name=name, **kwargs)
    return load_weights_file(model, weights)


def MSDNetCIFARGrowing(
    num_classes: int = 10,
    weights: str | None = None,
    name: str = "msdnet_cifar_growing",
    **kwargs,
) -> MSDNet:
    """Returns the authors' CIFAR network for budgeted batches, with 5 exits.

    Args:
        num_classes: Number of classes.
        weights: `None` for random weights, or the path of a `.weights.h5` file of a
            model with the same arguments.
        **kwargs: Further arguments of `MSDNet`.
    """
    defaults = dict(
        num_blocks=5,
        base=1,
        step=1,
        step_mode="lin_grow",
    )
    model = MSDNet(num_classes, name=name, **{**defaults, **kwargs})
    return load_weights_file(model, weights)


def MSDNetImageNet(
    num_classes: int = 1000,
    weights: str | None = None,
    name: str = "msdnet_imagenet",
    **kwargs,
) -> MSDNet:
    """Returns the authors' ImageNet network, with 5 exits.

    Args:
        num_classes: Number of classes.
        weights: `None` for random weights, or the path of a `.weights.h5` file of a
            model with the same arguments.
        **kwargs: Further arguments of `MSDNet`.
    """
    defaults = dict(
        num_blocks=5,
        step=4,
        channels=32,
        growth_rate=16,
        growth_factors=(1, 2, 4, 4),
        bottleneck_factors=(1, 2, 4, 4),
        stem="imagenet",
        preprocessing="imagenet",
    )
    model = MSDNet(num_classes, name=name, **{**defaults, **kwargs})
    return load_weights_file(model, weights)
