"""Global pooling and a dense layer."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_resadapt.layers.block import Block, LayerSet


def coarsest(pyramid: Mapping[str, Any]) -> Any:
    """Returns the features of the largest stride, the output of a backbone.

    Args:
        pyramid: Features by level, from fine to coarse.
    """
    return list(pyramid.values())[-1]


class ClassifierHead(Block):
    """Global average pooling of the coarsest features, and a dense layer.

    Args:
        num_classes: Number of classes.
        kernel_initializer: Initializer of the dense layer's kernel.
        layers: The layers that it is made of.

    Call arguments:
        pyramid: Features by level, from fine to coarse, each of shape
            (batch, height, width, channels).
        point: The operating point.

    Returns:
        float32 logits of shape (batch, classes).
    """

    def __init__(
        self,
        num_classes: int,
        kernel_initializer: str | dict | keras.Initializer = "glorot_uniform",
        layers: LayerSet = LayerSet(),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.pool = keras.layers.GlobalAveragePooling2D(name="pool")
        self.classifier = layers.dense(
            num_classes, kernel_initializer=kernel_initializer, name="classifier"
        )

    def call(self, pyramid, point, training=None):
        x = self.pool(coarsest(pyramid))
        # Probabilities and losses need more than 16 bits.
        return ops.cast(point.call(self.classifier, x), "float32")
