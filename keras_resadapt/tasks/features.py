"""The task of a network without a classifier."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_resadapt.heads.classifier import coarsest
from keras_resadapt.layers.block import Block
from keras_resadapt.tasks.task import Task

POOLINGS = (None, "avg", "max")


@keras.saving.register_keras_serializable("keras_resadapt")
class Features(Task):
    """Features of images, as a network with `include_top=False` returns them.

    Outputs are the coarsest features of the backbone, in float32: of shape
    (batch, height, width, channels), or (batch, channels) with `pooling`.

    Args:
        pooling: None, `"avg"` or `"max"`: the global pooling of the features.

    Raises:
        ValueError: `pooling` is none of these.
    """

    def __init__(self, pooling: str | None = None):
        if pooling not in POOLINGS:
            raise ValueError(
                f"`pooling` must be one of {POOLINGS}. Received: pooling={pooling!r}"
            )
        self.pooling = pooling

    def head(self, layers, strides) -> Block:
        return _Pooling(self.pooling, name="head")

    def make_loss(self, loss: Any = None) -> Callable | None:
        if loss is None or isinstance(loss, keras.losses.Loss):
            return loss
        raise ValueError(
            "Features have no labels of their own: `loss` must be an instance of "
            f"`keras.losses.Loss` of features. Received: loss={loss!r}"
        )

    def response(self, outputs: Any, class_names: Sequence[str] | None = None) -> dict:
        return {"features": outputs}

    def get_config(self) -> dict[str, Any]:
        return {"pooling": self.pooling}


class _Pooling(Block):
    """Global pooling of the coarsest features, or none."""

    def __init__(self, pooling, **kwargs):
        super().__init__(**kwargs)
        self.pooling = pooling

    def call(self, pyramid, point, training=None):
        x = ops.cast(coarsest(pyramid), "float32")
        if self.pooling == "avg":
            x = ops.mean(x, axis=(1, 2))
        elif self.pooling == "max":
            x = ops.max(x, axis=(1, 2))
        return x
