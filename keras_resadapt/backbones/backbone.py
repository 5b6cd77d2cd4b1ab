"""The base class of backbones: a stem and a list of stages."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_resadapt.layers import Block, LayerSet
from keras_resadapt.layers.arguments import with_plain_arguments
from keras_resadapt.points import OperatingPoint, RecordingPoint
from keras_resadapt.points.recording import symbolic_call

STEMS = ("imagenet", "small")


def check_stages(depths: Sequence[int], **others: Sequence) -> None:
    """Raises a `ValueError` unless every argument has one entry per stage."""
    if (
        not depths
        or min(depths) < 1
        or any(len(values) != len(depths) for values in others.values())
    ):
        received = {"depths": depths, **others}
        raise ValueError(
            f"{', '.join(f'`{name}`' for name in received)} must have one "
            "positive entry per stage. Received: "
            f"{', '.join(f'{k}={v}' for k, v in received.items())}"
        )


def check_stem(stem: str) -> None:
    """Raises a `ValueError` for an unknown stem."""
    if stem not in STEMS:
        raise ValueError(
            f"`stem` must be 'imagenet' or 'small'. Received: stem={stem!r}"
        )


def check_backbone(backbone) -> None:
    """Raises a `TypeError` unless an argument is a backbone."""
    if not isinstance(backbone, Backbone):
        raise TypeError(
            "`backbone` must be a `keras_resadapt.backbones.Backbone`, such as "
            f"`backbones.ResNet()`. Received: backbone={backbone!r}"
        )


@dataclasses.dataclass(frozen=True)
class Level:
    """What is known of the features of one level before the backbone runs.

    Attributes:
        channels: Number of channels.
        stride: Input pixels per feature pixel, along height and width.
    """

    channels: int
    stride: int


class Backbone(Block):
    """A network from images to features, as a list of stages.

    A stage is a list of blocks that is called as a whole, the first one is the stem.
    A family that works stage by stage calls `run_stage`.

    The pyramid of a backbone holds its features by level: level `"P3"` has a stride
    of 2^3 pixels. It is the last output of that stride, so that the coarsest level
    is the output of the backbone itself.

    `get_config` holds the architecture alone. A model chooses the layers:
    `backbone.with_layers(LayerSet(norm=...))`.

    Call arguments:
        inputs: Float tensor of shape (batch, height, width, 3).
        point: The operating point; by default `OperatingPoint()`, which suits plain
            layers, because they depend on no axis.
        training: Whether normalizations use the statistics of the batch.
        pyramid: Whether to return the pyramid instead of its coarsest level.

    Attributes:
        stages: List of lists of blocks.
        stage_strides: Stride of the output of each stage.
        non_negative: Whether no stage returns values below 0.
        normalizes_first: Whether a stage's inputs go through a normalization and an
            activation before its convolutions.
    """

    stages: list[list[Block]]
    stage_strides: list[int]
    non_negative: bool = True
    normalizes_first: bool = False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = with_plain_arguments(cls.__init__)

    @property
    def stride(self) -> int:
        """Input pixels per pixel of the output."""
        return self.stage_strides[-1]

    @property
    def level_strides(self) -> dict[str, int]:
        """Stride of each level of the pyramid, from fine to coarse."""
        return {level_name(s): s for s in dict.fromkeys(self.stage_strides)}

    def with_layers(self, layers: LayerSet) -> "Backbone":
        """Returns the same architecture, made of these layers, unbuilt."""
        config = self.get_config()
        # The network that it becomes a part of has a policy of its own.
        config.pop("dtype", None)
        return type(self)(**config, layers=layers)

    def run_stage(self, index: int, inputs, point: OperatingPoint):
        """Runs one stage, 0 for the stem, on the output of the previous stage."""
        x = inputs
        for block in self.stages[index]:
            x = block(x, point=point)
        return x

    def run_levels(self, inputs, point: OperatingPoint) -> Iterator[tuple[int, Any]]:
        """Yields (stride, features) after every part of the backbone that has some.

        By default, after every stage. The last features of a stride are those of
        its level.
        """
        x = inputs
        for index, stride in enumerate(self.stage_strides):
            x = self.run_stage(index, x, point)
            yield stride, x

    def call(
        self,
        inputs,
        point: OperatingPoint | None = None,
        training=None,
        pyramid: bool = False,
    ):
        point = OperatingPoint() if point is None else point
        features = {
            level_name(stride): x for stride, x in self.run_levels(inputs, point)
        }
        return features if pyramid else list(features.values())[-1]

    def pyramid(self, inputs, point: OperatingPoint | None = None, training=None):
        """Returns the features by level, such as `{"P2": ..., "P3": ...}`.

        Args:
            inputs, point, training: As for a call.
        """
        return self(inputs, point=point, training=training, pyramid=True)

    def levels(
        self, point: OperatingPoint | None = None, resolution: int | None = None
    ) -> dict[str, Level]:
        """Returns channels and stride of every level, without running the backbone.

        Args:
            point: The operating point.
            resolution: Height and width of the images in pixels, by default the
                point's, or the stride of the backbone.
        """
        point = OperatingPoint() if point is None else point
        size = resolution or point.resolution or self.stride
        recorder = point.interpreted_by(RecordingPoint)
        features = symbolic_call(
            # Training needs no running statistics.
            lambda images: self.pyramid(images, recorder, training=True),
            keras.KerasTensor((1, size, size, 3)),
        )
        return {
            name: Level(x.shape[-1], self.level_strides[name])
            for name, x in features.items()
        }


def level_name(stride: int) -> str:
    """Returns the name of the level of a stride, `"P3"` for 8 pixels."""
    return f"P{stride.bit_length() - 1}"
