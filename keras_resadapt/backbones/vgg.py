"""VGG with BatchNormalization (Simonyan and Zisserman, 2014)."""

from collections.abc import Sequence

import keras

from keras_resadapt.backbones.backbone import Backbone, check_stages, check_stem
from keras_resadapt.layers import Block, ConvBlock, LayerSet


class PooledConvBlock(Block):
    """A `ConvBlock` and a 2x2 max pooling."""

    def __init__(self, filters, layers, **kwargs):
        super().__init__(**kwargs)
        self.conv = ConvBlock(filters, 3, 1, layers, name="conv")
        self.pool = keras.layers.MaxPooling2D(2)

    def call(self, inputs, point, training=None):
        return point.call(self.pool, self.conv(inputs, point=point))


@keras.saving.register_keras_serializable("keras_resadapt")
class VGG(Backbone):
    """VGG without the dense layers, with BatchNormalization.

    Args:
        depths: Number of 3x3 convolutions a stage. (2, 2, 3, 3, 3) is VGG-16.
        filters: Channels a stage.
        stem: `"imagenet"` pools after every stage, `"small"` not after the
            first and the last, for pictures of 32 or 64 pixels.
        layers: The layers to build it from.

    Call arguments:
        inputs: Float tensor of shape (batch, height, width, 3).
        point: The operating point.

    Reference:
        Very Deep Convolutional Networks for Large-Scale Image Recognition
        (https://arxiv.org/abs/1409.1556).
    """

    def __init__(
        self,
        depths: Sequence[int] = (2, 2, 3, 3, 3),
        filters: Sequence[int] = (64, 128, 256, 512, 512),
        stem: str = "imagenet",
        layers: LayerSet = LayerSet(),
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_stages(depths, filters=filters)
        check_stem(stem)
        self.depths = tuple(depths)
        self.filters = tuple(filters)
        self.stem = stem

        last = len(depths) - 1
        self.stride = 1
        self.stages = []
        for i, (depth, width) in enumerate(zip(depths, filters)):
            pooled = stem == "imagenet" or i not in (0, last)
            stage = [
                ConvBlock(
                    width,
                    3,
                    1,
                    layers if i or j else layers.first(),
                    name=f"stage{i + 1}_{j}",
                )
                for j in range(depth - pooled)
            ]
            if pooled:
                stage.append(
                    PooledConvBlock(
                        width,
                        layers if i or stage else layers.first(),
                        name=f"stage{i + 1}_{depth - 1}",
                    )
                )
                self.stride *= 2
            self.stages.append(stage)

    def get_config(self):
        return {
            **super().get_config(),
            "depths": self.depths,
            "filters": self.filters,
            "stem": self.stem,
        }
