"""VGG with BatchNormalization (Simonyan and Zisserman, 2014)."""

from collections.abc import Sequence

import keras

from keras_resadapt.backbones.backbone import (
    Backbone,
    check_stages,
    check_stem,
    level_name,
)
from keras_resadapt.layers import Block, LayerSet
from keras_resadapt.layers.conv_block import ConvBlock


class Pooling(Block):
    """A 2x2 max pooling."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.pool = keras.layers.MaxPooling2D(2)

    def call(self, inputs, point, training=None):
        return point.call(self.pool, inputs)


@keras.saving.register_keras_serializable("keras_resadapt")
class VGG(Backbone):
    """VGG without the dense layers, with BatchNormalization.

    Args:
        depths: Number of 3x3 convolutions of each stage. (2, 2, 3, 3, 3) is VGG-16.
        filters: Channels of each stage.
        stem: `"imagenet"` pools after every stage, `"small"` after all but the first
            and the last stage, for images of 32 or 64 pixels.
        layers: The constructors of its layers.

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
        stride = 1
        self.stages = []
        self.stage_strides = []
        for i, (depth, width) in enumerate(zip(depths, filters)):
            stage = [
                ConvBlock(
                    width,
                    3,
                    1,
                    layers if i or j else layers.first(),
                    name=f"stage{i + 1}_{j}",
                )
                for j in range(depth)
            ]
            if stem == "imagenet" or i not in (0, last):
                stage.append(Pooling(name=f"stage{i + 1}_pool"))
                stride *= 2
            self.stages.append(stage)
            self.stage_strides.append(stride)

    def run_levels(self, inputs, point):
        """Yields the last convolution of each stride, and the last pooling.

        These are the features that detectors take: of VGG-16, those before the
        poolings (`"P2"` to `"P4"` are the last of the third to the fifth stage), and
        `"P5"` after the last one.
        """
        x, stride = inputs, 1
        for stage in self.stages:
            for block in stage:
                if isinstance(block, Pooling):
                    yield stride, x
                    stride *= 2
                x = block(x, point=point)
            yield stride, x

    @property
    def level_strides(self):
        # Also stride 1, before the first pooling
        return {level_name(s): s for s in dict.fromkeys([1, *self.stage_strides])}

    def get_config(self):
        return {
            **super().get_config(),
            "depths": self.depths,
            "filters": self.filters,
            "stem": self.stem,
        }
