"""RANet: sub-networks from coarse to fine (Yang et al., CVPR 2020)."""

from collections.abc import Sequence

import keras

from keras_resadapt.layers import Preprocessing
from keras_resadapt.layers.base_features import BaseFeatures
from keras_resadapt.layers.dense_block import DenseBlock
from keras_resadapt.layers.exit_classifier import ExitClassifier
from keras_resadapt.layers.fusion_block import FusionBlock
from keras_resadapt.models.cascade import Cascade
from keras_resadapt.models.multi_scale import check_multi_scale, check_size
from keras_resadapt.models.weights import load_weights_file


@keras.saving.register_keras_serializable("keras_resadapt")
class RANet(Cascade):
    """A resolution adaptive network.

    An initial layer computes one base feature for each of H sub-networks. The first
    sub-network takes the coarsest base feature: it is a DenseNet with a classifier
    after each block. Each further sub-network takes a finer base feature. Its first
    blocks fuse the features of the previous sub-network, and the remaining blocks are
    followed by classifiers. An image that is not classified with confidence goes on
    to the next block, and from the last block of a sub-network to the next
    sub-network.

    Args:
        num_classes: Number of classes.
        num_blocks: Blocks, and exits, of the first sub-network.
        block_step: Number of additional blocks, and exits, of each further
            sub-network.
        step: Number of layers of a block.
        step_mode: `"even"`: all blocks have `step` layers; `"lg"`: the i-th
            block (from 1) has i times as many.
        scale_list: The scale of each sub-network, 1 for the coarsest. Each next
            scale doubles the resolution.
        channels: Channels of a base feature, divided by its growth factor.
        growth_rate: Channels that a layer adds, divided by its growth factor.
        growth_factors: One factor per sub-network.
        bottleneck_factors: One factor per sub-network: channels of the 1x1
            convolutions, relative to those of the 3x3 convolutions.
        compress_factor: Share of the channels that come from the previous
            sub-network.
        reduction: Share of the channels that a transition keeps, in (0, 1].
        stem: `"cifar"` for small images, `"imagenet"` for large ones.
        preprocessing: See `layers.Preprocessing`.
        resolution: Height and width in pixels of the images that it is made for; by
            default 32 for the CIFAR stem and 224 for the ImageNet stem. The network
            runs on images of other sizes too.
        **kwargs: `gradient_equilibrium`, `distillation_weight` and
            `temperature` of `Cascade`.

    Reference:
        Resolution Adaptive Networks for Efficient Inference
        (https://arxiv.org/abs/2003.07326).
    """

    def __init__(
        self,
        num_classes: int = 10,
        num_blocks: int = 2,
        block_step: int = 2,
        step: int = 4,
        step_mode: str = "even",
        scale_list: Sequence[int] = (1, 2, 3),
        channels: int = 16,
        growth_rate: int = 6,
        growth_factors: Sequence[int] = (4, 2, 1),
        bottleneck_factors: Sequence[int] = (4, 2, 1),
        compress_factor: float = 0.25,
        reduction: float = 0.5,
        stem: str = "cifar",
        preprocessing: str | None = "cifar10",
        resolution: int | None = None,
        **kwargs,
    ):
        super().__init__(num_classes, **kwargs)
        check_multi_scale(
            num_blocks=num_blocks,
            block_step=block_step,
            step=step,
            channels=channels,
            growth_rate=growth_rate,
            growth_factors=growth_factors,
            bottleneck_factors=bottleneck_factors,
            reduction=reduction,
        )
        self.scale_list = tuple(scale_list)
        self._check_scales(growth_factors, num_blocks, block_step)
        if step_mode not in ("even", "lg"):
            raise ValueError(
                f"`step_mode` must be 'even' or 'lg'. Received: step_mode={step_mode!r}"
            )
        if not 0 < compress_factor < 1 or (
            min(growth_factors) * growth_rate * compress_factor < 1
        ):
            raise ValueError(
                "`compress_factor` must be in (0, 1) and leave at least one "
                "channel of every `growth_rate` times growth factor. "
                f"Received: compress_factor={compress_factor}, "
                f"growth_rate={growth_rate}, "
                f"growth_factors={tuple(growth_factors)}"
            )
        self.num_blocks = num_blocks
        self.block_step = block_step
        self.step = step
        self.step_mode = step_mode
        self.channels = channels
        self.growth_rate = growth_rate
        self.growth_factors = tuple(growth_factors)
        self.bottleneck_factors = tuple(bottleneck_factors)
        self.compress_factor = compress_factor
        self.reduction = reduction
        self.stem = stem
        self.resolution = resolution or (32 if stem == "cifar" else 224)

        # === Layers ===
        layers = self.layer_set()
        finest_first = self.scale_list[::-1]
        self.preprocessing = Preprocessing(preprocessing, name="preprocessing")
        self.base_features = BaseFeatures(
            [channels * factor for factor in self.growth_factors[::-1]],
            [
                1 if fine == coarse else 2
                for fine, coarse in zip(finest_first, finest_first[1:])
            ],
            stem,
            layers,
            name="base_features",
        )
        self.sub_networks = []
        self.classifiers = []
        low_channels = []
        for flow in range(len(self.scale_list)):
            blocks, low_channels, exit_channels = self._sub_network(
                flow, low_channels, layers
            )
            self.sub_networks.append(blocks)
            for in_channels in exit_channels:
                self.classifiers.append(
                    ExitClassifier(
                        128 if stem == "cifar" else in_channels,
                        num_classes,
                        layers,
                        name=f"classifier{len(self.classifiers)}",
                    )
                )
        self.num_exits = len(self.classifiers)
        # The indices of the sub-network and the block of each exit
        self._places = [
            (flow, block)
            for flow in range(len(self.scale_list))
            for block in range(self._depth(flow - 1), self._depth(flow))
        ]
        self.build_from_point()

    def _depth(self, flow: int) -> int:
        """Returns the number of blocks of a sub-network, 0 for index -1."""
        return self.num_blocks + flow * self.block_step if flow >= 0 else 0

    def _sub_network(self, flow, low_channels, layers):
        """Returns a sub-network's blocks, their channels and those of its exits."""
        depth, fused = self._depth(flow), self._depth(flow - 1)
        scale = self.scale_list[flow]
        transitions = [k * depth // scale for k in range(1, scale)]
        downsamplings = [self._depth(k) for k in range(flow - scale + 1, flow)]
        growth_rate = self.growth_rate * self.growth_factors[flow]
        channels = self.channels * self.growth_factors[flow]
        blocks, block_channels, exit_channels = [], [], []
        for i in range(1, depth + 1):
            num_layers = self.step * (i if self.step_mode == "lg" else 1)
            reduction = self.reduction if i in transitions else None
            block_channels.append(
                [channels + j * growth_rate for j in range(num_layers + 1)]
            )
            name = f"flow{flow}_block{i - 1}"
            if i <= fused:
                block = FusionBlock(
                    channels,
                    low_channels[i - 1],
                    growth_rate,
                    self.bottleneck_factors[flow],
                    self.bottleneck_factors[flow - 1],
                    self.compress_factor,
                    i in downsamplings,
                    reduction,
                    layers,
                    name=name,
                )
            else:
                block = DenseBlock(
                    channels,
                    num_layers,
                    growth_rate,
                    self.bottleneck_factors[flow],
                    reduction,
                    layers,
                    name=name,
                )
            channels = block.out_channels
            blocks.append(block)
            if i > fused:
                exit_channels.append(channels)
        return blocks, block_channels, exit_channels

    def _check_scales(self, growth_factors, num_blocks, block_step):
        scales = self.scale_list
        if (
            not scales
            or scales[0] != 1
            or any(b - a not in (0, 1) for a, b in zip(scales, scales[1:]))
        ):
            raise ValueError(
                "`scale_list` must start at 1 and increase by 0 or 1. "
                f"Received: scale_list={scales}"
            )
        if len(growth_factors) != len(scales):
            raise ValueError(
                "`scale_list`, `growth_factors` and `bottleneck_factors` must "
                "have one entry per sub-network. Received: "
                f"scale_list={scales}, growth_factors={tuple(growth_factors)}"
            )

    # === Forward ===

    def check_images(self, images) -> None:
        super().check_images(images)
        halvings = self.scale_list[-1] - 1 + (2 if self.stem == "imagenet" else 0)
        check_size(images.shape[1:3], halvings)

    def begin(self, images, point, training=None):
        bases = self.base_features(
            self.preprocessing(images), point=point, training=training
        )
        coarsest, *finer = bases[::-1]
        return {"x": coarsest, "bases": finer, "low": [], "outputs": []}

    def extend(self, features, exit, point, training=None):
        flow, last_block = self._places[exit]
        blocks = self.sub_networks[flow]
        x, bases = features["x"], features["bases"]
        low, outputs = features["low"], features["outputs"]
        first_block = last_block
        if flow > 0 and last_block == self._depth(flow - 1):
            # The first exit of a finer sub-network
            x, *bases = bases
            low, outputs, first_block = outputs, [], 0
        for i in range(first_block, last_block + 1):
            if i < self._depth(flow - 1):
                x, block_outputs = blocks[i](x, low[i], point=point, training=training)
            else:
                x, block_outputs = blocks[i](x, point=point, training=training)
            if bases:  # a finer sub-network will fuse them
                outputs = [*outputs, block_outputs]
        return {"x": x, "bases": bases, "low": [], "outputs": outputs}

    def exit_features(self, features, exit):
        return features["x"]

    def classify(self, features, exit, point, training=None):
        return self.classifiers[exit](features["x"], point=point, training=training)

    # === Config ===

    def get_config(self):
        return {
            **super().get_config(),
            "num_blocks": self.num_blocks,
            "block_step": self.block_step,
            "step": self.step,
            "step_mode": self.step_mode,
            "scale_list": self.scale_list,
            "channels": self.channels,
            "growth_rate": self.growth_rate,
            "growth_factors": self.growth_factors,
            "bottleneck_factors": self.bottleneck_factors,
            "compress_factor": self.compress_factor,
            "reduction": self.reduction,
            "stem": self.stem,
            "preprocessing": self.preprocessing.mode,
            "resolution": self.resolution,
        }


def RANetCIFAR(
    num_classes: int = 10,
    weights: str | None = None,
    name: str = "ranet_cifar",
    **kwargs,
) -> RANet:
    """Returns the authors' CIFAR network: 8 exits, 15.7M to 94.2M multiply-adds.

    Args:
        num_classes: Number of classes.
        weights: `None` for random weights, or the path of a `.weights.h5` file of a
            model with the same arguments.
        **kwargs: Further arguments of `RANet`.
    """
    defaults = dict(
        scale_list=(1, 2, 3, 3),
        growth_factors=(4, 2, 1, 1),
        bottleneck_factors=(4, 2, 1, 1),
    )
    model = RANet(num_classes, name=name, **{**defaults, **kwargs})
    return load_weights_file(model, weights)


def RANetCIFARGrowing(
    num_classes: int = 10,
    weights: str | None = None,
    name: str = "ranet_cifar_growing",
    **kwargs,
) -> RANet:
    """Returns the authors' second CIFAR network: 6 exits, with growing blocks.

    Args:
        num_classes: Number of classes.
        weights: `None` for random weights, or the path of a `.weights.h5` file of a
            model with the same arguments.
        **kwargs: Further arguments of `RANet`.
    """
    defaults = dict(step=2, step_mode="lg")
    model = RANet(num_classes, name=name, **{**defaults, **kwargs})
    return load_weights_file(model, weights)


def RANetImageNet(
    num_classes: int = 1000,
    weights: str | None = None,
    name: str = "ranet_imagenet",
    **kwargs,
) -> RANet:
    """Returns the authors' ImageNet network: 8 exits, 167M to 1,677M multiply-adds.

    Args:
        num_classes: Number of classes.
        weights: `None` for random weights, or the path of a `.weights.h5` file of a
            model with the same arguments.
        **kwargs: Further arguments of `RANet`.
    """
    defaults = dict(
        step=8,
        scale_list=(1, 2, 3, 4),
        growth_rate=16,
        growth_factors=(4, 2, 1, 1),
        bottleneck_factors=(4, 2, 1, 1),
        stem="imagenet",
        preprocessing="imagenet",
    )
    model = RANet(num_classes, name=name, **{**defaults, **kwargs})
    return load_weights_file(model, weights)


def RANetImageNetWide(
    num_classes: int = 1000,
    weights: str | None = None,
    name: str = "ranet_imagenet_wide",
    **kwargs,
) -> RANet:
    """Returns the authors' second ImageNet network, with 32 channels.

    Args:
        num_classes: Number of classes.
        weights: `None` for random weights, or the path of a `.weights.h5` file of a
            model with the same arguments.
        **kwargs: Further arguments of `RANet`.
    """
    defaults = dict(
        step=8,
        scale_list=(1, 2, 3, 4),
        channels=32,
        growth_rate=16,
        growth_factors=(4, 2, 2, 1),
        bottleneck_factors=(4, 2, 2, 1),
        stem="imagenet",
        preprocessing="imagenet",
    )
    model = RANet(num_classes, name=name, **{**defaults, **kwargs})
    return load_weights_file(model, weights)
