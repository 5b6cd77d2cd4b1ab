"""What every backbone is: a stem, a list of stages, and layers to choose."""

from collections.abc import Sequence

from keras_resadapt.layers import Block, LayerSet
from keras_resadapt.points.operating_point import OperatingPoint

STEMS = ("imagenet", "small")


def check_stages(depths: Sequence[int], **others: Sequence) -> None:
    """Raises a `ValueError` unless every argument has an entry a stage."""
    if (
        not depths
        or min(depths) < 1
        or any(len(values) != len(depths) for values in others.values())
    ):
        received = {"depths": depths, **others}
        raise ValueError(
            f"{', '.join(f'`{name}`' for name in received)} must have one "
            "positive entry a stage. Received: "
            f"{', '.join(f'{k}={v}' for k, v in received.items())}"
        )


def check_stem(stem: str) -> None:
    """Raises a `ValueError` for a stem that there is not."""
    if stem not in STEMS:
        raise ValueError(
            f"`stem` must be 'imagenet' or 'small'. Received: stem={stem!r}"
        )


class Backbone(Block):
    """A network from images to features, as a list of stages.

    A stage is a list of blocks that is called as a whole, the first one is
    the stem; a family that works stage by stage calls `run_stage`.

    `get_config` holds the architecture alone. A model chooses the layers:
    `backbone.with_layers(LayerSet(norm=...))`.

    Attributes:
        stages: List of lists of blocks.
        stride: Input pixels per feature pixel.
        non_negative: Whether no stage gives values below 0.
        normalizes_first: Whether what a stage takes goes through a
            normalization and an activation before its convolutions.
    """

    stages: list[list[Block]]
    stride: int
    non_negative: bool = True
    normalizes_first: bool = False

    def with_layers(self, layers: LayerSet) -> "Backbone":
        """Returns the same architecture, made of these layers, unbuilt."""
        return type(self)(**self.get_config(), layers=layers)

    def run_stage(self, index: int, inputs, point: OperatingPoint):
        """Runs one stage, 0 for the stem, on the output of the one before."""
        x = inputs
        for block in self.stages[index]:
            x = block(x, point=point)
        return x

    def call(self, inputs, point: OperatingPoint, training=None):
        x = inputs
        for index in range(len(self.stages)):
            x = self.run_stage(index, x, point)
        return x
